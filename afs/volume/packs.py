"""Small data lie in packs, which a volume shares with its clones as it shares chunks.

Theory of operation
    The data of a small file are committed to the volume's database: that is one fsync, and many
    commits share it. By and by, when there is a pack's worth of them, they are moved to a *pack*: a
    chunk that holds the data of many files, one after the other. In the database a row says where
    they lie (`packed_rows`). So a clone, which copies the database, copies at most some MiB of data
    however much there is.

    A pack is a chunk like any other: immutable, named by its hash, durable before anything refers
    to it, kept while any database of the group does (`chunk_store`). Of its bytes only those count
    that some file has. When a volume needs less than half of a pack, what it needs is taken back
    into its database (`take_back`), and packed anew with what else is there: so what nobody needs
    takes up no more room than what a volume needs.

    P1  Small data are in one place: a row of `inline_data` or a row of `packed`.
    P2  Data of fewer than PACKED_MIN_BYTES are never packed.
    P3  Moving data changes nothing that anybody can see: no counter, no DataVersion.
    P4  Read is what has the hash that the row says; else EIO.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.limits import INLINE_MAX_BYTES, PACKED_MIN_BYTES
from afs.volume import packed_rows
from afs.volume import sqlite_tables as rows
from afs.volume.checksum import checksum
from afs.volume.chunk_store import ChunkStore, disk_error
from afs.volume.packed_rows import PACK_BYTES, PackedRef

# Packs built before their references are committed: bounds how long a change may wait for it.
PACKS_AT_ONCE: Final = 4
# Packs kept open while many files are read: those of one directory lie in few.
_OPEN_PACKS_MAX: Final = 16

Put = Callable[[bytes, bytes], None]


class PackBuilder:
    """Gathers small data into packs.

    Args:
        put: takes a pack and its hash (`ChunkStaging.put`).
    """

    def __init__(self, put: Put) -> None:
        self._put = put
        self._pending: list[tuple[int, bytes]] = []
        self._bytes = 0

    def add(self, number: int, data: bytes) -> list[tuple[int, PackedRef]]:
        """Takes the data of a vnode; where those of a pack lie that is full now, else nothing."""
        self._pending.append((number, data))
        self._bytes += len(data)
        return self._build() if self._bytes > PACK_BYTES - INLINE_MAX_BYTES else []

    def rest(self) -> list[tuple[int, bytes]]:
        """What is in no pack yet, by vnode number: for the database."""
        rest, self._pending, self._bytes = self._pending, [], 0
        return rest

    def _build(self) -> list[tuple[int, PackedRef]]:
        pending = self.rest()
        pack = b"".join(data for _, data in pending)
        digest = blake3(pack).digest()
        self._put(pack, digest)
        refs: list[tuple[int, PackedRef]] = []
        offset = 0
        for number, data in pending:
            refs.append((number, PackedRef(blake3(data).digest(), digest, offset, len(data))))
            offset += len(data)
        return refs


class SmallData:
    """Reads small data of one volume group; the context keeps packs open between reads.

    Not thread-safe.
    """

    def __init__(self, chunks: ChunkStore) -> None:
        self._chunks = chunks
        self._open: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, connection: sqlite3.Connection, number: int) -> bytes:
        """An inline file's bytes or a link's target, wherever they lie, verified.

        Raises:
            AfsError: EIO if they are missing or damaged; VIO if the disk fails.
        """
        ref = packed_rows.read_packed(connection, number)
        return rows.read_inline(connection, number) if ref is None else self.read_ref(ref)

    def read_ref(self, ref: PackedRef) -> bytes:
        """Packed data, verified; as `read`."""
        try:
            data = os.pread(self._descriptor(ref.pack), ref.size, ref.offset)
        except FileNotFoundError:
            raise AfsError(AfsCode.EIO, f"pack {ref.pack.hex()} is missing") from None
        except OSError as error:
            raise disk_error(error, f"pack {ref.pack.hex()} cannot be read") from error
        if blake3(data).digest() != ref.hash:
            raise AfsError(
                AfsCode.EIO, f"pack {ref.pack.hex()} is damaged at {ref.offset}, {ref.size} bytes"
            )
        return data

    def _descriptor(self, pack: bytes) -> int:
        descriptor = self._open.get(pack)
        if descriptor is None:
            while len(self._open) >= _OPEN_PACKS_MAX:
                os.close(self._open.pop(next(iter(self._open))))
            descriptor = os.open(self._chunks.path(pack), os.O_RDONLY | os.O_CLOEXEC)
            self._open[pack] = descriptor
        return descriptor


def read_small(connection: sqlite3.Connection, chunks: ChunkStore, number: int) -> bytes:
    """An inline file's bytes or a link's target, wherever they lie; as `SmallData.read`."""
    with SmallData(chunks) as small:
        return small.read(connection, number)


def is_to_be_packed(data: bytes) -> bool:
    """Whether small data go to a pack (P2)."""
    return len(data) >= PACKED_MIN_BYTES


def bytes_to_pack(connection: sqlite3.Connection) -> int:
    """How many bytes of small data in a database are to go to packs."""
    query = f"SELECT total(length(data)) FROM inline_data WHERE length(data) >= {PACKED_MIN_BYTES}"  # noqa: S608
    return int(connection.execute(query).fetchone()[0])


def build_packs(
    connection: sqlite3.Connection, put: Put, packs_max: int
) -> list[tuple[int, PackedRef]]:
    """Builds packs of small data in a database: where they will lie, for `move_to_packs`.

    What does not fill a pack, and damaged rows, stay where they are.

    Args:
        connection: the database; it is only read.
        put: takes each pack.
        packs_max: at most so many packs.
    """
    builder = PackBuilder(put)
    built: list[tuple[int, PackedRef]] = []
    packs = 0
    query = f"SELECT * FROM inline_data WHERE length(data) >= {PACKED_MIN_BYTES} ORDER BY vnode"  # noqa: S608
    with contextlib.closing(connection.execute(query)) as found:
        for number, data, row_checksum in found:
            if checksum("inline_data", number, data) != row_checksum:
                continue
            if full := builder.add(number, data):
                built += full
                packs += 1
                if packs >= packs_max:
                    break
    return built


def move_to_packs(connection: sqlite3.Connection, refs: list[tuple[int, PackedRef]]) -> None:
    """Has rows refer to packs, which are durable, instead of holding the data; in a transaction."""
    packed_rows.write_packed(connection, refs)
    connection.executemany(
        "DELETE FROM inline_data WHERE vnode = ?", [(number,) for number, _ in refs]
    )


def is_underused(connection: sqlite3.Connection, chunks: ChunkStore, digest: bytes) -> bool:
    """Whether a chunk is a pack of which a volume needs some, and less than half."""
    query = "SELECT sum(size) FROM packed WHERE pack = ?"
    needed: int | None = connection.execute(query, (digest,)).fetchone()[0]
    return needed is not None and 2 * needed < _length(chunks.path(digest))


def take_back(connection: sqlite3.Connection, chunks: ChunkStore, pack: bytes) -> bool:
    """Takes what a volume has in a pack into its database, in a transaction; the pack is garbage.

    False if some of it is lost: that stays where it is.
    """
    whole = True
    with SmallData(chunks) as small:
        for number, ref in packed_rows.read_pack(connection, pack):
            try:
                data = small.read_ref(ref)
            except AfsError as error:
                _check_is_lost(error)
                whole = False
                continue
            packed_rows.drop_packed(connection, number)
            rows.write_inline(connection, [(number, data)])
    return whole


def lost_in_pack(
    connection: sqlite3.Connection, chunks: ChunkStore, pack: bytes
) -> list[tuple[int, int]]:
    """The vnodes, (number, uniquifier), whose data in a pack are missing or damaged.

    EIO if a row that says where they lie is damaged.
    """
    lost: list[tuple[int, int]] = []
    if not packed_rows.has_packs(connection):
        return lost
    with SmallData(chunks) as small:
        for number, ref in packed_rows.read_pack(connection, pack):
            try:
                small.read_ref(ref)
            except AfsError as error:
                _check_is_lost(error)
                query = "SELECT uniquifier FROM vnodes WHERE vnode = ?"
                lost += [(number, row[0]) for row in connection.execute(query, (number,))]
    return lost


def _check_is_lost(error: AfsError) -> None:
    """Raises the error, unless it says that data are lost, not only out of reach for now."""
    cause = error.__cause__
    bad_sector = isinstance(cause, OSError) and cause.errno == errno.EIO
    if error.code is not AfsCode.EIO and not bad_sector:
        raise error


def _length(path: Path) -> int:
    """How long a pack is in bytes; 0 if it is missing."""
    try:
        return os.stat(path).st_size
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return 0
