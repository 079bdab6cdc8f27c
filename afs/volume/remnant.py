"""What is left of a volume that moved away: set aside, so that a move back sends little.

The database of such a volume is renamed to `<id>.remnant.db`, its seal likewise. That is no volume:
nothing lists, attaches or serves it. But it still refers to its chunks, so they stay, and a
transfer of the same volume to this partition can build on both. Whoever set it aside removes it
after a while (`volserverd.remnants`).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.runtime.files import fsync_dir
from afs.volume.chunk_store import disk_errors
from afs.volume.flock import FileLock
from afs.volume.partition import Partition
from afs.volume.seal import seal_path
from afs.volume.volume_group import VolumeGroup, settle

_SUFFIX: Final = ".remnant.db"


@dataclass(frozen=True, slots=True)
class Remnant:
    """A volume that was set aside, and when: nanoseconds since the Unix epoch."""

    volume_id: int
    path: Path
    since_ns: int


def remnant_path(group: VolumeGroup, volume_id: int) -> Path:
    """Where the remnant of a volume lies, if there is one."""
    return group.path / f"{volume_id}{_SUFFIX}"


def set_aside(partition: Partition, volume_id: int) -> None:
    """Makes a volume a remnant, over an older one; durable on return.

    Raises:
        AfsError: VNOVOL; VBUSY if it is open; VIO. It is still there then.
    """
    group = partition.group_for(volume_id)
    path = group.database(volume_id)
    if not path.exists():
        raise AfsError(AfsCode.VNOVOL, f"no volume {volume_id} on partition {partition.name}")
    lock = FileLock.take(group.path / f"{volume_id}.lock")
    if lock is None:
        raise AfsError(AfsCode.VBUSY, f"volume {volume_id} is in use by another program")
    try:
        with disk_errors():
            remnant = remnant_path(group, volume_id)
            if remnant.exists():
                group.discard(remnant)
            settle(path)
            seal, its_seal = seal_path(path), seal_path(remnant)
            its_seal.unlink(missing_ok=True)
            with group.chunks.lock(exclusive=True):
                for suffix in ("-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                os.rename(path, remnant)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(seal, its_seal)
            os.utime(remnant)
            fsync_dir(group.path)
            group.chunks.clear_leftovers(str(volume_id))
    finally:
        lock.release(remove=True)


def find_remnant(partition: Partition, volume_id: int) -> Remnant | None:
    """The remnant of a volume on a partition; None if there is none."""
    return next((each for each in remnants(partition) if each.volume_id == volume_id), None)


def remnants(partition: Partition) -> list[Remnant]:
    """All remnants on a partition, oldest first."""
    found = []
    with disk_errors():
        for path in (partition.path / "groups").glob(f"*/*{_SUFFIX}"):
            number = path.name.removesuffix(_SUFFIX)
            if number.isascii() and number.isdigit():
                with contextlib.suppress(FileNotFoundError):
                    found.append(Remnant(int(number), path, path.stat().st_mtime_ns))
    return sorted(found, key=lambda remnant: remnant.since_ns)


def remove_remnant(partition: Partition, remnant: Remnant) -> None:
    """Removes a remnant, and the chunks that only it used; done when it is gone already.

    Raises:
        AfsError: VIO.
    """
    group = partition.group_at(remnant.path.parent)
    with disk_errors():
        if remnant.path.exists():
            group.discard(remnant.path)
        group.remove_if_empty()
