"""How far breaks have reached: the marks against which promises in late replies are judged (R10).

Theory of operation
    A break ends the promises given at or before its `through`. The reply that carries such a
    promise may still be under way when the break arrives: gRPC orders messages within a stream, not
    between the channel and the calls. So the highest `through` is remembered for each target; a
    promise that arrives later with a sequence at or below it was broken before it came, and is not
    trusted.

    Only replies under way need the marks (promises already held are ended when the break arrives),
    so few are kept. What is pushed out raises one floor for the whole server: that can cost a
    needless FetchStatus, never a stale answer.

Invariant: for every break noted, `high_water(fid)` of every Fid it covers is at or above its
`through`.
"""

from __future__ import annotations

from typing import Final

from afs.types import Fid, whole_volume_fid

# Breaks that may arrive while one reply is under way; 4,096 marks cost about 1 MiB.
MAX_BREAK_MARKS: Final = 4096


class BreakMarks:
    """The high-water marks of one fileserver's break sequence, in one epoch.

    Args:
        max_marks: marks kept; at least 1.
    """

    def __init__(self, max_marks: int = MAX_BREAK_MARKS) -> None:
        assert max_marks >= 1
        self._max_marks = max_marks
        self._marks: dict[Fid, int] = {}
        self._floor = -1

    def note(self, target: Fid, through: int) -> None:
        """Remembers that promises on `target` given at or before `through` ended.

        Args:
            target: one vnode or a whole volume.
            through: a point of the break sequence.
        """
        # Taken out and put back in, so that the mark pushed out below is the one longest untouched.
        through = max(through, self._marks.pop(target, -1))
        self._marks[target] = through
        if len(self._marks) > self._max_marks:
            oldest = next(iter(self._marks))
            self._floor = max(self._floor, self._marks.pop(oldest))

    def high_water(self, fid: Fid) -> int:
        """The highest `through` of a break that covers `fid`; -1 if there was none."""
        mark = self._marks.get(fid, -1)
        volume_mark = self._marks.get(whole_volume_fid(fid.volume), -1)
        return max(mark, volume_mark, self._floor)

    def clear(self) -> None:
        """Forgets all marks: with a new generation of the channel, no older promise is accepted."""
        self._marks.clear()
        self._floor = -1

    def __len__(self) -> int:
        return len(self._marks)
