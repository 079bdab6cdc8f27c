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

Source: OpenAFS `src/vol/fssync-server.c` for the commands, the 2002 mail for the breaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from afs.errors import AfsCode
from afs.types import BreakReason


class FsyncCommand(IntEnum):
    """The commands that go through the table. Numbers as in `afs.v1.FsyncCommand`."""

    VOL_ON = 1
    VOL_OFF = 2
    NEEDVOLUME = 3
    VOL_LEAVE_OFF = 4
    VOL_MOVE = 5
    VOL_DONE = 6
    VOL_BREAKCBKS = 7
    VOL_QUERY = 8
    VOL_ATTACH = 9
    VOL_FORCE_ERROR = 10
    VOL_QUERY_VNODE = 11
    VOL_LISTVOLUMES = 12


class FsyncResponse(IntEnum):
    """How a command ended. Numbers as in `afs.v1.FsyncResponseCode`."""

    OK = 1
    DENIED = 2
    FAILED = 3
    UNKNOWN_VOLUME = 4


class FsyncReason(IntEnum):
    """Why a command was refused, or a volume taken. Numbers as in `afs.v1.FsyncReason`."""

    NONE = 0
    EXCLUSIVE = 1
    WRONG_OWNER = 2
    WRONG_PARTITION = 3
    BAD_STATE = 4
    DAMAGED = 5
    NO_VOLUME = 6
    SALVAGE = 7
    FOR_CLONE = 8
    FOR_RESTORE = 9
    FOR_DUMP = 10
    FOR_DELETE = 11
    FOR_MOVE = 12
    FOR_OPERATOR = 13
    IO_ERROR = 14


class VolumeState(IntEnum):
    """Where a volume is. Numbers as in `afs.v1.VolumeState`."""

    ONLINE = 1
    CHECKED_OUT = 2
    OFFLINE = 3
    ERROR = 4
    MOVED = 5
    CHANGING = 6


class ChangeMark(NamedTuple):
    """What proves that a volume did not change: its incarnation and its change counter."""

    incarnation: str
    change_counter: int


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


class Step(Enum):
    """What the volume table has to do before a decision is final."""

    NOTHING = auto()
    ATTACH = auto()
    DETACH = auto()


class Standing(Enum):
    """Where a volume stands towards the program that asks."""

    UNKNOWN = auto()
    ONLINE = auto()
    MINE = auto()
    ANOTHERS = auto()
    OFFLINE = auto()
    ERROR = auto()
    MOVED = auto()
    CHANGING = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """One cell of the table.

    `to` is the state that follows (None: as it was). `breaks` is the reason to break the volume's
    callbacks with, if any; `unless_unchanged` leaves that out where the mark proves that nothing
    changed. `forget` drops the record. `repair_only` limits the rule to callers who come to mend,
    replace or delete the volume.
    """

    response: FsyncResponse = FsyncResponse.OK
    reason: FsyncReason = FsyncReason.NONE
    step: Step = Step.NOTHING
    to: VolumeState | None = None
    breaks: BreakReason | None = None
    unless_unchanged: bool = False
    forget: bool = False
    repair_only: bool = False


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


_OK: Final = Rule()
_NO_VOLUME: Final = Rule(FsyncResponse.UNKNOWN_VOLUME, FsyncReason.NO_VOLUME)
_EXCLUSIVE: Final = Rule(FsyncResponse.DENIED, FsyncReason.EXCLUSIVE)
_WRONG_OWNER: Final = Rule(FsyncResponse.DENIED, FsyncReason.WRONG_OWNER)
_BAD_STATE: Final = Rule(FsyncResponse.DENIED, FsyncReason.BAD_STATE)
_DAMAGED: Final = Rule(FsyncResponse.DENIED, FsyncReason.DAMAGED)
_BREAK: Final = Rule(breaks=BreakReason.VOLUME_BREAK_REQUESTED)
_GO_ONLINE: Final = Rule(
    step=Step.ATTACH, to=VolumeState.ONLINE, breaks=BreakReason.VOLUME_GIVEN_BACK
)
_GIVE_BACK: Final = replace(_GO_ONLINE, unless_unchanged=True)
_MOVED_AWAY: Final = Rule(to=VolumeState.MOVED, breaks=BreakReason.VOLUME_MOVED)


def _row(
    *,
    unknown: Rule,
    online: Rule,
    mine: Rule,
    anothers: Rule,
    offline: Rule,
    error: Rule,
    moved: Rule,
    changing: Rule,
) -> Mapping[Standing, Rule]:
    """One command's rules, one for every standing."""
    return {
        Standing.UNKNOWN: unknown,
        Standing.ONLINE: online,
        Standing.MINE: mine,
        Standing.ANOTHERS: anothers,
        Standing.OFFLINE: offline,
        Standing.ERROR: error,
        Standing.MOVED: moved,
        Standing.CHANGING: changing,
    }


