"""The FSSync state machine: every cell of its table, and its invariants V1 to V4."""

from __future__ import annotations

from enum import IntEnum

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from hypothesis import given
from hypothesis import strategies as st

from afs.errors import AfsCode
from afs.types import BreakReason, ChangeMark
from afs.v1 import fssync_pb2
from afsd.core.volume_rules import (
    PASSING_COMMANDS,
    REPAIR_REASONS,
    RULES,
    FsyncCommand,
    FsyncReason,
    FsyncResponse,
    Standing,
    Step,
    VolumeState,
)
from afsd.core.volume_state import (
    Decision,
    VolumeRecord,
    attach_failed,
    attached,
    decide,
    detach_failed,
    detached,
    refuse,
    standing,
)

MARK = ChangeMark("a1", 7)
VOLSERVER = "volserver@run"
OTHER = "afsctl"
ONLINE = VolumeRecord(VolumeState.ONLINE, mark=MARK)
OFFLINE = VolumeRecord(VolumeState.OFFLINE, mark=MARK)
TAKEN = VolumeRecord(VolumeState.CHECKED_OUT, VOLSERVER, FsyncReason.FOR_DUMP, MARK)
UNCLAIMED = VolumeRecord(VolumeState.CHECKED_OUT)
ERROR = VolumeRecord(VolumeState.ERROR, detail="row 5: bad checksum")
MOVED = VolumeRecord(VolumeState.MOVED)
CHANGING = VolumeRecord(VolumeState.CHANGING)
RECORDS = [None, ONLINE, OFFLINE, TAKEN, UNCLAIMED, ERROR, MOVED, CHANGING]
COMMANDS = sorted(RULES)


def ask(
    record: VolumeRecord | None,
    command: FsyncCommand,
    program: str = VOLSERVER,
    reason: FsyncReason = FsyncReason.FOR_OPERATOR,
) -> Decision:
    """The decision about a command."""
    return decide(record, command, reason, program)


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (FsyncCommand, fssync_pb2.FsyncCommand, "FSYNC_"),
        (FsyncResponse, fssync_pb2.FsyncResponseCode, "FSYNC_"),
        (FsyncReason, fssync_pb2.FsyncReason, "FSYNC_"),
        (VolumeState, fssync_pb2.VolumeState, "VOLUME_STATE_"),
    ],
)
def test_names_and_numbers_are_those_of_the_wire(
    ours: type[IntEnum], wire: EnumTypeWrapper, prefix: str
) -> None:
    """Every member has the name and number that the protocol gives it, and none is missing."""
    unspecified = {"FSYNC_UNSPECIFIED", "FSYNC_RESPONSE_UNSPECIFIED", "VOLUME_STATE_UNSPECIFIED"}
    expected = {
        name.removeprefix(prefix): number
        for name, number in wire.items()
        if name not in unspecified
    }
    if "REASON_UNSPECIFIED" in expected:
        expected["NONE"] = expected.pop("REASON_UNSPECIFIED")
    assert {member.name: member.value for member in ours} == expected


def test_the_table_has_a_rule_for_every_command_and_standing() -> None:
    """No pair of command and standing is left out; only LISTVOLUMES is about no single volume."""
    assert set(RULES) == set(FsyncCommand) - {FsyncCommand.VOL_LISTVOLUMES}
    for row in RULES.values():
        assert set(row) == set(Standing)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, Standing.UNKNOWN),
        (ONLINE, Standing.ONLINE),
        (OFFLINE, Standing.OFFLINE),
        (TAKEN, Standing.MINE),
        (UNCLAIMED, Standing.MINE),
        (ERROR, Standing.ERROR),
        (MOVED, Standing.MOVED),
        (CHANGING, Standing.CHANGING),
    ],
)
def test_standing_follows_from_the_record(record: VolumeRecord | None, expected: Standing) -> None:
    """Each state has its standing; a volume whose taker is not known is anyone's."""
    assert standing(record, VOLSERVER) is expected


