"""A header that is lost, made again; and the counters of one that is not.

What a lost header said can be known from elsewhere, or has a value that is safe:

*   Id and type from where the volume lies, the name from who asks, else from its neighbours.
*   A new incarnation: whatever clients hold of the volume is void, and no counter needs to go on.
*   Vnode numbers, uniquifiers and DataVersions go on far beyond the largest there is: none is given
    twice, although the latest may have been those of files that are gone.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from afs.errors import AfsError
from afs.limits import MAX_UINT32
from afs.types import VolumeHeader, VolumeType
from afs.volume.change_set import NO_ORIGIN, VolumeState
from afs.volume.check_finding import FindingKind, Findings
from afs.volume.volume_header import check_volume_name

# How far a lost counter is set beyond what is known to have been given.
_SKIPPED_NUMBERS: Final = 1_000_000
_SKIPPED_VERSIONS: Final = 2**32
# A volume's three ids are in a row: read-write, read-only, backup.
_PLACE_IN_ROW: Final = {
    VolumeType.READ_WRITE: 0,
    VolumeType.READ_ONLY: 1,
    VolumeType.BACKUP: 2,
}
_SUFFIXES: Final = {VolumeType.READ_ONLY: ".readonly", VolumeType.BACKUP: ".backup"}


@dataclass(frozen=True, slots=True)
class KnownIdentity:
    """What others know of a volume, should its header be lost; None: not known."""

    name: str | None = None
    type: VolumeType | None = None


class Totals(NamedTuple):
    """What the rows of vnodes add up to; the largest numbers are 0 where there are none."""

    used_kib: int
    file_count: int
    vnode: int
    uniquifier: int
    data_version: int


def totals_query() -> str:
    """The query that gives the `Totals`."""
    return (
        "SELECT coalesce(sum(max(1, (length + 1023) / 1024)), 0), count(*),"
        " coalesce(max(vnode), 0), coalesce(max(uniquifier), 0), coalesce(max(data_version), 0)"
        " FROM vnodes"
    )


def made_again(
    volume_id: int,
    group_id: int,
    known: KnownIdentity,
    neighbours: Sequence[VolumeState],
    totals: Totals,
    now_ns: int,
) -> VolumeState:
    """The state of a volume whose header is lost."""
    kind = _type(volume_id, group_id, known)
    # A clone tells of the volume it shows, and the other way round.
    like = max((each for each in neighbours), key=_newness, default=None)
    header = VolumeHeader(
        volume_id=volume_id,
        name=_name(volume_id, kind, known, neighbours),
        type=kind,
        read_write_id=volume_id - _PLACE_IN_ROW[kind],
        backup_id=0,
        incarnation=secrets.token_hex(8),
        max_quota_kib=like.header.max_quota_kib if like is not None else 0,
        used_kib=totals.used_kib,
        file_count=totals.file_count,
        created_ns=like.header.created_ns if like is not None else now_ns,
        updated_ns=now_ns,
        cloned_ns=0 if kind is VolumeType.READ_WRITE else now_ns,
        change_counter=1 + max((each.header.change_counter for each in neighbours), default=0),
        offline_message="",
        leave_offline=False,
    )
    numbers = max([totals.vnode, *(each.next_vnode for each in neighbours)])
    uniquifiers = max([totals.uniquifier, *(each.next_uniquifier for each in neighbours)])
    versions = max([totals.data_version, *(each.max_data_version for each in neighbours)])
    return VolumeState(
        header,
        min(numbers + _SKIPPED_NUMBERS, MAX_UINT32 + 1),
        min(uniquifiers + _SKIPPED_NUMBERS, MAX_UINT32 + 1),
        versions + _SKIPPED_VERSIONS,
        NO_ORIGIN,
    )


def mended_counters(
    state: VolumeState, totals: Totals, findings: Findings, *, doubted: bool
) -> VolumeState:
    """The state with counters that fit the rows; tells of those that did not.

    Args:
        state: as the header says.
        totals: what there is.
        findings: where to tell.
        doubted: rows are lost, so it is not the counters that are wrong.
    """
    header = state.header
    mended = replace(
        state,
        header=replace(header, used_kib=totals.used_kib, file_count=totals.file_count),
        next_vnode=max(state.next_vnode, totals.vnode + 1),
        next_uniquifier=max(state.next_uniquifier, totals.uniquifier + 1),
        max_data_version=max(state.max_data_version, totals.data_version),
    )
    said = _counters(state)
    for name, right in _counters(mended).items():
        if said[name] != right and not doubted:
            findings.add(
                FindingKind.COUNTER,
                name,
                f"it says {said[name]}: expected {right}",
                "set right",
                repaired=True,
            )
    return mended


def _counters(state: VolumeState) -> dict[str, int]:
    return {
        "used_kib": state.header.used_kib,
        "file_count": state.header.file_count,
        "next_vnode": state.next_vnode,
        "next_uniquifier": state.next_uniquifier,
        "max_data_version": state.max_data_version,
    }


def _type(volume_id: int, group_id: int, known: KnownIdentity) -> VolumeType:
    if known.type is not None:
        return known.type
    for kind, place in _PLACE_IN_ROW.items():
        if volume_id == group_id + place:
            return kind
    return VolumeType.READ_WRITE


def _name(
    volume_id: int, kind: VolumeType, known: KnownIdentity, neighbours: Sequence[VolumeState]
) -> str:
    if known.name is not None:
        return known.name
    suffix = _SUFFIXES.get(kind, "")
    for each in neighbours:
        base = each.header.name
        for other in _SUFFIXES.values():
            base = base.removesuffix(other)
        try:
            return check_volume_name(base + suffix)
        except AfsError:
            continue
    return f"salvaged-{volume_id}{suffix}"


def _newness(state: VolumeState) -> int:
    return state.header.change_counter