RULES: Final[Mapping[FsyncCommand, Mapping[Standing, Rule]]] = {
    FsyncCommand.VOL_ON: _row(
        unknown=_GO_ONLINE,
        online=_OK,
        mine=_GIVE_BACK,
        anothers=_WRONG_OWNER,
        offline=_GIVE_BACK,
        error=_BAD_STATE,
        moved=_GO_ONLINE,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_OFF: _row(
        unknown=_NO_VOLUME,
        online=Rule(step=Step.DETACH, to=VolumeState.OFFLINE),
        mine=Rule(to=VolumeState.OFFLINE, breaks=BreakReason.VOLUME_GIVEN_BACK),
        anothers=_EXCLUSIVE,
        offline=_OK,
        error=_BAD_STATE,
        moved=_BAD_STATE,
        changing=_BAD_STATE,
    ),
    FsyncCommand.NEEDVOLUME: _row(
        unknown=_NO_VOLUME,
        online=Rule(step=Step.DETACH, to=VolumeState.CHECKED_OUT),
        mine=Rule(to=VolumeState.CHECKED_OUT),
        anothers=_EXCLUSIVE,
        offline=Rule(to=VolumeState.CHECKED_OUT),
        error=Rule(to=VolumeState.CHECKED_OUT, repair_only=True),
        moved=_BAD_STATE,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_LEAVE_OFF: _row(
        unknown=_NO_VOLUME,
        online=_WRONG_OWNER,
        mine=Rule(to=VolumeState.OFFLINE, breaks=BreakReason.VOLUME_GIVEN_BACK),
        anothers=_WRONG_OWNER,
        offline=_OK,
        error=_BAD_STATE,
        moved=_BAD_STATE,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_MOVE: _row(
        unknown=_NO_VOLUME,
        online=_WRONG_OWNER,
        mine=_MOVED_AWAY,
        anothers=_WRONG_OWNER,
        offline=_WRONG_OWNER,
        error=_WRONG_OWNER,
        moved=_MOVED_AWAY,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_DONE: _row(
        unknown=_NO_VOLUME,
        online=_WRONG_OWNER,
        mine=Rule(forget=True, breaks=BreakReason.VOLUME_DELETED),
        anothers=_WRONG_OWNER,
        offline=_WRONG_OWNER,
        error=_WRONG_OWNER,
        # The old copy of a moved volume was deleted: clients are still to hear VMOVED.
        moved=_MOVED_AWAY,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_BREAKCBKS: _row(
        unknown=_NO_VOLUME,
        online=_BREAK,
        mine=_BREAK,
        anothers=_BREAK,
        offline=_BREAK,
        error=_BREAK,
        moved=_BREAK,
        changing=_BREAK,
    ),
    FsyncCommand.VOL_QUERY: _row(
        unknown=_NO_VOLUME,
        online=_OK,
        mine=_OK,
        anothers=_OK,
        offline=_OK,
        error=_OK,
        moved=_OK,
        changing=_OK,
    ),
    FsyncCommand.VOL_ATTACH: _row(
        unknown=_GO_ONLINE,
        online=_OK,
        mine=_EXCLUSIVE,
        anothers=_EXCLUSIVE,
        offline=_GIVE_BACK,
        error=replace(_GO_ONLINE, breaks=BreakReason.VOLUME_SALVAGED),
        moved=_GO_ONLINE,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_FORCE_ERROR: _row(
        unknown=_NO_VOLUME,
        online=Rule(step=Step.DETACH, to=VolumeState.ERROR),
        mine=Rule(to=VolumeState.ERROR),
        anothers=_EXCLUSIVE,
        offline=Rule(to=VolumeState.ERROR),
        error=_OK,
        moved=_BAD_STATE,
        changing=_BAD_STATE,
    ),
    FsyncCommand.VOL_QUERY_VNODE: _row(
        unknown=_NO_VOLUME,
        online=_OK,
        mine=_BAD_STATE,
        anothers=_BAD_STATE,
        offline=_BAD_STATE,
        error=_BAD_STATE,
        moved=_BAD_STATE,
        changing=_BAD_STATE,
    ),
}

# What a program may take a damaged volume for.
REPAIR_REASONS: Final = frozenset(
    {FsyncReason.SALVAGE, FsyncReason.FOR_RESTORE, FsyncReason.FOR_DELETE}
)
# Commands that only look, or only break: they neither wait for a volume that is CHANGING nor change
# its record.
PASSING_COMMANDS: Final = frozenset(
    {FsyncCommand.VOL_BREAKCBKS, FsyncCommand.VOL_QUERY, FsyncCommand.VOL_QUERY_VNODE}
)

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
        rule = _DAMAGED
    refused = rule.response is not FsyncResponse.OK
    return Decision(
        response=rule.response,
        reason=rule.reason,
        step=rule.step,
        record=record if refused else _record_after(record, rule, reason, program),
        breaks=rule.breaks,
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
