"""Writes a volume as a dump: one stream of bytes that `restore` makes a volume of again.

Order: HEADER; then for each vnode, by number, those of its chunks that were not dumped before
(CHUNK frames), a VNODE frame, and MORE frames if its entries or chunks do not fit in one; TRAILER.

An incremental dump has only the vnodes that were changed since a state of the volume, and before
the TRAILER a list of all that exist (PRESENT frames), so that those removed since can be told. A
dump without chunks (`chunks=False`) is for a taker that asks for the chunks it lacks
(`chunk_source`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.limits import KIB
from afs.types import Vnode, VnodeType
from afs.v1 import dump_pb2, types_pb2
from afs.volume import sqlite_tables as rows
from afs.volume.dump_frames import FrameKind, FrameWriter
from afs.volume.file_data import ALL_POSITIONS, is_inline
from afs.volume.lost_data import LOST_HASH, is_inline_lost
from afs.volume.packs import SmallData
from afs.volume.sqlite_store import SqliteVolume
from afs.wire import entries_to_wire, status_to_wire

# Entries or chunks in one frame: at 255 bytes a name well below the limit of a frame.
_ITEMS_PER_FRAME: Final = 2000
# Small frames are gathered to pieces of about this size.
_PIECE_BYTES: Final = 256 * KIB
# Even, so that each frame begins with how many are missing; at 5 bytes a number well below the
# limit of a frame.
_RUNS_PER_FRAME: Final = 100_000

T = TypeVar("T")


def no_progress(_done: int, _total: int) -> None:
    """Tells nobody."""


def dump_volume(
    volume: SqliteVolume,
    write: Callable[[bytes], None],
    progress: Callable[[int, int], None] = no_progress,
) -> None:
    """Writes a dump of the volume as it is at this moment; blocks on the disk and on `write`.

    Args:
        volume: the volume; it may change meanwhile, though a long dump is better taken of a clone.
        write: takes the next bytes, at most about 1.5 MiB.
        progress: told (vnodes done, vnodes in all) now and then.

    Raises:
        AfsError: EIO if the volume is damaged; what is written so far is then no whole dump.
    """
    for piece in dump_pieces(volume, progress):
        write(piece)


def dump_pieces(
    volume: SqliteVolume,
    progress: Callable[[int, int], None] = no_progress,
    *,
    since: int = 0,
    chunks: bool = True,
) -> Iterator[bytes]:
    """The bytes of a dump, in pieces, as `dump_volume` writes them.

    To be closed if it is not read to its end.

    Args:
        volume: the volume.
        progress: told (vnodes done, vnodes to do) now and then.
        since: a change counter of the volume: only what changed after it; 0: everything.
        chunks: whether the dump holds the chunks its files have.

    Raises:
        AfsError: EINVAL for a `since` that the volume has not reached; EIO if it is damaged.
    """
    gathered: list[bytes] = []
    size = 0
    for frame in _frames(volume, progress, since=since, chunks=chunks):
        gathered.append(frame)
        size += len(frame)
        if size >= _PIECE_BYTES:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    yield b"".join(gathered)


def chunk_source(volume: SqliteVolume, hashes: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a volume's files that were asked for, verified, in that order; blocks.

    Raises:
        AfsError: EINVAL for a hash that none of its files has; EIO for a chunk that is damaged.
    """
    for digest in hashes:
        with volume.reading() as moment:
            known = rows.is_referenced(moment.connection, digest, garbage_counts=False)
        if not known:
            raise AfsError(
                AfsCode.EINVAL, f"no file of volume {volume.volume_id} has chunk {digest.hex()}"
            )
        yield volume.chunks.read(digest)


