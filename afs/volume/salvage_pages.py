"""Reads the rows of a database that SQLite itself cannot read any more.

Theory of operation
    A page is looked at by itself: what kind of page it is and which cells it has stands on it, and
    a row's own checksum says whether what was decoded is a row of ours. So a damaged page costs the
    rows on it and no others, wherever in the tree it was.

    A page that is free may still have the rows that once were on it, and those must not come back.
    The list of free pages tells. If that is damaged too, only pages that the trees lead to count.

    What is not found in the table of chunks may stand in its index: which positions of which files
    have a chunk. Without that, a position whose row is lost would read as a hole: as zeroes.

Source: the SQLite file format, https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from afs.limits import INLINE_MAX_BYTES, KIB
from afs.volume import sqlite_schema

_HEADER_BYTES: Final = 100
_DEFAULT_PAGE_BYTES: Final = 4096
_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE = 2, 5, 10, 13
_KINDS: Final = frozenset({_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE})
# Our largest row: an inline file and what stands beside it.
_MAX_PAYLOAD_BYTES: Final = INLINE_MAX_BYTES + 4 * KIB
_INTEGER_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_MAX_DEPTH: Final = 64


class RawRow(NamedTuple):
    """What stands in one cell: `in_table` for a table with row numbers, else an index-like one."""

    in_table: bool
    values: tuple[Any, ...]


class _BadCellError(Exception):
    """These bytes are no cell."""


class DatabasePages:
    """A database file, page by page.

    Args:
        path: the file; nobody has it open.

    Attributes:
        damaged_pages: how many pages, or cells of them, could not be read, as far as was read. Two
            or more may have taken a chunk's row from its table and from its index.
        doubtful_pages: how many are, perhaps, left of a long row that was lost.
        truncated: the file ends in the middle of a page, or has fewer pages than it says.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        # The page that was looked at last: it is looked at several times.
        self._last = (0, b"")
        self._header = header = os.pread(self._file.fileno(), _HEADER_BYTES, 0)
        self._sound_header = len(header) == _HEADER_BYTES and header.startswith(
            b"SQLite format 3\0"
        )
        page_bytes = int.from_bytes(header[16:18], "big") if self._sound_header else 0
        page_bytes = 65536 if page_bytes == 1 else page_bytes
        plausible = 512 <= page_bytes <= 65536 and not page_bytes & (page_bytes - 1)
        self._page_bytes = page_bytes if plausible else _DEFAULT_PAGE_BYTES
        self._usable = self._page_bytes - (header[20] if plausible and self._sound_header else 0)
        self._count = self._size // self._page_bytes
        said = int.from_bytes(header[28:32], "big") if self._sound_header else self._count
        self.truncated = bool(self._size % self._page_bytes) or said > self._count
        self.damaged_pages = 0
        self.doubtful_pages = 0
        self._overflow: set[int] = set()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def rows(self) -> Iterator[RawRow]:
        """What stands in the pages that count; much of it may be no row of ours."""
        pages = self._live_pages()
        unknown: list[int] = []
        for number in pages:
            if self._kind(number) in _KINDS:
                yield from self._cells(number)
            else:
                unknown.append(number)
        for number in unknown:
            if number not in self._overflow:
                self.damaged_pages += not self._may_be_overflow(number)
                self.doubtful_pages += self._may_be_overflow(number)

    def _may_be_overflow(self, number: int) -> bool:
        """Whether a page looks like more of a long row: the number of the next one, and data."""
        page = self._page(number)
        return int.from_bytes(page[:4], "big") <= self._count and any(page)

    # --- which pages count ------------------------------------------------------------------------

    def _live_pages(self) -> list[int]:
        free = self._free_pages()
        if free is not None:
            return [number for number in range(2, self._count + 1) if number not in free]
        # The root of the schema is not sound either, or the list of free pages is not.
        self.damaged_pages += 1
        return sorted(self._reachable())

    def _free_pages(self) -> set[int] | None:
        """The pages that the list of free ones names; None if it cannot be."""
        if not self._sound_header:
            return None
        trunk = int.from_bytes(self._header[32:36], "big")
        count = int.from_bytes(self._header[36:40], "big")
        free: set[int] = set()
        while trunk:
            if not 1 < trunk <= self._count or trunk in free:
                return None
            page = self._page(trunk)
            leaves = int.from_bytes(page[4:8], "big")
            if leaves > self._usable // 4 - 2:
                return None
            named = struct.unpack_from(f">{leaves}I", page, 8)
            free.add(trunk)
            free.update(named)
            trunk = int.from_bytes(page[:4], "big")
        return free if len(free) == count and max(free, default=1) <= self._count else None

    def _reachable(self) -> set[int]:
        found: set[int] = set()
        waiting = [(root, 0) for root in self._roots()]
        while waiting:
            number, depth = waiting.pop()
            if not 1 < number <= self._count or number in found or depth > _MAX_DEPTH:
                continue
            found.add(number)
            if self._kind(number) in (_INTERIOR_INDEX, _INTERIOR_TABLE):
                page = self._page(number)
                children = [int.from_bytes(page[8:12], "big")]
                children += [
                    int.from_bytes(page[at : at + 4], "big") for at in self._pointers(number)
                ]
                waiting += [(child, depth + 1) for child in children]
        return found

    def _roots(self) -> list[int]:
        """The roots of tables and indexes, as the schema says, or as a new database has them."""
        roots = [
            row.values[3]
            for row in (self._cells(1) if self._sound_header and self._count else ())
            if len(row.values) == 6 and isinstance(row.values[3], int)
        ]
        return roots or sqlite_schema_roots()

    # --- what stands on them ----------------------------------------------------------------------

    def _page(self, number: int) -> bytes:
        if self._last[0] != number:
            start = (number - 1) * self._page_bytes
            page = b""
            # A sector that the disk cannot read: as if it were empty.
            with contextlib.suppress(OSError):
                page = os.pread(self._file.fileno(), self._page_bytes, start)
            self._last = (number, page.ljust(self._page_bytes, b"\0"))
        return self._last[1]

    def _kind(self, number: int) -> int:
        return self._page(number)[_HEADER_BYTES if number == 1 else 0]

    def _pointers(self, number: int) -> tuple[int, ...]:
        """Where on a page its cells begin."""
        page = self._page(number)
        start = _HEADER_BYTES if number == 1 else 0
        interior = page[start] in (_INTERIOR_INDEX, _INTERIOR_TABLE)
        first = start + (12 if interior else 8)
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        room = (self._usable - first) // 2
        if count > room:
            self.damaged_pages += 1
            return ()
        offsets = struct.unpack_from(f">{count}H", page, first)
        return tuple(offset for offset in offsets if offset + 4 <= self._usable)

    def _cells(self, number: int) -> Iterator[RawRow]:
        kind = page_kind = self._kind(number)
        if kind == _INTERIOR_TABLE:
            return
        page = self._page(number)
        damaged = False
        for pointer in self._pointers(number):
            try:
                row_number = 0
                at = pointer + 4 if page_kind == _INTERIOR_INDEX else pointer
                size, at = _varint(page, at)
                if page_kind == _LEAF_TABLE:
                    row_number, at = _varint(page, at)
                values = _record(self._payload(page, at, size, page_kind))
            except _BadCellError:
                damaged = True
                continue
            if page_kind == _LEAF_TABLE and values and values[0] is None:
                values = (row_number, *values[1:])
            yield RawRow(page_kind == _LEAF_TABLE, values)
        # A damaged page of a table with row numbers has taken no chunk's row along.
        self.damaged_pages += damaged and page_kind != _LEAF_TABLE

    def _payload(self, page: bytes, at: int, size: int, kind: int) -> bytes:
        if size > _MAX_PAYLOAD_BYTES:
            raise _BadCellError
        usable = self._usable
        least = (usable - 12) * 32 // 255 - 23
        most = usable - 35 if kind == _LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        if size <= most:
            return page[at : at + size]
        local = least + (size - least) % (usable - 4)
        local = local if local <= most else least
        parts = [page[at : at + local]]
        left = size - local
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        while left > 0:
            if not 1 < following <= self._count:
                raise _BadCellError
            self._overflow.add(following)
            more = self._page(following)
            parts.append(more[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            following = int.from_bytes(more[:4], "big")
        return b"".join(parts)


def sqlite_schema_roots() -> list[int]:
    """The root pages of a database as `sqlite_schema.create_database` makes it."""
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        sqlite_schema.create_schema(model)
        return [root for (root,) in model.execute("SELECT rootpage FROM sqlite_master")]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where the next one begins."""
    value = 0
    for index in range(at, min(at + 8, len(data))):
        byte = data[index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, index + 1
    if at + 8 >= len(data):
        raise _BadCellError
    value = value << 8 | data[at + 8]
    return (value - (1 << 64) if value >= 1 << 63 else value), at + 9


def _record(payload: bytes) -> tuple[Any, ...]:
    size, at = _varint(payload, 0)
    if size > len(payload):
        raise _BadCellError
    values: list[Any] = []
    data = size
    while at < size:
        kind, at = _varint(payload, at)
        length = _INTEGER_BYTES.get(kind, (kind - 12) // 2 if kind >= 12 else 0)
        part = payload[data : data + length]
        if len(part) != length:
            raise _BadCellError
        data += length
        values.append(_value(kind, part))
    return tuple(values)


def _value(kind: int, part: bytes) -> Any:
    if kind in _INTEGER_BYTES:
        return int.from_bytes(part, "big", signed=True)
    if kind in (8, 9):
        return kind - 8
    if kind >= 12:
        return part.decode("utf-8", "surrogateescape") if kind % 2 else part
    if kind == 0:
        return None
    # A floating-point number, or a kind that is kept for SQLite: we write neither.
    raise _BadCellError