def test_a_volume_of_another_program_is_anothers() -> None:
    """What one program took is another's to everyone else."""
    assert standing(TAKEN, OTHER) is Standing.ANOTHERS


def test_needvolume_detaches_and_remembers_the_taker() -> None:
    """NEEDVOLUME of an online volume detaches it; then it is the caller's, with its mark."""
    decision = ask(ONLINE, FsyncCommand.NEEDVOLUME, reason=FsyncReason.FOR_CLONE)
    assert decision.step is Step.DETACH
    final = detached(decision, ChangeMark("a1", 8))
    assert final.step is Step.NOTHING
    assert final.response is FsyncResponse.OK
    assert final.breaks is None
    assert final.record == VolumeRecord(
        VolumeState.CHECKED_OUT, VOLSERVER, FsyncReason.FOR_CLONE, ChangeMark("a1", 8)
    )


def test_needvolume_again_by_the_taker_is_granted() -> None:
    """A taker that lost its answer may ask again, and keeps the mark of the first time."""
    decision = ask(TAKEN, FsyncCommand.NEEDVOLUME, reason=FsyncReason.FOR_RESTORE)
    assert decision.response is FsyncResponse.OK
    assert decision.record == VolumeRecord(
        VolumeState.CHECKED_OUT, VOLSERVER, FsyncReason.FOR_RESTORE, MARK
    )


def test_what_another_program_took_is_refused_as_exclusive() -> None:
    """Two programs never have one volume."""
    decision = ask(TAKEN, FsyncCommand.NEEDVOLUME, OTHER)
    assert (decision.response, decision.reason) == (FsyncResponse.DENIED, FsyncReason.EXCLUSIVE)
    assert VOLSERVER in decision.detail


def test_an_unclaimed_volume_is_named_so_to_others() -> None:
    """Nobody can take or attach away what an unknown program has, and the line says so."""
    decision = ask(UNCLAIMED, FsyncCommand.VOL_ATTACH, OTHER)
    assert decision.reason is FsyncReason.EXCLUSIVE
    assert "another program" in decision.detail


@pytest.mark.parametrize(
    "command",
    [
        FsyncCommand.VOL_ON,
        FsyncCommand.VOL_LEAVE_OFF,
        FsyncCommand.VOL_MOVE,
        FsyncCommand.VOL_DONE,
    ],
)
def test_only_the_taker_gives_back(command: FsyncCommand) -> None:
    """V1: nobody gives back, moves or deletes what another program took."""
    decision = ask(TAKEN, command, OTHER)
    assert (decision.response, decision.reason) == (FsyncResponse.DENIED, FsyncReason.WRONG_OWNER)
    assert VOLSERVER in decision.detail
    assert decision.record == TAKEN


def test_a_volume_nobody_took_is_not_given_back() -> None:
    """LEAVE_OFF of an online volume is refused, with a line that says why."""
    decision = ask(ONLINE, FsyncCommand.VOL_LEAVE_OFF)
    assert decision.reason is FsyncReason.WRONG_OWNER
    assert "not taken" in decision.detail


@pytest.mark.parametrize("record", [TAKEN, OFFLINE])
def test_an_unchanged_volume_goes_online_without_a_break(record: VolumeRecord) -> None:
    """V2, M5b: the mark it left with proves that nothing changed."""
    decision = ask(record, FsyncCommand.VOL_ON)
    assert decision.step is Step.ATTACH
    final = attached(decision, MARK)
    assert final.record == ONLINE
    assert final.breaks is None


@pytest.mark.parametrize("mark", [ChangeMark("a1", 8), ChangeMark("b2", 7)])
def test_a_changed_volume_is_broken_when_given_back(mark: ChangeMark) -> None:
    """V2, M5b: another counter, or another incarnation with the same counter, is a change."""
    final = attached(ask(TAKEN, FsyncCommand.VOL_ON), mark)
    assert final.breaks is BreakReason.VOLUME_GIVEN_BACK
    assert final.record == VolumeRecord(VolumeState.ONLINE, mark=mark)


