"""Checks a volume through and through, and repairs what can be repaired without making data up.

Theory of operation
    The salvager works on a copy of the volume's database (`salvage_copy`); what it has mended takes
    the original's place in one renaming. Killed at any moment before, it has changed nothing;
    after, everything. Chunks that were lost and found elsewhere are the one thing that is put right
    at once: a chunk is named by its hash, so it is right for whoever refers to it.

    First come rows: one whose checksum is wrong is mended if the checksum proves that it was mended
    right (`salvage_mend`), else left out. Then what rows of others still know is made again
    (`salvage_vnodes`, `salvage_header`), then names, the tree, data, chunks, and last the counts.

    Nothing is served that was not stored: what is lost is marked (`lost_data`), and reading it
    fails. At the end the mended volume has to pass the same check that an opening makes.

    Whatever changed has a new DataVersion and the volume a larger change counter, so that clients
    that ask again refetch it. A clone gets a new incarnation instead: its change counter names a
    state of the volume it was made of, which it does not show any more.

Source: OpenAFS `src/vol/vol-salvage.c`.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import NO_ORIGIN, VolumeState
from afs.volume.check_finding import Finding, FindingKind, Findings
from afs.volume.check_stray_chunks import remove_stray_chunks, stray_chunks
from afs.volume.chunk_store import ChunkStore, disk_errors
from afs.volume.flock import FileLock
from afs.volume.partition import Partition
from afs.volume.salvage_case import Case, SalvageOptions
from afs.volume.salvage_chunks import ChunkSources, Fetch, mend_chunks, nobody_has
from afs.volume.salvage_copy import Copied, copy_database
from afs.volume.salvage_data import mend_data
from afs.volume.salvage_header import (
    KnownIdentity,
    Totals,
    made_again,
    mended_counters,
    totals_query,
)
from afs.volume.salvage_mend import mend_rows
from afs.volume.salvage_names import mend_names
from afs.volume.salvage_tree import mend_counts, mend_tree
from afs.volume.salvage_vnodes import rebuild_lost_vnodes, remove_impossible_vnodes
from afs.volume.seal import check_seal
from afs.volume.sqlite_errors import afs_errors
from afs.volume.verify import check_tree
from afs.volume.vnode_path import path_of_subject
from afs.volume.volume_group import DRAFT_SUFFIX, VolumeGroup

# Told (step, done, total); the total is 0 where it is not known.
Progress = Callable[[str, int, int], None]
_NOBODY_KNOWS = KnownIdentity()
_AS_USUAL = SalvageOptions()


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """How a salvage ended.

    `changed`: the volume is not what it was, so promises on it are to be broken. `unrepaired`: how
    many things are still wrong; `findings` tells at most FINDINGS_TOLD_MAX of each kind.
    """

    findings: tuple[Finding, ...]
    changed: bool
    unrepaired: int


def salvage_volume(
    partition: Partition,
    volume_id: int,
    *,
    dry_run: bool = False,
    options: SalvageOptions = _AS_USUAL,
    known: KnownIdentity = _NOBODY_KNOWS,
    elsewhere: Sequence[Partition] = (),
    fetch: Fetch = nobody_has,
    clock_ns: Callable[[], int] = time.time_ns,
    tell: Callable[[Finding], None] | None = None,
    progress: Progress = lambda _step, _done, _total: None,
) -> SalvageReport:
    """Salvages a volume that nobody has open, damaged or not; durable on return.

    Args:
        partition: where it is.
        volume_id: which one.
        dry_run: only look, and say what would be done.
        options: what is to become of orphans and of files that lost data.
        known: what the location database says of it, should its header be lost.
        elsewhere: further partitions whose chunks may take the place of lost ones.
        fetch: asks other servers for what is lost here.
        clock_ns: the wall clock, nanoseconds since the Unix epoch.
        tell: gets each finding at once.
        progress: is told how far it is.

    Raises:
        AfsError: VNOVOL; VBUSY if somebody has it open; EAGAIN for half of a move; VSALVAGE if it
            is beyond repair; VDISKFULL, VIO. The volume is then as it was.
    """
    group = partition.group_for(volume_id)
    if not group.database(volume_id).exists():
        raise AfsError(AfsCode.VNOVOL, f"no volume {volume_id} on partition {partition.name}")
    lock = FileLock.take(group.path / f"{volume_id}.lock")
    if lock is None:
        raise AfsError(AfsCode.VBUSY, f"volume {volume_id} is in use by another program")
    salvager = _Salvager(
        group,
        volume_id,
        Findings(volume_id, tell),
        options,
        known,
        ChunkSources(
            group.chunks,
            [store for other in (partition, *elsewhere) for store in _stores(other, group)],
            fetch,
        ),
        clock_ns(),
        progress,
        dry_run=dry_run,
    )
    try:
        with disk_errors():
            return salvager.run()
    finally:
        lock.release()


class _Salvager:
    """One salvage. The volume's lock is held."""

    def __init__(
        self,
        group: VolumeGroup,
        volume_id: int,
        findings: Findings,
        options: SalvageOptions,
        known: KnownIdentity,
        sources: ChunkSources,
        now_ns: int,
        progress: Progress,
        *,
        dry_run: bool,
    ) -> None:
        self._group = group
        self._volume_id = volume_id
        self._findings = findings
        self._options = options
        self._known = known
        self._sources = sources
        self._now_ns = now_ns
        self._progress = progress
        self._dry_run = dry_run
        # Chunks that nobody has may be what is missing in a file.
        self._keeps_strays = False
        self._pinned: list[bytes] = []
        self._original = group.database(volume_id)

    def run(self) -> SalvageReport:
        """Salvages; what happened."""
        with self._group.new_database(self._volume_id) as new:
            # Not called a database before it is in its place: nobody looks there for chunks in use,
            # and whoever clears it away after a crash removes no chunks with it.
            draft = new.with_suffix(DRAFT_SUFFIX)
            try:
                changed = self._mend(draft)
                if changed and not self._dry_run:
                    self._progress("putting it in place", 0, 0)
                    self._group.put_in_place(draft, self._volume_id)
            finally:
                self._group.chunks.unpin(self._pinned)
                for suffix in ("", "-wal", "-shm", "-journal"):
                    draft.with_name(draft.name + suffix).unlink(missing_ok=True)
        self._mend_strays()
        self._findings.close()
        return SalvageReport(
            tuple(self._findings.told), changed and not self._dry_run, self._findings.unrepaired
        )

    def _mend(self, draft: Path) -> bool:
        """Makes the mended copy; whether it differs from the original in any way."""
        self._progress("reading the volume", 0, 0)
        unsealed_wrongly = self._check_seal()
        copied = copy_database(self._original, draft, self._findings)
        with afs_errors(), contextlib.closing(sqlite_schema.connect(draft)) as connection:
            # What a crash leaves of the copy is thrown away.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            self._findings.path_of = partial(path_of_subject, connection)
            rows_mended = mend_rows(
                connection,
                copied,
                self._group.chunks,
                partial(stray_chunks, self._group),
                self._findings,
            )
            self._pinned = copied.pinned
            self._keeps_strays = any(row.table in ("chunks", "packed") for row in copied.damaged)
            before = self._state(connection)
            case = self._case(connection, copied, before)
            case.changed |= rows_mended or unsealed_wrongly or copied.rebuilt
            self._mend_contents(case, copied, draft.stem)
            self._mend_header(case, before)
            connection.execute("COMMIT")
            self._progress("checking what was mended", 0, 0)
            self._check(connection, case.state)
            sqlite_schema.checkpoint(connection)
            self._findings.path_of = lambda _subject: ""
        return case.changed

    def _check_seal(self) -> bool:
        """True if the volume has a seal that does not fit it."""
        with self._group.chunks.lock(exclusive=False):
            try:
                check_seal(self._original)
            except AfsError as error:
                if error.code is not AfsCode.VSALVAGE:
                    raise
                self._findings.add(
                    FindingKind.SEAL,
                    self._original.name,
                    "the database is not the one that was sealed",
                    "every row looked at, and sealed anew",
                    repaired=True,
                )
                return True
        return False

    def _state(self, connection: sqlite3.Connection) -> VolumeState | None:
        """The header as it stands in the copy; None if it is lost.

        Raises:
            AfsError: VSALVAGE if it is another volume's; EAGAIN for half of a move.
        """
        try:
            state = rows.read_state(connection)
        except (AfsError, ValueError):
            return None
        header = state.header
        if header.volume_id != self._volume_id:
            raise AfsError(
                AfsCode.VSALVAGE,
                f"the database of volume {self._volume_id} says it is volume {header.volume_id}:"
                " it is under a wrong name, and nothing was changed",
            )
        if header.in_transit:
            raise AfsError(
                AfsCode.EAGAIN,
                f"volume {self._volume_id} is half of a move that has not ended: nothing was"
                " changed; the move's recovery keeps this half or deletes it",
            )
        return state

    def _case(
        self, connection: sqlite3.Connection, copied: Copied, before: VolumeState | None
    ) -> Case:
        totals = _totals(connection)
        state = before or made_again(
            self._volume_id,
            int(self._group.path.name),
            self._known,
            self._neighbours(),
            totals,
            self._now_ns,
        )
        if before is None:
            self._findings.add(
                FindingKind.HEADER,
                self._volume_id,
                "the volume's header is lost",
                f"made again: {state.header.name}, {state.header.type.name.lower()},"
                f" quota {state.header.max_quota_kib} KiB",
                repaired=True,
            )
        case = Case(
            connection,
            self._volume_id,
            self._findings,
            self._options,
            self._now_ns,
            state,
            fresh=max(state.max_data_version, totals.data_version) + 1,
            counter=state.header.change_counter + 1,
            changed=before is None,
            doubted=bool(copied.damaged) or copied.rebuilt or before is None,
        )
        case.prepare()
        return case

    def _mend_contents(self, case: Case, copied: Copied, owner: str) -> None:
        self._progress("checking names and the tree", 0, 0)
        remove_impossible_vnodes(case)
        rebuild_lost_vnodes(case)
        # Before anything is removed: the counters are to fit what there was.
        case.state = mended_counters(
            case.state, _totals(case.connection), self._findings, doubted=case.doubted
        )
        mend_names(case)
        mend_tree(case)
        mend_data(case, copied)
        mend_chunks(
            case,
            self._sources,
            owner,
            dry_run=self._dry_run,
            progress=self._progress,
        )
        case.remove_lost_files()
        mend_counts(case)

    def _mend_header(self, case: Case, before: VolumeState | None) -> None:
        """Writes the header, if anything is not what it was."""
        totals = _totals(case.connection)
        nobody = Findings(self._volume_id)
        state = mended_counters(case.state, totals, nobody, doubted=True)
        case.changed |= state != before
        if not case.changed:
            return
        header = replace(state.header, change_counter=case.counter, updated_ns=self._now_ns)
        if header.type is not VolumeType.READ_WRITE:
            header = replace(header, incarnation=secrets.token_hex(8))
        # An incremental dump of what the contents were made of would not fit them any more.
        case.state = replace(
            state,
            header=header,
            max_data_version=max(state.max_data_version, case.fresh),
            origin=NO_ORIGIN,
        )
        rows.write_state(case.connection, case.state)

    def _check(self, connection: sqlite3.Connection, state: VolumeState) -> None:
        """VSALVAGE unless the mended volume would be opened."""
        try:
            check_tree(connection, state)
        except AfsError as error:
            if error.code is not AfsCode.EIO:
                raise
            raise AfsError(
                AfsCode.VSALVAGE,
                f"volume {self._volume_id} is beyond repair, and as it was: {error.detail}",
            ) from error

    def _mend_strays(self) -> None:
        self._progress("looking for stray chunks", 0, 0)
        kept = self._keeps_strays
        for digest in remove_stray_chunks(self._group, dry_run=self._dry_run or kept):
            self._findings.add(
                FindingKind.STRAY_CHUNK,
                digest.hex(),
                "no file has it",
                "kept: a file may have lost it, the next salvage removes it" if kept else "removed",
                repaired=not kept,
            )

    def _neighbours(self) -> list[VolumeState]:
        """The states of the group's other volumes that can be read."""
        found: list[VolumeState] = []
        for volume_id in self._group.volumes():
            if volume_id == self._volume_id:
                continue
            with (
                contextlib.suppress(AfsError, ValueError),
                afs_errors(),
                contextlib.closing(
                    sqlite_schema.connect(self._group.database(volume_id))
                ) as connection,
            ):
                found.append(rows.read_state(connection))
        return found


def _totals(connection: sqlite3.Connection) -> Totals:
    return Totals(*connection.execute(totals_query()).fetchone())


def _stores(partition: Partition, group: VolumeGroup) -> list[ChunkStore]:
    """The chunks of all other groups of a partition, those of the volume's own id first."""
    others = [path for path in (partition.path / "groups").iterdir() if path != group.path]
    others.sort(key=lambda path: (path.name != group.path.name, path.name))
    return [ChunkStore(path) for path in others]
