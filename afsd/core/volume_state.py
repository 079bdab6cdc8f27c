"""Who has a volume: FSSync as one table, from command and standing to what is to be done.

Theory of operation
    The fileserver keeps a `VolumeRecord` for each volume it knows. `decide` looks a command up in
    `RULES` by where the volume stands towards the calling program (`Standing`), and answers with a
    `Decision`. A decision whose `step` is NOTHING is final: keep its record, break if it says so,
    answer. One that says ATTACH or DETACH is carried out by the volume table, which keeps the
    volume CHANGING meanwhile and then asks `attached`, `attach_failed`, `detached` or
    `detach_failed` for the final decision. Nothing here waits, reads a clock or touches a disk.

Invariants
    V1  A volume that is CHECKED_OUT is given back, moved or deleted by the program that took it and
        by no other.
    V2  Giving a volume back breaks its callbacks, unless the mark taken when it was detached
        (incarnation and change counter) is the one it comes back with (M5b). No mark, or a failed
        attachment, counts as changed.
    V3  BREAKCBKS, MOVE, DONE and LEAVE_OFF break always. LEAVE_OFF too, because the volume may have
        been changed while it was out, and a promise must not keep the old contents readable while
        it stays off-line.
    V4  A refused command changes nothing.
    V5  A volume that is half of a move (`in_transit`) is never attached: at the start it counts as
        taken by a program unknown, later VOL_ON of it is refused. A copy of it without that mark,
        on another partition, is the volume (`choose_copy`).

Source: OpenAFS `src/vol/fssync-server.c` for the commands, the 2002 mail for the breaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from afs.errors import AfsCode
from afs.types import BreakReason, ChangeMark
from afsd.core.volume_rules import (
    DAMAGED,
    GIVEN_BACK_AFTER,
    REPAIR_REASONS,
    RULES,
    FsyncCommand,
    FsyncReason,
    FsyncResponse,
    Rule,
    Standing,
    Step,
    VolumeState,
)


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """What the fileserver remembers of one volume.

    `program` has taken it (CHECKED_OUT); an empty one means that a program unknown to this
    incarnation of the fileserver has, and any program may speak for it: the lock on the volume
    itself tells them apart. `mark` is what the volume said when it was last detached; None means
    that nothing is known.
    """

    state: VolumeState
    program: str = ""
    taken_for: FsyncReason = FsyncReason.NONE
    mark: ChangeMark | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a command.

    `record` is the volume's record from now on (None: the volume is not known), `breaks` the reason
    to break its callbacks with (None: leave them), `detail` one line for people.
    """

    response: FsyncResponse
    reason: FsyncReason
    step: Step
    record: VolumeRecord | None
    breaks: BreakReason | None
    detail: str
    before: VolumeRecord | None
    rule: Rule


_STANDING_OF_STATE: Final = {
    VolumeState.ONLINE: Standing.ONLINE,
    VolumeState.OFFLINE: Standing.OFFLINE,
    VolumeState.ERROR: Standing.ERROR,
    VolumeState.MOVED: Standing.MOVED,
    VolumeState.CHANGING: Standing.CHANGING,
}


def standing(record: VolumeRecord | None, program: str) -> Standing:
    """Where a volume with this record (None: not known) stands towards a program."""
    if record is None:
        return Standing.UNKNOWN
    if record.state is VolumeState.CHECKED_OUT:
        return Standing.MINE if record.program in ("", program) else Standing.ANOTHERS
    return _STANDING_OF_STATE[record.state]


def decide(
    record: VolumeRecord | None, command: FsyncCommand, reason: FsyncReason, program: str
) -> Decision:
    """What follows from a command about a volume with this record (None: not known).

    Args:
        record: what is known of the volume.
        command: any command but VOL_LISTVOLUMES, which is about no single volume.
        reason: what the caller wants the volume for.
        program: who asks.
    """
    rule = RULES[command][standing(record, program)]
    if rule.repair_only and reason not in REPAIR_REASONS:
        rule = DAMAGED
    refused = rule.response is not FsyncResponse.OK
    return Decision(
        response=rule.response,
        reason=rule.reason,
        step=rule.step,
        record=record if refused else _record_after(record, rule, reason, program),
        breaks=_why(record, rule, reason),
        detail=_refusal(record, rule, program) if refused else "",
        before=record,
        rule=rule,
    )


def attached(decision: Decision, mark: ChangeMark) -> Decision:
    """The final decision after ATTACH succeeded and the volume came with this mark (V2)."""
    assert decision.record is not None
    known = decision.before.mark if decision.before is not None else None
    unchanged = decision.rule.unless_unchanged and known == mark
    return replace(
        decision,
        step=Step.NOTHING,
        record=replace(decision.record, mark=mark),
        breaks=None if unchanged else decision.breaks,
    )