@pytest.mark.parametrize("record", [None, UNCLAIMED, MOVED])
def test_a_volume_without_a_mark_is_broken_when_it_comes(record: VolumeRecord | None) -> None:
    """V2, T21: where nothing is known of what it was, it counts as changed."""
    final = attached(ask(record, FsyncCommand.VOL_ON), MARK)
    assert final.breaks is BreakReason.VOLUME_GIVEN_BACK


@pytest.mark.parametrize(
    ("command", "state", "reason"),
    [
        (FsyncCommand.VOL_LEAVE_OFF, VolumeState.OFFLINE, BreakReason.VOLUME_GIVEN_BACK),
        (FsyncCommand.VOL_OFF, VolumeState.OFFLINE, BreakReason.VOLUME_GIVEN_BACK),
        (FsyncCommand.VOL_MOVE, VolumeState.MOVED, BreakReason.VOLUME_MOVED),
        (
            FsyncCommand.VOL_BREAKCBKS,
            VolumeState.CHECKED_OUT,
            BreakReason.VOLUME_BREAK_REQUESTED,
        ),
    ],
)
def test_a_taken_volume_is_always_broken_by(
    command: FsyncCommand, state: VolumeState, reason: BreakReason
) -> None:
    """V3: these break whatever the mark says."""
    decision = ask(TAKEN, command)
    assert decision.step is Step.NOTHING
    assert decision.record is not None
    assert decision.record.state is state
    assert decision.breaks is reason


def test_done_forgets_the_volume_and_breaks() -> None:
    """V3: a deleted volume is not known any more, and its callbacks are broken."""
    decision = ask(TAKEN, FsyncCommand.VOL_DONE)
    assert decision.record is None
    assert decision.breaks is BreakReason.VOLUME_DELETED


def test_the_old_copy_of_a_moved_volume_leaves_vmoved_behind() -> None:
    """DONE after MOVE: clients are still to be told to locate the volume again."""
    decision = ask(MOVED, FsyncCommand.VOL_DONE)
    assert decision.record is not None
    assert decision.record.state is VolumeState.MOVED


@pytest.mark.parametrize("record", RECORDS[1:])
def test_breakcbks_breaks_in_every_state(record: VolumeRecord) -> None:
    """V3: whatever the state, whoever has it; and the state stays."""
    decision = ask(record, FsyncCommand.VOL_BREAKCBKS, OTHER)
    assert decision.breaks is BreakReason.VOLUME_BREAK_REQUESTED
    assert decision.record == record


@pytest.mark.parametrize("reason", list(FsyncReason))
def test_a_damaged_volume_is_taken_for_repair_only(reason: FsyncReason) -> None:
    """A program may take it to mend, replace or delete it; for anything else it is refused."""
    decision = ask(ERROR, FsyncCommand.NEEDVOLUME, reason=reason)
    if reason in REPAIR_REASONS:
        assert decision.record == VolumeRecord(VolumeState.CHECKED_OUT, VOLSERVER, reason)
    else:
        assert (decision.response, decision.reason) == (FsyncResponse.DENIED, FsyncReason.DAMAGED)
        assert ERROR.detail in decision.detail


def test_a_repaired_volume_is_broken_as_salvaged() -> None:
    """T21: ATTACH leads out of the error state, and ends in a break whatever the mark."""
    final = attached(ask(ERROR, FsyncCommand.VOL_ATTACH), MARK)
    assert final.record == ONLINE
    assert final.breaks is BreakReason.VOLUME_SALVAGED


