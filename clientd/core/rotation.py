"""Where an operation on a volume goes next when a fileserver did not do it.

Theory of operation (the model is Linux `fs/afs/rotate.c`)
    1. A volume has one site or, if it is read-only, several that show the same. They come in the
       order in which they are preferred. In one round each of them is tried at most once.
    2. A fileserver that says VMOVED or VNOVOL shows that what is known of the volume's location is
       out of date: the location is looked up again, once a round, before anything else. If it names
       a site that was not tried, that one is tried at once.
    3. What concerns the site alone (it is unreachable, or damaged) sends the operation to the next
       one at once. One that is busy is asked again BUSY_WAITS times first: a release takes it for
       milliseconds, and going elsewhere costs the promises held.
    4. When all have been tried, and one of them was unreachable or still busy, the location is
       looked up as well: the volume may have been brought to life elsewhere (a move whose volserver
       died leaves it taken where it was). Then comes a new round, after a wait that doubles.
    5. It ends when patience does: VNOVOL alone is believed after NO_VOLUME_PATIENCE_S (a volume
       that is just being put in place is there soon), fileservers that are away are waited for as
       long as the client is told to (for ever, or not at all once they have been away for long),
       what else passes by itself for RETRY_TOTAL_S, anything else not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import NO_VOLUME_PATIENCE_S, RETRY_TOTAL_S
from clientd.core.patience import PASSING, Patience

# What is told of a volume that is not there (any more): its location is looked up again.
OUTDATED: Final = frozenset({AfsCode.VNOVOL, AfsCode.VMOVED})
# A busy site is asked again so often before another one is tried: about a third of a second.
BUSY_WAITS: Final = 3
# What another site of the same volume need not have.
OF_ONE_SITE: Final = frozenset({AfsCode.VSALVAGE, AfsCode.VNOSERVICE, AfsCode.EIO})
RECOVERABLE: Final = PASSING | OUTDATED | OF_ONE_SITE
# What is told of a fileserver that is not there.
AWAY: Final = frozenset({AfsCode.RX_CALL_DEAD, AfsCode.VRESTARTING})

_LEADS_TO_LOOK_UP: Final = OUTDATED | {AfsCode.RX_CALL_DEAD, AfsCode.VBUSY}
_PASSES: Final = PASSING | {AfsCode.VMOVED}


@dataclass(frozen=True, slots=True)
class Try:
    """Wait so many seconds, then ask the fileserver at this address."""

    address: str
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LookUp:
    """Look the volume's location up again, then ask for the next step."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """There is no hope left; the operation ends with this error, the last one."""

    error: AfsError


LOOK_UP: Final = LookUp()

Step = Try | LookUp | GiveUp


class Rotation:
    """One operation's way between the sites of a volume.

    Args:
        now: steady seconds; patience counts from here.
        away_patience_s: how long fileservers that are away are waited for; may be infinite.
    """

    def __init__(self, now: float, away_patience_s: float = RETRY_TOTAL_S) -> None:
        self._patience = Patience(now)
        self._away_patience = Patience(now, away_patience_s)
        # Begins when the first round ended with nothing but VNOVOL.
        self._no_volume_patience: Patience | None = None
        # What each site said in this round.
        self._failed: dict[str, AfsCode] = {}
        self._looked_up = False
        self._busy = ""
        self._busy_waits = 0
        self._last: AfsError | None = None

    @property
    def begun(self) -> bool:
        """True if an attempt has failed."""
        return self._last is not None

    def failed(self, address: str, error: AfsError) -> bool:
        """The fileserver did not do it; False if the error would be the same anywhere, any time."""
        if error.code not in RECOVERABLE:
            return False
        self._failed[address] = error.code
        self._busy = address if error.code is AfsCode.VBUSY else ""
        self._last = error
        return True

    def next(self, sites: Sequence[str], now: float) -> Step:
        """What to do now.

        Args:
            sites: those that serve the volume as far as is known, the preferred one first; at least
                one.
            now: steady seconds.
        """
        if self._busy in sites and self._busy_waits < BUSY_WAITS:
            self._busy_waits += 1
            wait_s = self._patience.next_wait_s(now)
            if wait_s is not None:
                del self._failed[self._busy]
                return Try(self._busy, wait_s)
        said = set(self._failed.values())
        if said & OUTDATED and not self._looked_up:
            self._looked_up = True
            return LOOK_UP
        for site in sites:
            if site not in self._failed:
                return Try(site)
        if said & _LEADS_TO_LOOK_UP and not self._looked_up:
            self._looked_up = True
            return LOOK_UP
        wait_s = self._wait_s(said, now)
        if wait_s is None:
            assert self._last is not None, "with nothing failed there is a site to try"
            return GiveUp(self._last)
        self._failed.clear()
        self._looked_up = False
        return Try(sites[0], wait_s)

    def _wait_s(self, said: set[AfsCode], now: float) -> float | None:
        """Seconds before a new round; None if there is to be none."""
        if said <= AWAY:
            return self._away_patience.next_wait_s(now)
        if said & _PASSES:
            return self._patience.next_wait_s(now)
        if AfsCode.VNOVOL not in said:
            return None
        if self._no_volume_patience is None:
            self._no_volume_patience = Patience(now, NO_VOLUME_PATIENCE_S)
        return self._no_volume_patience.next_wait_s(now)
