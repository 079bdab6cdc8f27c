"""The volume: its vnodes, directory entries, data and header, and every change to them.

Theory of operation
    A `Volume` is synchronous and safe to call from several threads; it may block on the disk, so an
    event loop calls it through threads (`GroupCommit` for changes), with one exception:
    `cached_vnode` never blocks.

    A change is a value (`CreateFile`, `StoreData`, …). `apply` takes a batch of them and commits it
    as one transaction, each change succeeding or failing by itself; when it returns, the batch is
    on disk. Data is staged first (`stage`): full chunks go to disk while they arrive, and become
    part of the file only with the commit of a `StoreData`, all or nothing.

    A reader of data takes a `DataSnapshot`: the vnode and its data as they were at one moment,
    unmoved by later changes, until it is closed.

    What is read is verified: a chunk or row whose checksum is wrong raises AfsError(EIO) and is
    never served.

Both stores (`sqlite_store`, `memory_store`) share the rules in `namespace` and pass the same test
suite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from afs.errors import AfsError
from afs.types import BreakReason, DirectoryEntry, Fid, SetStatus, Vnode, VolumeHeader

NO_CHANGE: Final = SetStatus()


class StagedData(ABC):
    """New data on its way into a file; bounded memory whatever its size.

    Not thread-safe; used by one writer. After `StoreData` was applied, or on `discard`, it is
    spent.
    """

    offset: int
    length: int

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Appends data; blocks on the disk.

        Raises:
            AfsError: VDISKFULL; VOVERQUOTA as soon as the quota would be exceeded; EFBIG beyond
                MAX_FILE_BYTES.
        """

    @abstractmethod
    def finish(self) -> None:
        """Makes all staged chunks durable; blocks on the disk.

        Called once, before the change is applied.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forgets the data; a no-op when spent."""


class DataSnapshot(ABC):
    """A file's status and data at one moment."""

    vnode: Vnode

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end of the data.

        Raises:
            AfsError: EIO if the stored data is damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go of the data; a no-op when closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class CreateFile:
    """Makes an empty file. EEXIST if the name is taken."""

    directory: Fid
    name: str
    set_status: SetStatus = NO_CHANGE


@dataclass(frozen=True, slots=True)
class MakeDir:
    """Makes an empty directory. EEXIST if the name is taken."""

    directory: Fid
    name: str
    set_status: SetStatus = NO_CHANGE


@dataclass(frozen=True, slots=True)
class MakeSymlink:
    """Makes a symbolic link with the given target. EEXIST if the name is taken."""

    directory: Fid
    name: str
    target: str
    set_status: SetStatus = NO_CHANGE