def test_a_volume_forced_into_error_loses_its_mark() -> None:
    """V2: what it said before the repair proves nothing about it afterwards."""
    final = detached(ask(ONLINE, FsyncCommand.VOL_FORCE_ERROR), MARK)
    assert final.record is not None
    assert final.record.state is VolumeState.ERROR
    assert final.record.mark is None
    taken = ask(final.record, FsyncCommand.NEEDVOLUME, reason=FsyncReason.SALVAGE).record
    assert attached(ask(taken, FsyncCommand.VOL_ON), MARK).breaks is BreakReason.VOLUME_SALVAGED


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FsyncReason.FOR_RELEASE, BreakReason.VOLUME_RELEASED),
        (FsyncReason.SALVAGE, BreakReason.VOLUME_SALVAGED),
        (FsyncReason.FOR_RESTORE, BreakReason.VOLUME_GIVEN_BACK),
    ],
)
def test_clients_are_told_what_a_changed_volume_was_out_for(
    reason: FsyncReason, told: BreakReason
) -> None:
    """By what the taker said when it took it, whatever VOL_ON says; unchanged, nothing is told."""
    taken = ask(ONLINE, FsyncCommand.NEEDVOLUME, reason=reason).record
    for command in (FsyncCommand.VOL_ON, FsyncCommand.VOL_LEAVE_OFF):
        assert ask(taken, command, reason=FsyncReason.FOR_DUMP).breaks is told
    assert attached(ask(taken, FsyncCommand.VOL_ON), MARK).breaks is None


@pytest.mark.parametrize("record", [None, UNCLAIMED])
def test_the_caller_says_what_for_where_nobody_else_knows(record: VolumeRecord | None) -> None:
    """A fileserver that was restarted while the volume was out does not know any more."""
    decision = ask(record, FsyncCommand.VOL_ON, reason=FsyncReason.FOR_RELEASE)
    assert decision.breaks is BreakReason.VOLUME_RELEASED


@pytest.mark.parametrize(
    ("command", "record", "expected"),
    [
        (FsyncCommand.VOL_ON, TAKEN, True),
        (FsyncCommand.VOL_ON, UNCLAIMED, True),
        (FsyncCommand.VOL_LEAVE_OFF, TAKEN, True),
        (FsyncCommand.VOL_ON, MOVED, True),
        (FsyncCommand.VOL_ATTACH, MOVED, True),
        (FsyncCommand.VOL_ON, OFFLINE, False),
        (FsyncCommand.VOL_ON, ONLINE, False),
        (FsyncCommand.VOL_ATTACH, ERROR, False),
        (FsyncCommand.NEEDVOLUME, ONLINE, False),
        (FsyncCommand.VOL_DONE, TAKEN, False),
    ],
)
def test_who_may_bring_a_volume_to_another_partition(
    command: FsyncCommand, record: VolumeRecord, *, expected: bool
) -> None:
    """The program that has it, and whoever brings a volume back that moved away."""
    assert ask(record, command).rule.elsewhere is expected


def test_nobody_else_brings_a_volume_to_another_partition() -> None:
    """V1: what a program took is put on-line where that program says."""
    assert not ask(TAKEN, FsyncCommand.VOL_ON, OTHER).rule.elsewhere


@pytest.mark.parametrize(
    ("code", "response", "reason"),
    [
        (AfsCode.VNOVOL, FsyncResponse.UNKNOWN_VOLUME, FsyncReason.NO_VOLUME),
        (AfsCode.VBUSY, FsyncResponse.FAILED, FsyncReason.EXCLUSIVE),
        (AfsCode.VIO, FsyncResponse.FAILED, FsyncReason.IO_ERROR),
    ],
)
def test_a_failed_attachment_leaves_the_volume_where_it_was(
    code: AfsCode, response: FsyncResponse, reason: FsyncReason
) -> None:
    """V4: its owner can try again, and nothing is broken."""
    final = attach_failed(ask(TAKEN, FsyncCommand.VOL_ON), code, "why")
    assert (final.response, final.reason, final.detail) == (response, reason, "why")
    assert final.record == TAKEN
    assert final.breaks is None


