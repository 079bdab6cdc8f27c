"""What could not be stored: kept on disk, told to who asks, and given back to be stored later.

Theory of operation
    A store that fails because a fileserver is away leaves a record (`unsent_records`). The file
    stays dirty here, whether or not a program still has it open: who opens it sees what was
    written. `Resending` has it stored when the fileserver is back, also in another life of clientd.

    It is stored only onto the DataVersion that it was written for. If the file has another one by
    then, and not because the store was done after all and its answer lost, the record becomes a
    conflict: the fileserver's file is what programs see, and what they wrote is kept for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from itertools import chain

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.runtime.clock import Clock
from afs.types import Fid, Vnode
from clientd.core.cache import VnodeCache
from clientd.core.dirty_map import DirtyMap
from clientd.core.piece import disk_bytes_of
from clientd.disk_cache import DiskCache
from clientd.journal import Journal
from clientd.local_file import LocalFile
from clientd.unsent_records import UnsentRecord, UnsentRecords, UnsentState, read_ranges

_log = structlog.get_logger(__name__)


class Unsent:
    """The books of what could not be stored.

    Args:
        cache: what was last known of files.
        disk: accounts for the files, and says which volumes' they are.
        clock: when it happened.
        journal: tells.
    """

    def __init__(
        self, *, cache: VnodeCache, disk: DiskCache, clock: Clock, journal: Journal
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._clock = clock
        self._journal = journal
        self._records = UnsentRecords(disk.folder)
        self._waiting: dict[Fid, UnsentRecord] = {}
        self._conflicts: dict[int, UnsentRecord] = {}
        self._last_number = 0

    async def load(self) -> None:
        """Takes over what an earlier life left."""
        for record in await asyncio.to_thread(self._records.load):
            for piece in record.pieces.values():
                await self._disk.reserve(disk_bytes_of(piece.length), at_any_cost=True)
            self._last_number = max(self._last_number, record.number)
            if record.state is UnsentState.WAITING:
                self._waiting[record.fid] = record
            else:
                self._conflicts[record.number] = record
        if self._waiting or self._conflicts:
            _log.info(
                "unsent_stores.found", waiting=len(self._waiting), conflicts=len(self._conflicts)
            )

    # --- asking ---

    def all(self) -> list[UnsentRecord]:
        """Every record, oldest first."""
        both = chain(self._waiting.values(), self._conflicts.values())
        return sorted(both, key=lambda record: record.number)

    def waiting(self) -> list[UnsentRecord]:
        """What is to be stored when that is possible."""
        return list(self._waiting.values())

    @property
    def conflict_count(self) -> int:
        """How many are kept for people."""
        return len(self._conflicts)

    def is_waiting(self, fid: Fid) -> bool:
        """True if something of the file waits to be stored."""
        return fid in self._waiting

    def find(self, number: int) -> UnsentRecord:
        """A record.

        Raises:
            AfsError: ENOENT if there is none of that number.
        """
        for record in self.all():
            if record.number == number:
                return record
        raise AfsError(AfsCode.ENOENT, f"there is no unsent store {number}")

    async def read(self, record: UnsentRecord) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yields what was written, in order, with the places in the file.

        Raises:
            AfsError: EIO if it cannot be read back, or is in memory only.
        """
        if not record.is_on_disk:
            raise AfsError(AfsCode.EIO, f"unsent store {record.number} is in memory only")
        ranges = read_ranges(record, DATA_PIECE_BYTES)
        try:
            while (piece := await asyncio.to_thread(next, ranges, None)) is not None:
                yield piece
        except OSError as error:
            raise AfsError(AfsCode.EIO, f"unsent store {record.number}: {error}") from None

    # --- what happens to files; by who has the file's turn ---

    def restore(self, file: LocalFile) -> None:
        """A file that was just made here is as dirty as its record says, if there is one."""
        record = self._waiting.get(file.fid)
        if record is not None:
            file.map = DirtyMap.of(record.ranges, record.cut, record.reach)
            file.mtime_ns = record.mtime_ns
            file.pieces.restore(record.pieces)
            file.record = record

    async def keep(self, file: LocalFile, reason: str) -> None:
        """What is dirty of a file could not be stored: it is in a record, on disk if possible."""
        record = file.record
        if record is None:
            record = self._new_record(file)
        record.reason = reason
        record.cut, record.reach, record.ranges = file.map.cut, file.map.reach, file.map.ranges()
        record.mtime_ns = file.mtime_ns
        files = await file.pieces.all_in_files()
        if files is not None:
            record.pieces = files
        if files is not None and await self._write(record):
            file.pieces.note_listed(record.pieces.values())
        else:
            # A record that is there already is as good as it was, and so are its files.
            record.is_on_disk = False
            _log.warning("unsent_store.not_on_disk", fid=str(file.fid))
        is_new = file.record is None
        file.record = record
        file.is_kept = True
        self._waiting[file.fid] = record
        if is_new:
            self._tell("store.kept", record, reason)

    async def part_sent(self, file: LocalFile, data_version: int, length: int) -> None:
        """A part of what was kept is stored."""
        record = file.record
        assert record is not None
        record.data_version, record.base_length = data_version, length
        record.cut, record.reach, record.ranges = file.map.cut, file.map.reach, file.map.ranges()
        if record.is_on_disk and record.ranges:
            await self._write(record)

    async def sent(self, file: LocalFile) -> None:
        """All that was kept of a file is stored."""
        record = file.record
        if record is not None:
            await self._drop(file, record)
            self._tell("store.sent", record, "")

    async def given_up(self, file: LocalFile) -> None:
        """What was kept of a file is not wanted any more."""
        record = file.record
        if record is not None:
            await self._drop(file, record)
            self._tell("store.given_up", record, "")

    async def conflicted(self, file: LocalFile, reason: str) -> None:
        """The file was changed by others: what was kept is for people now, and the file clean."""
        record = file.record
        assert record is not None
        record.state, record.reason = UnsentState.CONFLICT, reason
        if record.is_on_disk:
            await self._write(record)
        del self._waiting[file.fid]
        self._conflicts[record.number] = record
        file.record = None
        file.pieces.leave_listed()
        file.drop()
        self._tell("store.conflicted", record, reason)

    async def discard(self, record: UnsentRecord) -> None:
        """A conflict, or what waits and nobody has looked at yet, is not wanted any more."""
        if self._waiting.get(record.fid) is record:
            del self._waiting[record.fid]
        elif self._conflicts.pop(record.number, None) is None:
            return
        await asyncio.to_thread(self._records.remove, record)
        for piece in record.pieces.values():
            self._disk.release(disk_bytes_of(piece.length))
            self._disk.unlink_behind(piece.path)
        self._tell("store.given_up", record, "")

    # --- within ---

    def _new_record(self, file: LocalFile) -> UnsentRecord:
        entry = self._cache.peek(file.fid)
        vnode = entry.status if entry is not None else file.opened
        self._last_number += 1
        return UnsentRecord(
            number=self._last_number,
            fid=file.fid,
            volume=file.volume.name,
            incarnation=self._disk.incarnation(file.fid.volume),
            data_version=vnode.data_version,
            base_length=vnode.length,
            since_ns=self._clock.wall_ns(),
            name=self._name_of(vnode),
        )

    def _name_of(self, vnode: Vnode) -> str:
        """The file's name in its directory, as far as that is cached."""
        directory = self._cache.peek(vnode.parent)
        if directory is None or directory.listing is None:
            return ""
        return directory.listing.name_of(vnode.fid)

    async def _write(self, record: UnsentRecord) -> bool:
        """Writes the record; False if what was there before is there still."""
        try:
            await asyncio.to_thread(self._records.write, record)
        except OSError as error:
            _log.warning("unsent_store.not_written", fid=str(record.fid), error=str(error))
            return False
        record.is_on_disk = True
        return True

    async def _drop(self, file: LocalFile, record: UnsentRecord) -> None:
        await asyncio.to_thread(self._records.remove, record)
        file.pieces.note_listed(())
        file.record = None
        file.is_kept = False
        del self._waiting[file.fid]

    def _tell(self, event: str, record: UnsentRecord, reason: str) -> None:
        self._journal.count(event.replace("store.", "stores_"))
        self._journal.tell(event, fids=(record.fid,), count=record.dirty_bytes)
        _log.warning(event, fid=str(record.fid), number=record.number, why=reason)


def total_bytes(records: Iterable[UnsentRecord]) -> int:
    """What was written in all of them."""
    return sum(record.dirty_bytes for record in records)