@dataclass(frozen=True, slots=True)
class Link:
    """Gives a file of the same directory one more name.

    EXDEV across directories, EISDIR for a directory.
    """

    directory: Fid
    name: str
    target: Fid


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Takes a name of a file or symbolic link away; the last one takes the vnode along.

    EISDIR for a directory.
    """

    directory: Fid
    name: str


@dataclass(frozen=True, slots=True)
class RemoveDir:
    """Removes an empty directory. ENOTEMPTY, ENOTDIR."""

    directory: Fid
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Moves a name, replacing what the new name stands for as rename(2) does.

    EISDIR/ENOTDIR/ENOTEMPTY as rename(2); EINVAL for a directory moved into itself; EXDEV for a
    file with several links moved to another directory; EACCES if something would be replaced and
    must not be.
    """

    old_directory: Fid
    old_name: str
    new_directory: Fid
    new_name: str
    may_replace: bool = True


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Sets attributes; a set length truncates or extends the file."""

    fid: Fid
    set_status: SetStatus


@dataclass(frozen=True, slots=True)
class StoreAcl:
    """Gives a directory another access list, in the form in which it is kept. ENOTDIR."""

    directory: Fid
    acl: str


@dataclass(frozen=True, slots=True)
class StoreData:
    """Puts staged data into a file, after an optional truncation, and sets attributes, in one step.

    EAGAIN if `expected_data_version` is given and is not the file's.
    """

    fid: Fid
    staged: StagedData
    truncate_to: int | None = None
    set_status: SetStatus = NO_CHANGE
    expected_data_version: int | None = None


@dataclass(frozen=True, slots=True)
class SetVolumeFields:
    """Changes the header: None leaves a field as it is.

    The change counter grows, unless only `in_transit` is set or the volume is not read-write: then
    nothing that it counts has changed.
    """

    name: str | None = None
    max_quota_kib: int | None = None
    backup_id: int | None = None
    offline_message: str | None = None
    leave_offline: bool | None = None
    in_transit: bool | None = None


Mutation = (
    CreateFile
    | MakeDir
    | MakeSymlink
    | Link
    | RemoveFile
    | RemoveDir
    | Rename
    | StoreStatus
    | StoreAcl
    | StoreData
    | SetVolumeFields
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a committed change did.

    `vnode` is the vnode it was about, after the change (None for SetVolumeFields); one that is gone
    has link_count 0. `directory` and `new_directory` are the directories after the change, where
    there are any (`new_directory` only for Rename across directories). `changed` lists every vnode
    whose callbacks must be broken, each once, with the reason; a new vnode is not among them. A
    whole-volume Fid among them stands for all of the volume's, at the worker's leisure.
    """

    vnode: Vnode | None
    directory: Vnode | None = None
    new_directory: Vnode | None = None
    changed: tuple[tuple[Fid, BreakReason], ...] = ()


class Volume(ABC):
    """One open volume. See the module's theory of operation.

    Every method raises AfsError(VNOVNODE) for a Fid that names no vnode (a wrong uniquifier
    included), ENOTDIR or EISDIR for one of the wrong type, EIO for damage, VIO for a failing disk,
    VOFFLINE after `close`.
    """

    volume_id: int

    @abstractmethod
    def header(self) -> VolumeHeader:
        """The header as of the last commit; never blocks."""

    @abstractmethod
    def cached_vnode(self, fid: Fid) -> Vnode | None:
        """The vnode if it is in memory; None says nothing about whether it exists. Never blocks."""

    @abstractmethod
    def vnode(self, fid: Fid) -> Vnode:
        """The vnode."""

    @abstractmethod
    def lookup(self, directory: Fid, name: str) -> Vnode:
        """The vnode that `name` stands for in `directory`. ENOENT if there is none.

        `.` and `..` are EINVAL.
        """

    @abstractmethod
    def entries(self, directory: Fid, after: str, limit: int) -> list[DirectoryEntry]:
        """Up to `limit` entries whose names sort after `after`, in order of their UTF-8 bytes."""

    @abstractmethod
    def read_link(self, fid: Fid) -> str:
        """The target of a symbolic link. EINVAL for anything else."""

    @abstractmethod
    def snapshot(self, fid: Fid, offset: int = 0, length: int | None = None) -> DataSnapshot:
        """The file's status and data at this moment.

        EISDIR for a directory, EINVAL for a symbolic link. With `offset` and `length` (bytes; None:
        to the end) only that range may be read from it, which for a part of a huge file is much
        cheaper.
        """

    @abstractmethod
    def stage(self, fid: Fid, offset: int) -> StagedData:
        """Begins new data for a file at `offset` bytes. EROFS unless the volume is read-write."""

    @abstractmethod
    def apply(self, mutations: Sequence[Mutation]) -> list[Outcome | AfsError]:
        """Commits a batch, each change by itself good or bad; durable on return.

        Answers one by one, in order. A change to a volume that is not read-write answers EROFS
        (SetVolumeFields is allowed on any). If the commit itself fails (full or failing disk),
        every change is answered with that error and none has happened.
        """

    def collect(self) -> bool:
        """Frees some of the space that earlier changes left unused; True: there is more to do.

        Blocks on the disk, briefly. To be called by and by when the volume is idle; `GroupCommit`
        does.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Syncs, marks the volume as cleanly detached and lets go of it. A no-op when closed."""