def _frames(
    volume: SqliteVolume, progress: Callable[[int, int], None], *, since: int, chunks: bool
) -> Iterator[bytes]:
    writer = FrameWriter()
    with volume.pinned(chunks=chunks) as moment, SmallData(volume.chunks) as small:
        connection = moment.connection
        state = rows.read_state(connection)
        header = state.header
        if not 0 <= since <= header.change_counter:
            raise AfsError(
                AfsCode.EINVAL,
                f"volume {header.volume_id} is at change {header.change_counter}:"
                f" there is nothing since {since}",
            )
        total = rows.count_changed(connection, since) if since else header.file_count
        yield writer.start()
        message = dump_pb2.DumpHeader(
            volume_id=header.volume_id,
            name=header.name,
            type=types_pb2.VolumeType.ValueType(header.type),
            dumped_ns=volume.now_ns(),
            change_counter=header.change_counter,
            max_quota_kib=header.max_quota_kib,
            next_vnode=state.next_vnode,
            next_uniquifier=state.next_uniquifier,
            vnode_count=header.file_count,
            read_write_id=header.read_write_id,
            incarnation=header.incarnation,
            since=since,
            without_chunks=not chunks,
            max_data_version=state.max_data_version,
            backup_id=header.backup_id,
            created_ns=header.created_ns,
            updated_ns=header.updated_ns,
            offline_message=header.offline_message,
            leave_offline=header.leave_offline,
        )
        yield writer.frame(FrameKind.HEADER, message.SerializeToString())
        vnodes = 0
        dumped: set[bytes] | None = set() if chunks else None
        for vnode, changed in rows.read_changed(connection, header.volume_id, since):
            for kind, payload in _vnode_payloads(volume, connection, small, vnode, changed, dumped):
                yield writer.frame(kind, payload)
            vnodes += 1
            progress(vnodes, total)
        if since:
            for payload in _present_payloads(connection):
                yield writer.frame(FrameKind.PRESENT, payload)
        trailer = dump_pb2.DumpTrailer(
            vnode_count=vnodes, chunk_count=len(dumped or ()), blake3=writer.digest
        )
        yield writer.frame(FrameKind.TRAILER, trailer.SerializeToString())


def _vnode_payloads(
    volume: SqliteVolume,
    connection: sqlite3.Connection,
    small: SmallData,
    vnode: Vnode,
    changed: int,
    dumped: set[bytes] | None,
) -> Iterator[tuple[FrameKind, bytes]]:
    """The frames of one vnode; notes in `dumped` which chunks they hold (None: they hold none)."""
    number = vnode.fid.vnode
    first = dump_pb2.DumpVnode(status=status_to_wire(vnode), changed=changed, acl=vnode.acl)
    if _is_inline(vnode) and is_inline_lost(connection, number):
        first.data_lost = True
    elif vnode.type is VnodeType.SYMLINK:
        first.symlink_target = small.read(connection, number).decode()
    elif vnode.type is VnodeType.DIRECTORY:
        entries = rows.iterate_entries(connection, volume.volume_id, number)
        for kind, message, part in _parts(first, entries):
            message.entries.extend(entries_to_wire(part))
            yield kind, message.SerializeToString()
        return
    elif is_inline(vnode.length):
        first.inline_data = small.read(connection, number)
    else:
        refs = rows.read_chunk_refs(connection, number, 0, ALL_POSITIONS)
        for kind, message, chunks in _parts(first, refs):
            for position, ref in chunks:
                if dumped is not None and ref.hash not in dumped and ref.hash != LOST_HASH:
                    dumped.add(ref.hash)
                    chunk = dump_pb2.DumpChunk(data=volume.chunks.read(ref.hash))
                    yield FrameKind.CHUNK, chunk.SerializeToString()
                message.chunks.add(position=position, hash=ref.hash, size=ref.size)
            yield kind, message.SerializeToString()
        return
    yield FrameKind.VNODE, first.SerializeToString()


def _is_inline(vnode: Vnode) -> bool:
    """Whether a vnode has inline data: a small file, or a symbolic link."""
    return vnode.type is VnodeType.SYMLINK or (
        vnode.type is VnodeType.FILE and is_inline(vnode.length)
    )


def _present_payloads(connection: sqlite3.Connection) -> Iterator[bytes]:
    """The list of all vnodes that exist."""
    for field, first in (("directories", 1), ("others", 2)):
        runs = _runs(rows.read_numbers(connection, parity=first % 2), first)
        while part := list(islice(runs, _RUNS_PER_FRAME)):
            yield dump_pb2.DumpPresent(**{field: part}).SerializeToString()


def _runs(numbers: Iterable[int], first: int) -> Iterator[int]:
    """Ascending numbers, of one parity, as runs from `first` on: missing, present, missing, …."""
    present = 0
    expected = first
    for number in numbers:
        if number != expected or expected == first:
            if present:
                yield present
            yield (number - expected) // 2
            present = 0
        present += 1
        expected = number + 2
    if present:
        yield present


def _parts(
    first: dump_pb2.DumpVnode, items: Iterable[T]
) -> Iterator[tuple[FrameKind, dump_pb2.DumpVnode, list[T]]]:
    """The items in portions, each with the message it goes into; the first has a status."""
    kind, message = FrameKind.VNODE, first
    source = iter(items)
    while True:
        part = list(islice(source, _ITEMS_PER_FRAME))
        if not part and kind is FrameKind.MORE:
            return
        yield kind, message, part
        kind, message = FrameKind.MORE, dump_pb2.DumpVnode()
