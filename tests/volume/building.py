"""What the volume tests do all the time, in one line each."""

from __future__ import annotations

import random
from pathlib import Path

from afs.errors import AfsCode, AfsError
from afs.types import DirectoryEntry, Fid, SetStatus, Vnode, root_fid
from afs.volume.volume import (
    CreateFile,
    MakeDir,
    MakeSymlink,
    Mutation,
    Outcome,
    StagedData,
    StoreData,
    Volume,
)

MIB = 1024 * 1024
UNCHANGED = SetStatus()


class WallClock:
    """A wall clock that a test moves; by itself it moves with every look."""

    def __init__(self, now_ns: int = 1_000_000_000, tick_ns: int = 1000) -> None:
        self.now_ns = now_ns
        self.tick_ns = tick_ns

    def __call__(self) -> int:
        """The time, nanoseconds since the Unix epoch."""
        self.now_ns += self.tick_ns
        return self.now_ns


def noise(length: int, seed: int = 0) -> bytes:
    """Bytes that nothing repeats in, the same for the same arguments."""
    return random.Random(f"{length}/{seed}").randbytes(length)


def do(volume: Volume, mutation: Mutation) -> Outcome:
    """The outcome of one change; raises its AfsError."""
    [answer] = volume.apply([mutation])
    if isinstance(answer, AfsError):
        raise answer
    return answer


def refusal(volume: Volume, mutation: Mutation) -> AfsCode:
    """The code one change is refused with; fails the test if it is not."""
    [answer] = volume.apply([mutation])
    assert isinstance(answer, AfsError), f"{mutation} was not refused"
    return answer.code


def the_vnode(outcome: Outcome) -> Vnode:
    """The vnode a change was about."""
    assert outcome.vnode is not None
    return outcome.vnode


def make_file(volume: Volume, name: str, directory: Fid | None = None, data: bytes = b"") -> Fid:
    """A new file with data."""
    where = root_fid(volume.volume_id) if directory is None else directory
    fid = the_vnode(do(volume, CreateFile(where, name))).fid
    if data:
        store(volume, fid, data)
    return fid


def make_files(volume: Volume, directory: Fid, files: dict[str, bytes]) -> dict[str, Fid]:
    """Many new files with data, made in two commits."""
    made = volume.apply([CreateFile(directory, name) for name in files])
    fids = [the_vnode(outcome).fid for outcome in made if isinstance(outcome, Outcome)]
    staged = [stage(volume, fid, data) for fid, data in zip(fids, files.values(), strict=True)]
    stored = volume.apply([StoreData(*pair) for pair in zip(fids, staged, strict=True)])
    assert all(isinstance(answer, Outcome) for answer in stored)
    return dict(zip(files, fids, strict=True))


def make_dir(volume: Volume, name: str, directory: Fid | None = None) -> Fid:
    """A new directory."""
    where = root_fid(volume.volume_id) if directory is None else directory
    return the_vnode(do(volume, MakeDir(where, name))).fid


def make_symlink(volume: Volume, name: str, target: str) -> Fid:
    """A new symbolic link in the root directory."""
    return the_vnode(do(volume, MakeSymlink(root_fid(volume.volume_id), name, target))).fid


def stage(volume: Volume, fid: Fid, data: bytes, offset: int = 0) -> StagedData:
    """Staged data, finished."""
    staged = volume.stage(fid, offset)
    staged.write(data)
    staged.finish()
    return staged


def store(
    volume: Volume,
    fid: Fid,
    data: bytes,
    offset: int = 0,
    *,
    truncate_to: int | None = None,
    set_status: SetStatus = UNCHANGED,
    expected_data_version: int | None = None,
) -> Outcome:
    """Stores data; a refusal is raised, and the data then discarded."""
    staged = stage(volume, fid, data, offset)
    try:
        return do(volume, StoreData(fid, staged, truncate_to, set_status, expected_data_version))
    finally:
        staged.discard()


def contents(volume: Volume, fid: Fid) -> bytes:
    """All of a file's data."""
    with volume.snapshot(fid) as snapshot:
        return snapshot.read(0, snapshot.vnode.length + 1)


def listing(volume: Volume, directory: Fid | None = None) -> dict[str, DirectoryEntry]:
    """A directory's entries by name."""
    where = root_fid(volume.volume_id) if directory is None else directory
    return {entry.name: entry for entry in volume.entries(where, "", 1_000_000)}


def code_of(error: BaseException) -> AfsCode:
    """The AFS code of an error that was raised."""
    assert isinstance(error, AfsError)
    return error.code


def collect_all(volume: Volume) -> None:
    """Collects until there is nothing more to collect."""
    while volume.collect():
        pass


def chunk_files(partition: Path) -> list[Path]:
    """All chunks on a partition."""
    return sorted(path for path in partition.glob("groups/*/chunks/*/*") if path.is_file())


def staged_files(partition: Path) -> list[Path]:
    """All that lies in the partition's staging folders."""
    return sorted(partition.glob("groups/*/staging/*"))


def flip_byte(path: Path, offset: int) -> None:
    """Damages one byte of a file (a negative offset: from its end)."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)
