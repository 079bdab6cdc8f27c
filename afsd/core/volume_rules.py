"""What FSSync commands mean, as one table from command and standing to what is to be done.

`volume_state` explains how it is used, and its invariants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, auto
from typing import Final

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
    FOR_RELEASE = 15


class VolumeState(IntEnum):
    """Where a volume is. Numbers as in `afs.v1.VolumeState`."""

    ONLINE = 1
    CHECKED_OUT = 2
    OFFLINE = 3
    ERROR = 4
    MOVED = 5
    CHANGING = 6


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
    replace or delete the volume. `elsewhere`: the command may name another partition of this
    fileserver than the one where the volume was; if the volume is there, that is its place from
    then on.
    """

    response: FsyncResponse = FsyncResponse.OK
    reason: FsyncReason = FsyncReason.NONE
    step: Step = Step.NOTHING
    to: VolumeState | None = None
    breaks: BreakReason | None = None
    unless_unchanged: bool = False
    forget: bool = False
    repair_only: bool = False
    elsewhere: bool = False


_OK: Final = Rule()
_NO_VOLUME: Final = Rule(FsyncResponse.UNKNOWN_VOLUME, FsyncReason.NO_VOLUME)
_EXCLUSIVE: Final = Rule(FsyncResponse.DENIED, FsyncReason.EXCLUSIVE)
_WRONG_OWNER: Final = Rule(FsyncResponse.DENIED, FsyncReason.WRONG_OWNER)
_BAD_STATE: Final = Rule(FsyncResponse.DENIED, FsyncReason.BAD_STATE)
# What a command is refused with that only a repair may give.
DAMAGED: Final = Rule(FsyncResponse.DENIED, FsyncReason.DAMAGED)
_BREAK: Final = Rule(breaks=BreakReason.VOLUME_BREAK_REQUESTED)
_GO_ONLINE: Final = Rule(
    step=Step.ATTACH, to=VolumeState.ONLINE, breaks=BreakReason.VOLUME_GIVEN_BACK
)
_GIVE_BACK: Final = replace(_GO_ONLINE, unless_unchanged=True)
# A volume that moved away may come back to any partition.
_COME_BACK: Final = replace(_GO_ONLINE, elsewhere=True)
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
        mine=replace(_GIVE_BACK, elsewhere=True),
        anothers=_WRONG_OWNER,
        offline=_GIVE_BACK,
        error=_BAD_STATE,
        moved=_COME_BACK,
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
        mine=Rule(to=VolumeState.OFFLINE, breaks=BreakReason.VOLUME_GIVEN_BACK, elsewhere=True),
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
        moved=_COME_BACK,
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

# What a volume was taken for, where clients are told more than that it was given back.
GIVEN_BACK_AFTER: Final[Mapping[FsyncReason, BreakReason]] = {
    FsyncReason.FOR_RELEASE: BreakReason.VOLUME_RELEASED,
    FsyncReason.SALVAGE: BreakReason.VOLUME_SALVAGED,
}
# What a program may take a damaged volume for.
REPAIR_REASONS: Final = frozenset(
    {
        FsyncReason.SALVAGE,
        FsyncReason.FOR_RESTORE,
        FsyncReason.FOR_DELETE,
        FsyncReason.FOR_RELEASE,
    }
)
# Commands that only look, or only break: they neither wait for a volume that is CHANGING nor change
# its record.
PASSING_COMMANDS: Final = frozenset(
    {FsyncCommand.VOL_BREAKCBKS, FsyncCommand.VOL_QUERY, FsyncCommand.VOL_QUERY_VNODE}
)
