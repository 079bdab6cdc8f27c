"""What is done while a fileserver is away: who asks waits, or fails."""

from __future__ import annotations

import math
from dataclasses import dataclass

from afs.limits import OUTAGE_PATIENCE_S


@dataclass(frozen=True, slots=True)
class OutagePolicy:
    """How long to wait for a fileserver that is away.

    Attributes:
        waits: for as long as it takes.
        patience_s: how long after a fileserver went away calls still wait for it, if not.
    """

    waits: bool = False
    patience_s: float = OUTAGE_PATIENCE_S

    def patience_left_s(self, away_for_s: float) -> float:
        """How long a call waits for a fileserver that has been away so long already."""
        return math.inf if self.waits else max(0.0, self.patience_s - away_for_s)
