"""The files of chunks: one that is lost is taken from wherever else it is whole.

A chunk is named by its hash, so one with the right hash is the right one, whoever has it: the
volume's copy on another partition, or any other volume that holds the same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from afs.errors import AfsError
from afs.volume import packed_rows
from afs.volume.check_chunks import BadChunk, bad_chunks
from afs.volume.check_finding import FindingKind
from afs.volume.chunk_store import ChunkStore
from afs.volume.lost_data import LOST_HASH, mark_inline_lost
from afs.volume.packed_rows import all_references
from afs.volume.packs import lost_in_pack, take_back
from afs.volume.salvage_case import Case

# Chunks looked at between two reports of progress.
_PROGRESS_CHUNKS = 256


def mend_chunks(
    case: Case,
    own: ChunkStore,
    others: Sequence[ChunkStore],
    owner: str,
    *,
    dry_run: bool,
    progress: Callable[[str, int, int], None],
) -> int:
    """Finds lost chunks, and takes them from where they are whole; how many were mended.

    Args:
        case: the volume.
        own: its group's chunks.
        others: where else to look.
        owner: the stem of the copy's database.
        dry_run: only say where they are.
        progress: told (step, done, total).
    """
    references = all_references(case.connection)
    [total] = case.connection.execute(f"SELECT count(*) FROM ({references})").fetchone()  # noqa: S608
    mended = 0
    for number, bad in enumerate(bad_chunks(case.connection, own, deep=case.options.deep)):
        if not number % _PROGRESS_CHUNKS:
            progress("checking chunks", number, total)
        if bad is not None and bad.ref.hash != LOST_HASH:
            mended += _mend(case, bad, own, others, owner, dry_run=dry_run)
    return mended


def _mend(
    case: Case,
    bad: BadChunk,
    own: ChunkStore,
    others: Sequence[ChunkStore],
    owner: str,
    *,
    dry_run: bool,
) -> bool:
    kind = FindingKind.MISSING_CHUNK if bad.missing else FindingKind.DAMAGED_CHUNK
    found = _find(bad, own, others)
    if found is not None:
        data, where = found
        if not dry_run:
            staging = own.open_staging(owner)
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
    _save_from_pack(case, bad, own, kind)
    return False


def _save_from_pack(case: Case, bad: BadChunk, own: ChunkStore, kind: FindingKind) -> None:
    """Takes what is whole in a damaged pack into the database, and marks what is lost."""
    connection, pack = case.connection, bad.ref.hash
    lost = lost_in_pack(connection, own, pack)
    if not packed_rows.read_pack(connection, pack):
        return
    case.changed = True
    take_back(connection, own, pack)
    for number, uniquifier in lost:
        packed_rows.drop_packed(connection, number)
        mark_inline_lost(connection, [number])
        subject = f"{case.volume_id}.{number}.{uniquifier}"
        case.lose(number, subject, f"in chunk {pack.hex()}: {bad.detail}", kind)


def _find(bad: BadChunk, own: ChunkStore, others: Sequence[ChunkStore]) -> tuple[bytes, str] | None:
    """The bytes of a lost chunk, and where they are."""
    for staged in own.staging.glob(f"*+{bad.ref.hash.hex()}"):
        with contextlib.suppress(OSError):
            data = staged.read_bytes()
            if len(data) >= bad.ref.size and blake3(data).digest() == bad.ref.hash:
                return data, "what was being written"
    for store in others:
        with contextlib.suppress(AfsError):
            data = store.read(bad.ref.hash)
            if len(data) >= bad.ref.size:
                return data, _place(store.group)
    return None


def _place(group: Path) -> str:
    return f"volume group {group.name} on partition {group.parent.parent.name}"
