"""Any sequence of changes, over both stores at once, against a naive model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES
from afs.types import Fid, SetStatus, VnodeType, VolumeType, root_fid
from afs.volume.memory_store import MemoryVolume
from afs.volume.partition import Partition
from afs.volume.verify import check_rows
from afs.volume.volume import (
    CreateFile,
    Link,
    MakeDir,
    MakeSymlink,
    Mutation,
    Outcome,
    RemoveDir,
    RemoveFile,
    Rename,
    StoreData,
    StoreStatus,
    Volume,
)
from tests.volume.building import WallClock, collect_all, noise, stage
from tests.volume.naive_model import NaiveVolume, Node, compare

VOLUME_ID = 7
NAMES = st.sampled_from(["a", "b", "c", "ä"])
SIZES = st.sampled_from(
    [
        0,
        1,
        100,
        INLINE_MAX_BYTES,
        INLINE_MAX_BYTES + 1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 9,
    ]
)


class NamespaceMachine(RuleBasedStateMachine):
    """Every rule does one change to the model and to both volumes, and compares the answers."""

    nodes: Bundle[Node] = Bundle("nodes")

    def __init__(self) -> None:
        super().__init__()
        self.model = NaiveVolume()
        self.folder = Path(tempfile.mkdtemp(prefix="laterfs-model-"))
        self.partition = Partition.open(self.folder / "vicepa", holder="test")
        self.clock = WallClock(tick_ns=0)
        self.on_disk = self.partition.create_volume(
            volume_id=VOLUME_ID, name="v", clock_ns=self.clock
        )
        self.in_memory = MemoryVolume.create(VOLUME_ID, "v", clock_ns=self.clock)
        self.fids: dict[Node, Fid] = {self.model.root: root_fid(VOLUME_ID)}
        self.given = {root_fid(VOLUME_ID)}
        self.changes = 0

    @property
    def volumes(self) -> list[Volume]:
        """Both volumes."""
        return [self.on_disk, self.in_memory]

    @initialize(target=nodes)
    def begin(self) -> Node:
        """There is the root."""
        return self.model.root

    @rule(
        target=nodes,
        directory=nodes,
        name=NAMES,
        kind=st.sampled_from([VnodeType.DIRECTORY, VnodeType.FILE, VnodeType.SYMLINK]),
    )
    def create(self, directory: Node, name: str, kind: VnodeType) -> Node:
        """Something new."""
        where = self.fids[directory]
        data = b"target" if kind is VnodeType.SYMLINK else b""
        mutations: dict[VnodeType, Mutation] = {
            VnodeType.DIRECTORY: MakeDir(where, name),
            VnodeType.FILE: CreateFile(where, name),
            VnodeType.SYMLINK: MakeSymlink(where, name, "target"),
        }
        expected = self.model.create(directory, name, kind, data)
        answers = [volume.apply([mutations[kind]])[0] for volume in self.volumes]
        self._compare_answers(answers, expected)
        if isinstance(answers[0], AfsError):
            return directory
        assert answers[0].vnode is not None
        fid = answers[0].vnode.fid
        assert fid not in self.given
        self.given.add(fid)
        node = directory.entries[name]
        self.fids[node] = fid
        return node

    @rule(directory=nodes, name=NAMES, node=nodes)
    def link(self, directory: Node, name: str, node: Node) -> None:
        """One more name."""
        mutation = Link(self.fids[directory], name, self.fids[node])
        self._apply(mutation, self.model.link(directory, name, node))

    @rule(directory=nodes, name=NAMES)
    def remove_file(self, directory: Node, name: str) -> None:
        """One name less."""
        self._apply(RemoveFile(self.fids[directory], name), self.model.remove_file(directory, name))

    @rule(directory=nodes, name=NAMES)
    def remove_dir(self, directory: Node, name: str) -> None:
        """One directory less."""
        self._apply(RemoveDir(self.fids[directory], name), self.model.remove_dir(directory, name))

    @rule(source=nodes, name=NAMES, goal=nodes, new_name=NAMES)
    def rename(self, source: Node, name: str, goal: Node, new_name: str) -> None:
        """Another name, perhaps elsewhere."""
        mutation = Rename(self.fids[source], name, self.fids[goal], new_name)
        self._apply(mutation, self.model.rename(source, name, goal, new_name))

    @rule(node=nodes, length=SIZES)
    def resize(self, node: Node, length: int) -> None:
        """Another length."""
        mutation = StoreStatus(self.fids[node], SetStatus(length=length))
        self._apply(mutation, self.model.resize(node, length))

    @rule(
        node=nodes,
        length=SIZES,
        offset=SIZES,
        truncate_to=st.none() | SIZES,
        seed=st.integers(0, 1),
    )
    def store(
        self, node: Node, length: int, offset: int, truncate_to: int | None, seed: int
    ) -> None:
        """Other data."""
        data = noise(length, seed)
        expected = self.model.store(node, data, offset, truncate_to)
        answers: list[Outcome | AfsError] = []
        for volume in self.volumes:
            try:
                staged = stage(volume, self.fids[node], data, offset)
            except AfsError as error:
                answers.append(error)
                continue
            answers.append(volume.apply([StoreData(self.fids[node], staged, truncate_to)])[0])
            staged.discard()
        self._compare_answers(answers, expected)

    @rule()
    def collect(self) -> None:
        """Garbage goes."""
        for volume in self.volumes:
            collect_all(volume)

    @rule()
    def clone(self) -> None:
        """A clone holds the same."""
        self.partition.clone_volume(
            self.on_disk, volume_id=9, name="v.backup", type=VolumeType.BACKUP
        )
        clone = self.partition.open_volume(9)
        compare(clone, self.model)
        clone.close()

    @rule()
    def reopen(self) -> None:
        """Closed and opened again, it is the same."""
        before = self.on_disk.state
        self.on_disk.close()
        self.on_disk = self.partition.open_volume(VOLUME_ID, clock_ns=self.clock)
        assert self.on_disk.state == before

    @invariant()
    def same(self) -> None:
        """Both volumes hold what the model holds; looked at now and then, as it takes long."""
        self.changes += 1
        self.clock.now_ns += 1
        for volume in self.volumes if self.changes % 4 == 0 else []:
            compare(volume, self.model)

    def teardown(self) -> None:
        """At the end the database is sound, row by row."""
        compare(self.on_disk, self.model)
        compare(self.in_memory, self.model)
        self.on_disk.close()
        check_rows(self.on_disk.path)
        self.partition.close()
        shutil.rmtree(self.folder)

    def _apply(self, mutation: Mutation, expected: AfsCode | None) -> None:
        self._compare_answers([volume.apply([mutation])[0] for volume in self.volumes], expected)

    def _compare_answers(
        self, answers: Sequence[Outcome | AfsError], expected: AfsCode | None
    ) -> None:
        codes = [answer.code if isinstance(answer, AfsError) else None for answer in answers]
        assert codes == [expected, expected]
        if expected is None:
            assert answers[0] == answers[1]


TestNamespace = pytest.mark.slow(NamespaceMachine.TestCase)
TestNamespace.settings = settings(
    max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