_ATTACH_FAILURES: Final[Mapping[AfsCode, tuple[FsyncResponse, FsyncReason]]] = {
    AfsCode.VNOVOL: (FsyncResponse.UNKNOWN_VOLUME, FsyncReason.NO_VOLUME),
    AfsCode.VSALVAGE: (FsyncResponse.FAILED, FsyncReason.DAMAGED),
    AfsCode.EIO: (FsyncResponse.FAILED, FsyncReason.DAMAGED),
    AfsCode.VBUSY: (FsyncResponse.FAILED, FsyncReason.EXCLUSIVE),
}


def attach_failed(decision: Decision, code: AfsCode, detail: str) -> Decision:
    """The final decision after ATTACH failed.

    A damaged volume goes to ERROR and its callbacks are broken: nobody can vouch for what they rest
    on. After any other failure the volume stays where it was, so that its owner can try again.
    """
    response, reason = _ATTACH_FAILURES.get(code, (FsyncResponse.FAILED, FsyncReason.IO_ERROR))
    damaged = reason is FsyncReason.DAMAGED
    return replace(
        decision,
        response=response,
        reason=reason,
        step=Step.NOTHING,
        record=VolumeRecord(VolumeState.ERROR, detail=detail) if damaged else decision.before,
        breaks=decision.breaks if damaged else None,
        detail=detail,
    )


def detached(decision: Decision, mark: ChangeMark) -> Decision:
    """The final decision after DETACH succeeded and the volume left with this mark."""
    assert decision.record is not None
    # A volume in ERROR is about to be repaired: what it said before proves nothing about it (V2).
    kept = None if decision.record.state is VolumeState.ERROR else mark
    return replace(decision, step=Step.NOTHING, record=replace(decision.record, mark=kept))


def detach_failed(decision: Decision, detail: str) -> Decision:
    """The final decision after DETACH failed: the volume is in ERROR, and nobody gets it."""
    return replace(
        decision,
        response=FsyncResponse.FAILED,
        reason=FsyncReason.IO_ERROR,
        step=Step.NOTHING,
        record=VolumeRecord(VolumeState.ERROR, detail=detail),
        detail=detail,
    )


def refuse(decision: Decision, reason: FsyncReason, detail: str) -> Decision:
    """The decision turned into a refusal, for a reason the table does not know (V4)."""
    return replace(
        decision,
        response=FsyncResponse.DENIED,
        reason=reason,
        step=Step.NOTHING,
        record=decision.before,
        breaks=None,
        detail=detail,
    )


def _why(record: VolumeRecord | None, rule: Rule, reason: FsyncReason) -> BreakReason | None:
    """The reason to break with: where a volume is given back, it follows from what it was out for.

    The caller's word counts if nobody here knows: for a volume that an earlier life of the
    fileserver gave out, and one that is new.
    """
    if rule.breaks is not BreakReason.VOLUME_GIVEN_BACK:
        return rule.breaks
    taken_for = FsyncReason.NONE if record is None else record.taken_for
    return GIVEN_BACK_AFTER.get(taken_for or reason, rule.breaks)


def _record_after(
    record: VolumeRecord | None, rule: Rule, reason: FsyncReason, program: str
) -> VolumeRecord | None:
    """The record that follows from an accepted rule."""
    if rule.forget:
        return None
    if rule.to is None:
        return record
    mark = record.mark if record is not None else None
    if rule.to is VolumeState.CHECKED_OUT:
        return VolumeRecord(rule.to, program=program, taken_for=reason, mark=mark)
    if rule.to is VolumeState.ERROR:
        return VolumeRecord(rule.to, detail=f"put into the error state by {program}")
    return VolumeRecord(rule.to, mark=mark)


def _refusal(record: VolumeRecord | None, rule: Rule, program: str) -> str:
    """One line that says why a command was refused."""
    if record is None:
        return "this fileserver knows no such volume"
    if rule.reason is FsyncReason.EXCLUSIVE:
        return f"the volume is taken by {record.program or 'another program'}"
    if rule.reason is FsyncReason.WRONG_OWNER:
        owner = f"taken by {record.program}" if record.program else "not taken by anyone"
        return f"the volume is {owner}; {program} cannot give it back"
    if rule.reason is FsyncReason.DAMAGED:
        return f"the volume is in the error state: {record.detail}"
    return f"not possible while the volume is {record.state.name}"
