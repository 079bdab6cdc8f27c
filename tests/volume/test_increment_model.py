"""Any sequence of changes, sent in any rounds: what arrives is what there is, and it is sound."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES
from afs.types import Fid, SetStatus, VnodeType, VolumeType, root_fid
from afs.volume.dump import dump_pieces
from afs.volume.partition import Partition
from afs.volume.restore import restore_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.transfer import Transfer
from afs.volume.verify import check_rows
from afs.volume.volume import (
    CreateFile,
    Link,
    MakeDir,
    MakeSymlink,
    Mutation,
    RemoveDir,
    RemoveFile,
    Rename,
    SetVolumeFields,
    StoreData,
    StoreStatus,
)
from tests.volume.building import chunk_files, collect_all, noise, stage, staged_files
from tests.volume.comparing import contents_only, inside
from tests.volume.sending import send_round

VOLUME_ID, READ_ONLY_ID, COPY_ID = 7, 8, 70
NAMES = st.sampled_from(["a", "b", "c", "ä"])
WHICH = st.integers(0, 7)
SIZES = st.sampled_from([0, 5, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, CHUNK_BYTES + 9])


class SendingMachine(RuleBasedStateMachine):
    """A volume that changes, and three others that follow it by transfers and dumps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="laterfs-sending-"))
        self.here = Partition.open(self.folder / "vicepa", holder="test")
        self.there = Partition.open(self.folder / "vicepb", holder="test")
        self.volume = self.here.create_volume(volume_id=VOLUME_ID, name="v")
        self.moving: Transfer | None = None
        self.since = 0
        self.dumped_at = 0
        self.seed = 0
        self.old_dump = b""

    # --- what changes the volume ---

    @initialize()
    def begin(self) -> None:
        """There is something to begin with."""
        self.apply(MakeDir(root_fid(VOLUME_ID), "a"))
        self.apply(CreateFile(root_fid(VOLUME_ID), "b"))

    def apply(self, mutation: Mutation) -> None:
        """Does a change; a refusal is fine."""
        self.volume.apply([mutation])

    def fids(self, *kinds: VnodeType) -> list[Fid]:
        """The vnodes of some types, by path."""
        found = [root_fid(VOLUME_ID)] if VnodeType.DIRECTORY in kinds else []
        waiting = [root_fid(VOLUME_ID)]
        while waiting:
            for entry in self.volume.entries(waiting.pop(), "", 100):
                if entry.type in kinds:
                    found.append(entry.fid)
                if entry.type is VnodeType.DIRECTORY:
                    waiting.append(entry.fid)
        return found

    def directory(self, which: int) -> Fid:
        """One of the directories."""
        found = self.fids(VnodeType.DIRECTORY)
        return found[which % len(found)]

    @rule(which=WHICH, name=NAMES, kind=st.sampled_from(VnodeType))
    def create(self, which: int, name: str, kind: VnodeType) -> None:
        """Something new."""
        directory = self.directory(which)
        match kind:
            case VnodeType.FILE:
                self.apply(CreateFile(directory, name))
            case VnodeType.DIRECTORY:
                self.apply(MakeDir(directory, name))
            case VnodeType.SYMLINK:
                self.apply(MakeSymlink(directory, name, f"to {name}"))

    @rule(which=WHICH, name=NAMES)
    def remove(self, which: int, name: str) -> None:
        """One name less."""
        self.apply(RemoveFile(self.directory(which), name))
        self.apply(RemoveDir(self.directory(which), name))

    @rule(which=WHICH, name=NAMES, to=WHICH, new_name=NAMES)
    def rename(self, which: int, name: str, to: int, new_name: str) -> None:
        """A name moves, files and directories with all that is in them."""
        self.apply(Rename(self.directory(which), name, self.directory(to), new_name))

    @rule(which=WHICH, name=NAMES)
    def link(self, which: int, name: str) -> None:
        """One more name."""
        if files := self.fids(VnodeType.FILE):
            fid = files[which % len(files)]
            self.apply(Link(self.volume.vnode(fid).parent, name, fid))

    @rule(which=WHICH, size=SIZES)
    def store(self, which: int, size: int) -> None:
        """New data."""
        if files := self.fids(VnodeType.FILE):
            fid = files[which % len(files)]
            self.seed += 1
            self.apply(StoreData(fid, stage(self.volume, fid, noise(size, self.seed)), 0))

    @rule(which=WHICH, mode=st.integers(0, 0o7777))
    def set_mode(self, which: int, mode: int) -> None:
        """Other attributes."""
        self.apply(StoreStatus(self.directory(which), SetStatus(mode=mode)))

    @rule(quota=st.integers(10**5, 10**6))
    def set_quota(self, quota: int) -> None:
        """A change of the header only."""
        self.apply(SetVolumeFields(max_quota_kib=quota))

    @rule()
    @precondition(lambda self: self.old_dump and self.moving is None)
    def go_back(self) -> None:
        """An old state is restored over the volume."""
        self.volume.close()
        self.volume = restore_volume(self.here, [self.old_dump], volume_id=VOLUME_ID, name="v")

    @rule()
    def keep_this_state(self) -> None:
        """What `go_back` goes back to."""
        self.old_dump = b"".join(dump_pieces(self.volume))

    # --- what follows it ---

    @rule()
    def send(self) -> None:
        """One more round of the move."""
        if self.moving is None:
            self.moving = Transfer(
                self.there,
                volume_id=VOLUME_ID,
                name="v",
                type=VolumeType.READ_WRITE,
                read_write_id=VOLUME_ID,
            )
            self.since = 0
        send_round(self.volume, self.moving, self.since)
        self.since = self.volume.header().change_counter

    @rule()
    @precondition(lambda self: self.moving is not None)
    def arrive(self) -> None:
        """The last round of the move; what arrived is compared, and thrown away."""
        self.send()
        assert self.moving is not None
        self.moving.put_in_place(in_transit=True)
        self.moving.close()
        self.moving = None
        self.compare(self.there, VOLUME_ID)
        self.there.delete_volume(VOLUME_ID)

    @rule()
    def release(self) -> None:
        """The read-only volume over there is brought up to date."""
        with Transfer(
            self.there,
            volume_id=READ_ONLY_ID,
            name="v.readonly",
            type=VolumeType.READ_ONLY,
            read_write_id=VOLUME_ID,
        ) as transfer:
            base = transfer.base
            send_round(self.volume, transfer, base.change_counter if base else 0)
            transfer.put_in_place(in_transit=False)
        self.compare(self.there, READ_ONLY_ID)

    @rule()
    def dump(self) -> None:
        """A full dump, or the next increment, restored over the copy."""
        pieces = dump_pieces(self.volume, since=self.dumped_at)
        restore_volume(self.there, pieces, volume_id=COPY_ID, name="copy").close()
        self.dumped_at = self.volume.header().change_counter
        with closing(self.there.open_volume(COPY_ID)) as copy:
            assert contents_only(copy) == contents_only(self.volume)
        check_rows(copy.path)

    def compare(self, partition: Partition, volume_id: int) -> None:
        """Fails unless a volume is what the source is, and sound."""
        with closing(partition.open_volume(volume_id)) as volume:
            assert inside(volume) == inside(self.volume)
            mine, its = self.volume.state, volume.state
            assert mine.next_vnode == its.next_vnode
            assert mine.next_uniquifier == its.next_uniquifier
            assert mine.max_data_version == its.max_data_version
            for name in ("incarnation", "change_counter", "used_kib", "file_count"):
                assert getattr(mine.header, name) == getattr(its.header, name)
        check_rows(volume.path)

    @invariant()
    def nothing_is_left_in_staging(self) -> None:
        """Between two steps nothing is staged."""
        assert staged_files(self.folder) == []

    def teardown(self) -> None:
        """In the end no chunk is left over."""
        if self.moving is not None:
            self.moving.close()
        self.check_chunks()
        self.volume.close()
        self.here.close()
        self.there.close()
        shutil.rmtree(self.folder)

    def check_chunks(self) -> None:
        """Fails unless the chunks over there are exactly those of the volumes there."""
        used: set[str] = set()
        for volume_id in self.there.volumes():
            with closing(self.there.open_volume(volume_id)) as volume:
                collect_all(volume)
                used |= hashes_of(volume)
        assert {path.name for path in chunk_files(self.folder / "vicepb")} == used


def hashes_of(volume: SqliteVolume) -> set[str]:
    """The chunks a volume's files have."""
    with volume.reading() as moment:
        return {row[0].hex() for row in moment.connection.execute("SELECT hash FROM chunks")}


TestSending = pytest.mark.slow(SendingMachine.TestCase)
TestSending.settings = settings(
    max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
