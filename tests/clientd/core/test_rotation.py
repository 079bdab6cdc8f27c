"""Which fileserver an operation goes to next, and when it gives up."""

from __future__ import annotations

import math

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import NO_VOLUME_PATIENCE_S, RETRY_FIRST_S, RETRY_TOTAL_S
from clientd.core.patience import Patience
from clientd.core.rotation import BUSY_WAITS, LOOK_UP, GiveUp, LookUp, Rotation, Try

NOW = 1000.0


class Journey:
    """An operation on the way: what it is told, and what it does then."""

    def __init__(self, *sites: str) -> None:
        self.rotation = Rotation(NOW)
        self.sites = list(sites)
        self.now = NOW

    def next(self) -> Try | LookUp | GiveUp:
        """The next step; a wait passes."""
        step = self.rotation.next(self.sites, self.now)
        if isinstance(step, Try):
            self.now += step.wait_s
        return step

    def fails(self, site: str, code: AfsCode) -> bool:
        """An attempt at a site ended so."""
        return self.rotation.failed(site, AfsError(code, "no"))

    def until_given_up(self, code: AfsCode) -> list[str]:
        """The sites that were tried if all of them say this."""
        tried = []
        while not isinstance(step := self.next(), GiveUp):
            if isinstance(step, Try):
                tried.append(step.address)
                self.fails(step.address, code)
        assert step.error.code is code
        return tried


def test_first_the_preferred_site() -> None:
    """Without a wait, and without a look-up."""
    journey = Journey("a", "b")
    assert not journey.rotation.begun
    assert journey.next() == Try("a")


def test_moved_volume_is_looked_up_and_found() -> None:
    """At once, where the entry says."""
    journey = Journey("a")
    assert journey.fails("a", AfsCode.VMOVED)
    assert journey.rotation.begun
    assert journey.next() == LOOK_UP
    journey.sites = ["b"]
    assert journey.next() == Try("b")


def test_moved_volume_whose_entry_is_just_changing() -> None:
    """The same fileserver is asked again after a wait, the entry before each round."""
    journey = Journey("a")
    journey.fails("a", AfsCode.VMOVED)
    assert journey.next() == LOOK_UP
    assert journey.next() == Try("a", RETRY_FIRST_S)
    journey.fails("a", AfsCode.VMOVED)
    assert journey.next() == LOOK_UP
    assert journey.next() == Try("a", 2 * RETRY_FIRST_S)
    journey.until_given_up(AfsCode.VMOVED)
    assert RETRY_TOTAL_S - 2 <= journey.now - NOW <= RETRY_TOTAL_S


def test_no_volume_is_soon_believed() -> None:
    """Where entry and fileserver disagree for NO_VOLUME_PATIENCE_S, the fileserver is right."""
    journey = Journey("a")
    assert len(journey.until_given_up(AfsCode.VNOVOL)) > 3
    assert journey.now - NOW <= NO_VOLUME_PATIENCE_S


def test_unreachable_site_is_left_for_another_at_once() -> None:
    """Each once in a round; then the entry is looked up, and there is a wait."""
    journey = Journey("a", "b", "c")
    for site in "abc":
        assert journey.next() == Try(site)
        journey.fails(site, AfsCode.RX_CALL_DEAD)
    assert journey.next() == LOOK_UP
    assert journey.next() == Try("a", RETRY_FIRST_S)
    journey.fails("a", AfsCode.RX_CALL_DEAD)
    assert journey.next() == Try("b")


def test_absent_fileservers_are_waited_for_as_long_as_told() -> None:
    """Not at all, or for ever; a volume that is just busy is not concerned."""
    journey = Journey("a", "b")
    journey.rotation = Rotation(NOW, away_patience_s=0)
    assert journey.until_given_up(AfsCode.RX_CALL_DEAD) == ["a", "b"]
    journey.rotation = Rotation(NOW, away_patience_s=math.inf)
    for _ in range(1000):
        step = journey.next()
        if isinstance(step, Try):
            journey.fails(step.address, AfsCode.RX_CALL_DEAD)
        assert not isinstance(step, GiveUp)
    assert journey.now - NOW > 10 * RETRY_TOTAL_S
    journey = Journey("a")
    journey.rotation = Rotation(NOW, away_patience_s=math.inf)
    journey.until_given_up(AfsCode.VBUSY)


def test_busy_site_is_waited_for_before_another_is_tried() -> None:
    """A release takes it for milliseconds; a longer piece of work does not hold readers up."""
    journey = Journey("a", "b")
    for number in range(BUSY_WAITS):
        journey.fails("a", AfsCode.VBUSY)
        assert journey.next() == Try("a", RETRY_FIRST_S * 2**number)
    journey.fails("a", AfsCode.VBUSY)
    assert journey.next() == Try("b")
    journey.fails("b", AfsCode.VBUSY)
    assert journey.next() == LOOK_UP
    step = journey.next()
    assert isinstance(step, Try)
    assert step.address == "a"


def test_volume_that_stays_busy_is_looked_for_elsewhere() -> None:
    """A move whose volserver died after the switch leaves it taken where it was."""
    journey = Journey("a")
    for _ in range(BUSY_WAITS):
        journey.fails("a", AfsCode.VBUSY)
        assert isinstance(journey.next(), Try)
    journey.fails("a", AfsCode.VBUSY)
    assert journey.next() == LOOK_UP
    journey.sites = ["b"]
    assert isinstance(step := journey.next(), Try)
    assert step.address == "b"


def test_busy_volume_is_waited_for_as_long_as_patience_lasts() -> None:
    """Of one site."""
    journey = Journey("a")
    journey.until_given_up(AfsCode.VBUSY)
    assert RETRY_TOTAL_S - 2 <= journey.now - NOW <= RETRY_TOTAL_S


def test_impatient_busy_site() -> None:
    """Patience that ran out during the attempt leaves no wait, also not at first."""
    journey = Journey("a")
    journey.now += RETRY_TOTAL_S
    journey.fails("a", AfsCode.VBUSY)
    assert journey.next() == LOOK_UP
    assert isinstance(journey.next(), GiveUp)


@pytest.mark.parametrize("code", [AfsCode.VSALVAGE, AfsCode.EIO, AfsCode.VNOSERVICE])
def test_damage_is_of_one_site(code: AfsCode) -> None:
    """Another site is tried; when all have it there is nothing to wait for."""
    journey = Journey("a", "b")
    assert journey.until_given_up(code) == ["a", "b"]
    assert journey.now == NOW


@pytest.mark.parametrize("code", [AfsCode.ENOENT, AfsCode.VNOVNODE, AfsCode.EROFS, AfsCode.EAGAIN])
def test_errors_that_are_the_same_everywhere(code: AfsCode) -> None:
    """They are the answer."""
    assert not Journey("a", "b").fails("a", code)


def test_patience_knows_what_passes() -> None:
    """Doubling waits, for codes that pass, up to the sum."""
    patience = Patience(NOW, 0.2)
    busy, gone = AfsError(AfsCode.VBUSY, ""), AfsError(AfsCode.ENOENT, "")
    assert patience.wait_s(gone, NOW) is None
    assert patience.wait_s(busy, NOW) == RETRY_FIRST_S
    assert patience.wait_s(busy, NOW + 0.15) is None
