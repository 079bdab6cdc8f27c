"""Writes a volume as a dump: one stream of bytes that `restore` makes a volume of again.

Order: HEADER; then for each vnode, by number, those of its chunks that were not dumped before
(CHUNK frames), a VNODE frame, and MORE frames if its entries or chunks do not fit in one; TRAILER.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from afs.limits import KIB
from afs.types import Vnode, VnodeType
from afs.v1 import dump_pb2, types_pb2
from afs.volume import sqlite_tables as rows
from afs.volume.dump_frames import FrameKind, FrameWriter
from afs.volume.file_data import ALL_POSITIONS, is_inline
from afs.volume.sqlite_store import SqliteVolume
from afs.wire import entries_to_wire, status_to_wire

# Entries or chunks in one frame: at 255 bytes a name well below the limit of a frame.
_ITEMS_PER_FRAME: Final = 2000
# Small frames are gathered to pieces of about this size.
_PIECE_BYTES: Final = 256 * KIB

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
    volume: SqliteVolume, progress: Callable[[int, int], None] = no_progress
) -> Iterator[bytes]:
    """The bytes of a dump, in pieces, as `dump_volume` writes them.

    To be closed if it is not read to its end.
    """
    gathered: list[bytes] = []
    size = 0
    for frame in _frames(volume, progress):
        gathered.append(frame)
        size += len(frame)
        if size >= _PIECE_BYTES:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    yield b"".join(gathered)


def _frames(volume: SqliteVolume, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    writer = FrameWriter()
    with volume.pinned() as moment:
        connection = moment.connection
        state = rows.read_state(connection)
        header = state.header
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
        )
        yield writer.frame(FrameKind.HEADER, message.SerializeToString())
        vnodes = 0
        dumped: set[bytes] = set()
        for vnode in rows.read_vnodes(connection, header.volume_id):
            for kind, payload in _vnode_payloads(volume, connection, vnode, dumped):
                yield writer.frame(kind, payload)
            vnodes += 1
            progress(vnodes, header.file_count)
        trailer = dump_pb2.DumpTrailer(
            vnode_count=vnodes, chunk_count=len(dumped), blake3=writer.digest
        )
        yield writer.frame(FrameKind.TRAILER, trailer.SerializeToString())


def _vnode_payloads(
    volume: SqliteVolume, connection: sqlite3.Connection, vnode: Vnode, dumped: set[bytes]
) -> Iterator[tuple[FrameKind, bytes]]:
    """The frames of one vnode; notes in `dumped` which chunks they hold."""
    number = vnode.fid.vnode
    first = dump_pb2.DumpVnode(status=status_to_wire(vnode))
    if vnode.type is VnodeType.SYMLINK:
        first.symlink_target = rows.read_inline(connection, number).decode()
    elif vnode.type is VnodeType.DIRECTORY:
        entries = rows.iterate_entries(connection, volume.volume_id, number)
        for kind, message, part in _parts(first, entries):
            message.entries.extend(entries_to_wire(part))
            yield kind, message.SerializeToString()
        return
    elif is_inline(vnode.length):
        first.inline_data = rows.read_inline(connection, number)
    else:
        refs = rows.read_chunk_refs(connection, number, 0, ALL_POSITIONS)
        for kind, message, chunks in _parts(first, refs):
            for position, ref in chunks:
                if ref.hash not in dumped:
                    dumped.add(ref.hash)
                    chunk = dump_pb2.DumpChunk(data=volume.chunks.read(ref.hash))
                    yield FrameKind.CHUNK, chunk.SerializeToString()
                message.chunks.add(position=position, hash=ref.hash, size=ref.size)
            yield kind, message.SerializeToString()
        return
    yield FrameKind.VNODE, first.SerializeToString()


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
