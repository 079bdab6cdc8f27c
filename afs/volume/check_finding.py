"""What a check of volumes finds: one value for each thing that is not as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Findings of one kind in one volume that are told one by one; of the rest only the number is, so
# that a volume of 200,000 orphans neither fills the memory nor a terminal.
FINDINGS_TOLD_MAX: Final = 1000


class FindingKind(StrEnum):
    """What is wrong; the value is shown to people."""

    # In a volume: the salvager finds these, and repairs what can be.
    DATABASE = "damaged database"
    SEAL = "damaged seal"
    HEADER = "damaged header"
    ROW = "damaged row"
    VNODE = "lost vnode"
    NAME = "name that leads nowhere"
    LOOP = "directory loop"
    ORPHAN = "orphan"
    LINKS = "link count"
    COUNTER = "wrong counter"
    LENGTH = "wrong length"
    LOST_DATA = "lost data"
    STRAY_DATA = "stray data"
    MISSING_CHUNK = "missing chunk"
    DAMAGED_CHUNK = "damaged chunk"
    STRAY_CHUNK = "stray chunk"
    # About whole volumes: only Verify finds these.
    WRONG_ID = "wrong id"
    WRONG_NAME = "wrong name"
    WRONG_TYPE = "wrong type"
    LEFTOVER = "half-made volume"
    TEMPORARY = "temporary clone"
    HALF_OF_A_MOVE = "half of a move"
    NOT_IN_LOCATION = "not in location"
    NOT_ON_DISK = "not on disk"
    IN_TWO_PLACES = "in two places"
    NOT_SERVED = "not in service"
    STALE_LOCK = "stale lock"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    `subject` says with what exactly (a Fid, a path, a chunk), `detail` and `action` are for people:
    what is wrong, and what was done (empty: nothing). `repaired` is True if nothing is wrong any
    more. `path` is where it is in the volume, if it is about one vnode whose name is known.
    """

    volume_id: int
    kind: FindingKind
    subject: str
    detail: str
    action: str = ""
    repaired: bool = False
    path: str = ""


class Findings:
    """What was found in one volume, as far as it is told.

    Args:
        volume_id: the volume.
        tell: gets each finding as it is made; None: they are only kept.

    Attributes:
        path_of: the path of what a subject names, or ""; set as soon as there is somebody to ask.
        told: the findings, at most FINDINGS_TOLD_MAX of a kind.
        unrepaired: how many things, told or not, are still wrong.
    """

    def __init__(self, volume_id: int, tell: Callable[[Finding], None] | None = None) -> None:
        self._volume_id = volume_id
        self._tell = tell
        self._counts: Counter[FindingKind] = Counter()
        self.path_of: Callable[[str], str] = lambda _subject: ""
        self.told: list[Finding] = []
        self.unrepaired = 0

    def __len__(self) -> int:
        return self._counts.total()

    def count(self, kind: FindingKind) -> int:
        """How many of a kind there are."""
        return self._counts[kind]

    def add(
        self, kind: FindingKind, subject: object, detail: str, action: str = "", *, repaired: bool
    ) -> None:
        """Notes a finding."""
        self._counts[kind] += 1
        self.unrepaired += not repaired
        if self._counts[kind] <= FINDINGS_TOLD_MAX:
            path = self.path_of(str(subject))
            self._say(Finding(self._volume_id, kind, str(subject), detail, action, repaired, path))

    def close(self) -> None:
        """Says how many of each kind were not told."""
        for kind, count in self._counts.items():
            if count > FINDINGS_TOLD_MAX:
                rest = count - FINDINGS_TOLD_MAX
                self._say(Finding(self._volume_id, kind, f"{rest} more", "as those before"))

    def _say(self, finding: Finding) -> None:
        self.told.append(finding)
        if self._tell is not None:
            self._tell(finding)