@pytest.mark.parametrize("code", [AfsCode.VSALVAGE, AfsCode.EIO])
def test_a_volume_that_comes_back_damaged_is_in_error_and_broken(code: AfsCode) -> None:
    """V2, T21: nobody can vouch for what its callbacks rest on."""
    final = attach_failed(ask(TAKEN, FsyncCommand.VOL_ON), code, "row 5: bad checksum")
    assert (final.response, final.reason) == (FsyncResponse.FAILED, FsyncReason.DAMAGED)
    assert final.record == ERROR
    assert final.breaks is BreakReason.VOLUME_GIVEN_BACK


def test_an_unknown_volume_that_is_not_on_disk_stays_unknown() -> None:
    """A failed introduction leaves nothing behind."""
    assert attach_failed(ask(None, FsyncCommand.VOL_ON), AfsCode.VNOVOL, "why").record is None


def test_a_volume_that_cannot_be_closed_is_given_to_nobody() -> None:
    """A failed detachment puts the volume into the error state."""
    final = detach_failed(ask(ONLINE, FsyncCommand.NEEDVOLUME), "disk full")
    assert (final.response, final.reason) == (FsyncResponse.FAILED, FsyncReason.IO_ERROR)
    assert final.record == VolumeRecord(VolumeState.ERROR, detail="disk full")


def test_a_refusal_for_another_reason_changes_nothing() -> None:
    """V4: the volume table's own refusals too."""
    decision = ask(ONLINE, FsyncCommand.NEEDVOLUME)
    final = refuse(decision, FsyncReason.WRONG_PARTITION, "it is on vicepb")
    assert (final.response, final.reason) == (FsyncResponse.DENIED, FsyncReason.WRONG_PARTITION)
    assert final.record == ONLINE
    assert final.step is Step.NOTHING
    assert final.breaks is None


@given(
    st.sampled_from(RECORDS),
    st.sampled_from(COMMANDS),
    st.sampled_from(list(FsyncReason)),
    st.sampled_from([VOLSERVER, OTHER]),
)
def test_every_refusal_changes_nothing_and_says_why(
    record: VolumeRecord | None, command: FsyncCommand, reason: FsyncReason, program: str
) -> None:
    """V4 over the whole table; and a passing command never changes a record."""
    decision = ask(record, command, program, reason)
    if decision.response is not FsyncResponse.OK:
        assert decision.record == record
        assert decision.breaks is None
        assert decision.step is Step.NOTHING
        assert decision.detail
    if command in PASSING_COMMANDS:
        assert decision.record == record
        assert decision.step is Step.NOTHING


@given(
    st.lists(
        st.tuples(
            st.sampled_from([c for c in COMMANDS if c not in PASSING_COMMANDS]),
            st.sampled_from([VOLSERVER, OTHER]),
            st.sampled_from(list(FsyncReason)),
            st.booleans(),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_no_change_goes_unbroken_and_no_two_programs_have_a_volume(
    story: list[tuple[FsyncCommand, str, FsyncReason, bool, bool]],
) -> None:
    """V1, V2, I4 against a naive model: who has it, and whether clients may hold old promises."""
    record: VolumeRecord | None = ONLINE
    counter = seen_by_clients = 7
    holder: str | None = None
    for command, program, reason, changes, succeeds in story:
        before = record
        decision = ask(record, command, program, reason)
        if decision.step is Step.ATTACH:
            mark = ChangeMark("a1", counter)
            decision = (
                attached(decision, mark)
                if succeeds
                else attach_failed(decision, AfsCode.VIO, "a bad day")
            )
        elif decision.step is Step.DETACH:
            decision = detached(decision, ChangeMark("a1", counter))
        record = decision.record
        if decision.response is FsyncResponse.OK and holder is not None:
            # Whoever moves a taken volume on is the one that has it.
            moves_on = record is None or record.state is not VolumeState.CHECKED_OUT
            assert program == holder or not (moves_on and record != before)
        if decision.breaks is not None:
            seen_by_clients = counter
        taken = record is not None and record.state is VolumeState.CHECKED_OUT
        holder = record.program if taken and record is not None else None
        if record is not None and record.state is VolumeState.ONLINE:
            assert seen_by_clients == counter, "clients hold promises on what is past"
        elif changes:
            counter += 1
