"""Takes what is in a dump into a database, refusing whatever a volume could not hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from blake3 import blake3

from afs.access.acl import parse_acl
from afs.errors import AfsError
from afs.limits import CHUNK_BYTES, MAX_FILE_BYTES
from afs.types import DirectoryEntry, Vnode, VnodeType
from afs.v1 import dump_pb2, types_pb2
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import used_kib
from afs.volume.chunk_store import ChunkStaging, ChunkStore
from afs.volume.dump_frames import bad_dump
from afs.volume.file_data import HASH_BYTES, ChunkRef, is_inline, positions
from afs.volume.increment import Increment
from afs.volume.lost_data import LOST_HASH
from afs.volume.packed_rows import PACK_BYTES
from afs.volume.packs import (
    PACKS_AT_ONCE,
    PackBuilder,
    build_packs,
    bytes_to_pack,
    is_to_be_packed,
    is_underused,
    move_to_packs,
    take_back,
)
from afs.volume.rules import check_link_target
from afs.wire import entry_from_wire, status_from_wire

# Counters of a dump stay far below what SQLite's 64 bits hold, so that they can go on growing.
_MAX_COUNTER: Final = 2**62
# Rows written in one go; a frame adds some thousands at most, or 16 KiB of inline data.
_ROWS_GATHERED: Final = 500


def check_header_message(message: dump_pb2.DumpHeader) -> None:
    """EINVAL for a header that no volume has."""
    if min(message.next_vnode, message.next_uniquifier) <= 1 or not message.volume_id:
        raise bad_dump("its header has no counters")
    counters = (message.change_counter, message.max_quota_kib, message.max_data_version)
    if max(*counters, message.since) >= _MAX_COUNTER:
        raise bad_dump("a counter of its header is absurd")
    if message.since and (message.since > message.change_counter or not message.incarnation):
        raise bad_dump(f"it is since {message.since}: its volume is at {message.change_counter}")


class VnodeTaker:
    """The contents of a dump, as far as they came.

    Args:
        connection: the database, a transaction open: a new one, or a copy of the dump's base.
        staging: where packs go, and the dump's chunks.
        chunks: the chunks of the group.
        header: the dump's header.
        volume_id: the volume its contents are for.
        increment: what lays it over its base; None: it has none.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        staging: ChunkStaging,
        chunks: ChunkStore,
        header: dump_pb2.DumpHeader,
        volume_id: int,
        increment: Increment | None,
    ) -> None:
        self._connection = connection
        self._staging = staging
        self._chunk_store = chunks
        self._packs = PackBuilder(staging.put)
        self._header = header
        self._volume_id = volume_id
        self.increment = increment
        # Hash to length of every chunk that came, and the hashes that no vnode has used yet.
        self._chunks: dict[bytes, int] = {}
        self._unused: set[bytes] = set()
        self._rows = rows.NewRows()
        self._last: Vnode | None = None
        self._last_position = -1
        self._last_entries = 0
        self.vnode_count = 0
        self.used_kib = 0
        self.max_data_version = header.max_data_version

    @property
    def chunk_count(self) -> int:
        """How many chunks came."""
        return len(self._chunks)

    def take_chunk(self, data: bytes) -> None:
        """Stages a chunk."""
        if self._header.without_chunks:
            raise bad_dump("a chunk in a dump without chunks")
        if not 0 < len(data) <= CHUNK_BYTES:
            raise bad_dump(f"a chunk of {len(data)} bytes: expected 1 to {CHUNK_BYTES}")
        digest = blake3(data).digest()
        if digest in self._chunks:
            raise bad_dump("a chunk comes twice")
        self._chunks[digest] = len(data)
        self._unused.add(digest)
        self._staging.put(data, digest)

    def take_vnode(self, message: dump_pb2.DumpVnode, *, goes_on: bool) -> None:
        """Takes a vnode, or more of the last one."""
        if len(self._rows) >= _ROWS_GATHERED:
            self._write()
        if goes_on:
            if (
                self._last is None
                or message.HasField("status")
                or not (message.entries or message.chunks)
            ):
                raise bad_dump("a continuation of nothing")
        else:
            self._begin_vnode(message)
        assert self._last is not None
        vnode = self._last
        if message.entries:
            if vnode.type is not VnodeType.DIRECTORY:
                raise bad_dump(f"vnode {vnode.fid} has entries and is no directory")
            self._last_entries += len(message.entries)
            if self._last_entries > vnode.length:
                raise bad_dump(f"directory {vnode.fid} has more entries than it says")
            self._rows.entries += [
                (vnode.fid.vnode, self._entry(entry)) for entry in message.entries
            ]
        if message.chunks:
            if vnode.type is not VnodeType.FILE or is_inline(vnode.length):
                raise bad_dump(f"vnode {vnode.fid} has chunks and cannot")
            refs = self._refs(vnode, message.chunks)
            self._rows.chunks += [(vnode.fid.vnode, *ref) for ref in refs]

    def end(self) -> None:
        """After the last vnode."""
        self._rows.inline += self._packs.rest()
        self._write()
        if self._unused:
            raise bad_dump(f"{len(self._unused)} chunks that no file has")

    def make_durable(self) -> None:
        """Syncs what was staged, when what is gone is gone."""
        if self.increment is not None:
            self._pack_anew()
        self._staging.make_durable()

    def _write(self) -> None:
        rows.add_contents(self._connection, self._rows)
        self._rows = rows.NewRows()

    def _pack_anew(self) -> None:
        """Packs what the base had in its database, and in packs of which little is needed."""
        for digest in rows.read_garbage(self._connection, b"", -1):
            if is_underused(self._connection, self._chunk_store, digest):
                take_back(self._connection, self._chunk_store, digest)
                self._pack_full()
        self._pack_full()

    def _pack_full(self) -> None:
        if bytes_to_pack(self._connection) >= PACK_BYTES:
            built = build_packs(self._connection, self._staging.put, PACKS_AT_ONCE)
            move_to_packs(self._connection, built)

    def _begin_vnode(self, message: dump_pb2.DumpVnode) -> None:
        vnode = self._vnode(message.status, message.acl)
        changed = message.changed or self._header.change_counter
        if not self._header.since < changed <= self._header.change_counter:
            raise bad_dump(f"vnode {vnode.fid} was changed at {changed}")
        if self._last is not None and vnode.fid.vnode <= self._last.fid.vnode:
            raise bad_dump(f"vnode {vnode.fid} is out of order")
        self._last = vnode
        self._last_position = -1
        self._last_entries = 0
        self.vnode_count += 1
        self.used_kib += used_kib(vnode)
        self.max_data_version = max(self.max_data_version, vnode.data_version)
        if self.increment is not None:
            self.increment.replace(vnode)
        self._rows.vnodes.append((vnode, changed))
        data = message.inline_data
        if message.data_lost:
            has_inline = vnode.type is VnodeType.SYMLINK or (
                vnode.type is VnodeType.FILE and is_inline(vnode.length)
            )
            if data or message.symlink_target or not has_inline:
                raise bad_dump(f"vnode {vnode.fid} has data, and they are lost")
            self._rows.lost.append(vnode.fid.vnode)
            return
        if vnode.type is VnodeType.SYMLINK:
            if data:
                raise bad_dump(f"vnode {vnode.fid} has data and is a symbolic link")
            try:
                data = check_link_target(message.symlink_target)
            except AfsError as error:
                raise bad_dump(error.detail) from error
        elif message.symlink_target:
            raise bad_dump(f"vnode {vnode.fid} has a target and is no symbolic link")
        elif vnode.type is VnodeType.DIRECTORY or not is_inline(vnode.length):
            if data:
                raise bad_dump(f"vnode {vnode.fid} has inline data and cannot")
            return
        if len(data) != vnode.length:
            raise bad_dump(f"vnode {vnode.fid} has {len(data)} bytes: expected {vnode.length}")
        if is_to_be_packed(data):
            self._rows.packed += self._packs.add(vnode.fid.vnode, data)
        else:
            self._rows.inline.append((vnode.fid.vnode, data))

    def _vnode(self, message: types_pb2.FileStatus, acl: str) -> Vnode:
        expected = self._header.volume_id
        for each in (message.fid, message.parent):
            if each.volume != expected:
                raise bad_dump(f"vnode {message.fid.vnode} of {each.volume}: expected {expected}")
            each.volume = self._volume_id
        try:
            vnode = status_from_wire(message)
            parse_acl(acl)
        except AfsError as error:
            raise bad_dump(error.detail) from error
        if acl:
            if vnode.type is not VnodeType.DIRECTORY:
                raise bad_dump(f"vnode {vnode.fid} has an access list and is no directory")
            vnode = replace(vnode, acl=acl)
        fid = vnode.fid
        if fid.vnode >= self._header.next_vnode or fid.uniquifier >= self._header.next_uniquifier:
            raise bad_dump(f"vnode {fid} is beyond the counters of its header")
        if (fid.vnode % 2 == 1) != (vnode.type is VnodeType.DIRECTORY):
            raise bad_dump(f"vnode {fid} is a {vnode.type.name.lower()}: its number says otherwise")
        if vnode.mode > 0o7777 or vnode.length > MAX_FILE_BYTES:
            raise bad_dump(f"vnode {fid} has mode {vnode.mode:#o}, length {vnode.length}")
        if not 0 < vnode.data_version < _MAX_COUNTER:
            raise bad_dump(f"vnode {fid} has DataVersion {vnode.data_version}")
        return vnode

    def _entry(self, message: types_pb2.DirectoryEntry) -> DirectoryEntry:
        if message.fid.volume != self._header.volume_id:
            raise bad_dump(f"name {message.name!r} stands for something in another volume")
        message.fid.volume = self._volume_id
        try:
            return entry_from_wire(message)
        except AfsError as error:
            raise bad_dump(error.detail) from error

    def _refs(
        self, vnode: Vnode, messages: Iterable[dump_pb2.DumpChunkRef]
    ) -> Iterable[tuple[int, ChunkRef]]:
        refs: list[tuple[int, ChunkRef]] = []
        for message in messages:
            known: int | None = CHUNK_BYTES
            if not self._header.without_chunks and message.hash != LOST_HASH:
                known = self._chunks.get(message.hash)
            if known is None or len(message.hash) != HASH_BYTES:
                raise bad_dump(f"vnode {vnode.fid} has a chunk that did not come before it")
            if not self._last_position < message.position < positions(vnode.length):
                raise bad_dump(f"vnode {vnode.fid} has a chunk at position {message.position}")
            room = vnode.length - message.position * CHUNK_BYTES
            if not 0 < message.size <= min(known, room):
                raise bad_dump(f"vnode {vnode.fid} has {message.size} bytes of a chunk of {known}")
            self._last_position = message.position
            self._unused.discard(message.hash)
            refs.append((message.position, ChunkRef(message.hash, message.size)))
        return refs
