"""Checks all volumes of a partition while they are in use; reads only.

Each database is looked at as it is at one moment, beside whoever has it open. What changes
meanwhile (a file that is removed takes its chunks along) is looked at again before it is called
damage, with the group's lock held, so that nothing is removed in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.beside import connect_to_read
from afs.volume.change_set import VolumeState
from afs.volume.check_chunks import BadChunk, bad_chunks, is_bad
from afs.volume.check_finding import Finding, FindingKind, Findings
from afs.volume.check_stray_chunks import stray_chunks
from afs.volume.lost_data import LOST_HASH
from afs.volume.packs import lost_in_pack
from afs.volume.partition import Partition
from afs.volume.sqlite_errors import afs_errors
from afs.volume.verify import check_tree
from afs.volume.vnode_path import path_of_subject
from afs.volume.volume_group import DRAFT_SUFFIX, VolumeGroup

_LOST_INLINE: Final = (
    "SELECT v.vnode, v.uniquifier FROM inline_data i JOIN vnodes v ON v.vnode = i.vnode"
    " WHERE length(i.data) = 0 AND v.length > 0"
)
_LOST_CHUNKS: Final = (
    "SELECT DISTINCT v.vnode, v.uniquifier FROM chunks c JOIN vnodes v ON v.vnode = c.vnode"
    " WHERE c.hash = ?"
)

# Told (what is looked at, chunks done).
Progress = Callable[[str, int], None]


def check_partition(
    partition: Partition,
    *,
    deep: bool,
    only: Collection[int] | None = None,
    progress: Progress = lambda _step, _done: None,
) -> Iterator[Finding]:
    """What is wrong with a partition's volumes and their chunks.

    Args:
        partition: whose volumes may be in use.
        deep: also read every chunk, and compare it with its hash.
        only: the volumes to look at; None: all, and also chunks and databases that are nobody's.
        progress: is told how far it is.

    Raises:
        AfsError: VIO if the disk fails.
    """
    for path in sorted((partition.path / "groups").iterdir()):
        if path.name.isascii() and path.name.isdigit():
            yield from _check_group(VolumeGroup(path), only, progress, deep=deep)


def _check_group(
    group: VolumeGroup, only: Collection[int] | None, progress: Progress, *, deep: bool
) -> Iterator[Finding]:
    volumes = [each for each in sorted(group.volumes()) if only is None or each in only]
    if only is None:
        # Looked at twice: what a store that failed left a moment ago is collected by and by.
        progress(f"volume group {group.path.name}: chunks that nobody has", 0)
        strays = set(stray_chunks(group))
    for volume_id in volumes:
        yield from check_volume(group, volume_id, deep=deep, progress=progress)
    if only is None:
        group_id = int(group.path.name)
        findings = Findings(group_id)
        for digest in strays.intersection(stray_chunks(group) if strays else ()):
            findings.add(
                FindingKind.STRAY_CHUNK,
                digest.hex(),
                "no file has it: salvaging the volume removes it",
                repaired=False,
            )
        findings.close()
        yield from findings.told
        yield from _leftovers(group)


def check_volume(
    group: VolumeGroup, volume_id: int, *, deep: bool, progress: Progress
) -> Iterator[Finding]:
    """What is wrong with one volume; nothing if it is gone by now."""
    findings = Findings(volume_id)
    path = group.database(volume_id)
    progress(f"volume {volume_id}: rows", 0)
    try:
        with contextlib.closing(connect_to_read(path)) as connection:
            findings.path_of = partial(path_of_subject, connection)
            _check_database(connection, volume_id, findings)
            for number, bad in enumerate(bad_chunks(connection, group.chunks, deep=deep)):
                if not number % 256:
                    progress(f"volume {volume_id}: chunks", number)
                if bad is not None and bad.ref.hash != LOST_HASH:
                    _tell_of_chunk(path, group, volume_id, bad, findings, deep=deep)
    except sqlite3.Error as error:
        findings.path_of = lambda _subject: ""
        findings.add(FindingKind.DATABASE, path.name, str(error), repaired=False)
    if path.exists():
        findings.close()
        yield from findings.told


def _check_database(connection: sqlite3.Connection, volume_id: int, findings: Findings) -> None:
    """Looks at every row, as of one moment."""
    connection.execute("BEGIN")
    try:
        with afs_errors():
            state = _state(connection, volume_id, findings)
            [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise AfsError(AfsCode.EIO, str(found))
            # One of an older version is upgraded, and its rows are looked at, when it is opened.
            [version] = connection.execute("PRAGMA user_version").fetchone()
            if version == sqlite_schema.SCHEMA_VERSION and state is not None:
                sqlite_schema.check_schema(connection)
                check_tree(connection, state)
            _tell_of_losses(connection, volume_id, findings)
    except AfsError as error:
        if error.code is not AfsCode.EIO:
            raise
        findings.add(FindingKind.DATABASE, volume_id, error.detail, repaired=False)
    finally:
        connection.execute("ROLLBACK")


def _state(
    connection: sqlite3.Connection, volume_id: int, findings: Findings
) -> VolumeState | None:
    try:
        state = rows.read_state(connection)
    except (AfsError, ValueError) as error:
        findings.add(FindingKind.HEADER, volume_id, str(error), repaired=False)
        return None
    _check_id(state, volume_id, findings)
    return state


def _check_id(state: VolumeState, volume_id: int, findings: Findings) -> None:
    if state.header.volume_id != volume_id:
        findings.add(
            FindingKind.WRONG_ID,
            volume_id,
            f"its header says it is volume {state.header.volume_id}",
            repaired=False,
        )


def _tell_of_losses(connection: sqlite3.Connection, volume_id: int, findings: Findings) -> None:
    lost = connection.execute(_LOST_INLINE).fetchall()
    lost += connection.execute(_LOST_CHUNKS, (LOST_HASH,)).fetchall()
    for number, uniquifier in lost:
        findings.add(
            FindingKind.LOST_DATA,
            f"{volume_id}.{number}.{uniquifier}",
            "data of it are known to be lost, and reading them fails",
            repaired=False,
        )


def _tell_of_chunk(
    path: Path,
    group: VolumeGroup,
    volume_id: int,
    bad: BadChunk,
    findings: Findings,
    *,
    deep: bool,
) -> None:
    """Tells of the files that have a lost chunk, if they still do and it still is.

    Of a damaged pack: of those whose data are.
    """
    with (
        group.chunks.lock(exclusive=False),
        contextlib.closing(connect_to_read(path)) as connection,
    ):
        files = connection.execute(
            "SELECT c.vnode, c.position, v.uniquifier FROM chunks c JOIN vnodes v USING (vnode)"
            " WHERE c.hash = ? ORDER BY 1, 2",
            (bad.ref.hash,),
        ).fetchall()
        lost = lost_in_pack(connection, group.chunks, bad.ref.hash)
        if not (files or lost) or is_bad(group.chunks, bad.ref, deep=deep) is None:
            return
    subjects = [f"{number}.{uniquifier}, position {at}" for number, at, uniquifier in files]
    subjects += [f"{number}.{uniquifier}" for number, uniquifier in lost]
    for subject in subjects:
        findings.add(
            FindingKind.MISSING_CHUNK if bad.missing else FindingKind.DAMAGED_CHUNK,
            f"{volume_id}.{subject}",
            f"chunk {bad.ref.hash.hex()}: {bad.detail}",
            repaired=False,
        )


def _leftovers(group: VolumeGroup) -> Iterator[Finding]:
    """Databases that somebody was making or deleting, and does not any more."""
    for path in [*group.path.glob("*.*-*.db"), *group.path.glob(f"*.*-*{DRAFT_SUFFIX}")]:
        volume_id = path.name.partition(".")[0]
        if volume_id.isdigit() and not _is_locked(path.with_suffix(".lock")) and path.exists():
            yield Finding(
                int(volume_id),
                FindingKind.LEFTOVER,
                path.name,
                "whoever made or deleted it was killed: the next start of a daemon removes it",
            )


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
