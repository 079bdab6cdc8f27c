"""The files of chunks: one that is lost is taken from wherever else it is whole.

A chunk is named by its hash, so one with the right hash is the right one, whoever has it: the
volume's copy on another partition, any other volume that holds the same bytes, or another server
that has a site of the volume.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from afs.errors import AfsError
from afs.volume import packed_rows
from afs.volume import sqlite_tables as rows
from afs.volume.check_chunks import BadChunk, bad_chunks
from afs.volume.check_finding import FindingKind
from afs.volume.chunk_store import ChunkStore
from afs.volume.lost_data import LOST_HASH, mark_inline_lost
from afs.volume.packed_rows import all_references
from afs.volume.packs import lost_in_pack, take_back
from afs.volume.salvage_case import Case

# Chunks looked at between two reports of progress.
_PROGRESS_CHUNKS = 256


# Asks other servers for the bytes of a hash: of a chunk (0), or of the small data of a vnode with a
# number. What comes, and where from, in words; None if nobody has it.
Fetch = Callable[[bytes, int], tuple[bytes, str] | None]


def nobody_has(_digest: bytes, _number: int) -> None:
    """There is no other server to ask."""


@dataclass(frozen=True, slots=True)
class ChunkSources:
    """Where chunks are to be, and where else they may be found.

    Args:
        own: the chunks of the volume's group.
        others: those of other groups of this server, the likeliest first.
        fetch: asks other servers.
    """

    own: ChunkStore
    others: Sequence[ChunkStore]
    fetch: Fetch

    def fetched(self, digest: bytes, number: int, size: int) -> tuple[bytes, str] | None:
        """What another server has, verified: at least `size` bytes."""
        found = self.fetch(digest, number)
        if found is None or len(found[0]) < size or blake3(found[0]).digest() != digest:
            return None
        return found


def mend_chunks(
    case: Case,
    sources: ChunkSources,
    owner: str,
    *,
    dry_run: bool,
    progress: Callable[[str, int, int], None],
) -> int:
    """Finds lost chunks, and takes them from where they are whole; how many were mended.

    Args:
        case: the volume.
        sources: its group's chunks, and where else to look.
        owner: the stem of the copy's database.
        dry_run: only say where they are.
        progress: told (step, done, total).
    """
    references = all_references(case.connection)
    [total] = case.connection.execute(f"SELECT count(*) FROM ({references})").fetchone()  # noqa: S608
    mended = 0
    for number, bad in enumerate(bad_chunks(case.connection, sources.own, deep=case.options.deep)):
        if not number % _PROGRESS_CHUNKS:
            progress("checking chunks", number, total)
        if bad is not None and bad.ref.hash != LOST_HASH:
            mended += _mend(case, bad, sources, owner, dry_run=dry_run)
    return mended


def _mend(
    case: Case,
    bad: BadChunk,
    sources: ChunkSources,
    owner: str,
    *,
    dry_run: bool,
) -> bool:
    kind = FindingKind.MISSING_CHUNK if bad.missing else FindingKind.DAMAGED_CHUNK
    found = _find(bad, sources)
    if found is not None:
        data, where = found
        if not dry_run:
            staging = sources.own.open_staging(owner)
            try:
                staging.put(data, bad.ref.hash)
                staging.make_durable()
            finally:
                staging.let_go()
        case.findings.add(
            kind, bad.ref.hash.hex(), bad.detail, f"taken from {where}", repaired=True
        )
        return True
    files = "SELECT c.vnode, c.position, v.uniquifier FROM chunks c JOIN vnodes v USING (vnode)"
    for number, position, uniquifier in case.connection.execute(
        f"{files} WHERE c.hash = ? ORDER BY 1, 2", (bad.ref.hash,)
    ).fetchall():
        subject = f"{case.volume_id}.{number}.{uniquifier}, position {position}"
        case.lose(number, subject, f"chunk {bad.ref.hash.hex()}: {bad.detail}", kind)
    _save_from_pack(case, bad, sources, kind)
    return False


def _save_from_pack(case: Case, bad: BadChunk, sources: ChunkSources, kind: FindingKind) -> None:
    """Takes what is whole in a damaged pack into the database, and marks what is lost.

    Other servers have packed the same files otherwise, so each is asked for by itself.
    """
    connection, pack = case.connection, bad.ref.hash
    if not packed_rows.read_pack(connection, pack):
        return
    lost = lost_in_pack(connection, sources.own, pack)
    case.changed = True
    take_back(connection, sources.own, pack)
    for number, uniquifier in lost:
        ref = packed_rows.read_packed(connection, number)
        assert ref is not None, "it could not be taken back"
        packed_rows.drop_packed(connection, number)
        subject = f"{case.volume_id}.{number}.{uniquifier}"
        detail = f"in chunk {pack.hex()}: {bad.detail}"
        found = sources.fetched(ref.hash, number, ref.size)
        if found is None:
            mark_inline_lost(connection, [number])
            case.lose(number, subject, detail, kind)
        else:
            rows.write_inline(connection, [(number, found[0])])
            case.findings.add(kind, subject, detail, f"taken from {found[1]}", repaired=True)


def _find(bad: BadChunk, sources: ChunkSources) -> tuple[bytes, str] | None:
    """The bytes of a lost chunk, and where they are."""
    for staged in sources.own.staging.glob(f"*+{bad.ref.hash.hex()}"):
        with contextlib.suppress(OSError):
            data = staged.read_bytes()
            if len(data) >= bad.ref.size and blake3(data).digest() == bad.ref.hash:
                return data, "what was being written"
    for store in sources.others:
        with contextlib.suppress(AfsError):
            data = store.read(bad.ref.hash)
            if len(data) >= bad.ref.size:
                return data, _place(store.group)
    return sources.fetched(bad.ref.hash, 0, bad.ref.size)


def _place(group: Path) -> str:
    return f"volume group {group.name} on partition {group.parent.parent.name}"
