"""What a soak did and found, as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cluster.cluster import DAEMONS, Cluster
from tests.cluster.workload import History
from tests.sim.checker import Checker


@dataclass(slots=True)
class Memory:
    """Resident MiB of each daemon."""

    _peak: dict[str, float] = field(default_factory=dict)
    _first: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    def look(self, cluster: Cluster) -> None:
        """Notes what daemons have now; all of them run."""
        for daemon in DAEMONS:
            mib = self._last[daemon] = cluster.memory_mib(daemon)
            self._peak[daemon] = max(mib, self._peak.get(daemon, 0.0))

    def second_half_begins(self, cluster: Cluster) -> None:
        """From now on no process ends; called any number of times."""
        if not self._first:
            self.look(cluster)
            self._first = dict(self._last)

    def rows(self) -> Iterator[str]:
        """A row of the table for each daemon."""
        for daemon in DAEMONS:
            first, last = self._first.get(daemon, 0.0), self._last[daemon]
            growth = f"{last - first:+.1f}"
            yield f"| {daemon} | {first:.1f} | {last:.1f} | {growth} | {self._peak[daemon]:.1f} |"


@dataclass(slots=True)
class Report:
    """What a soak did and found.

    `findings`: what was wrong, by kind; none is as it should be.
    """

    minutes: float
    seed: int
    seconds: float = 0.0
    rounds: int = 0
    writes: int = 0
    reads: int = 0
    excused: int = 0
    failed_calls: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    operations_failed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str]] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def wrong(self, kind: str, what: str) -> None:
        """Something was found: `data lost` or `stale reads`."""
        self.findings.append((kind, what))

    def judged(self, checker: Checker, history: History) -> None:
        """A round was judged, and nothing was wrong."""
        self.reads += checker.reads
        self.excused += checker.reads_excused
        self.writes += sum(bool(write.client) for write in history.writes)

    def found(self, kind: str) -> int:
        """How often something of this kind was found."""
        return sum(each == kind for each, _ in self.findings)

    def line(self) -> str:
        """Where it is."""
        return (
            f"{self.seconds / 60:.1f} min, {self.rounds} rounds: {self.writes} writes, "
            f"{self.reads} reads, {self.operations.total()} operations, "
            f"{self.faults.total()} faults, {len(self.findings)} findings"
        )

    def text(self) -> str:
        """The page."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# A soak of the cluster"
        yield ""
        yield f"`make soak MINUTES={self.minutes:g} SEED={self.seed}`"
        yield ""
        yield "| what | how much |"
        yield "|---|---|"
        yield f"| minutes | {self.seconds / 60:.1f} |"
        yield f"| rounds, each judged at its end | {self.rounds} |"
        yield f"| writes acknowledged | {self.writes} |"
        yield f"| reads answered | {self.reads} |"
        yield f"| of these older than a change, within the lease (I8) | {self.excused} |"
        yield f"| calls of programs that failed during faults | {self.failed_calls} |"
        yield f"| volume operations done | {self.operations.total()} |"
        yield f"| volume operations cut short by a fault | {self.operations_failed.total()} |"
        yield f"| faults survived | {self.faults.total()} |"
        yield f"| **data lost** | {self.found('data lost')} |"
        yield f"| **stale reads** | {self.found('stale reads')} |"
        yield ""
        for kind, what in self.findings:
            yield f"- {kind}: {what}"
        if self.findings:
            yield ""
        yield "| operation | done | cut short |"
        yield "|---|---|---|"
        for name in sorted({*self.operations, *self.operations_failed}):
            yield f"| {name} | {self.operations[name]} | {self.operations_failed[name]} |"
        yield ""
        yield "| fault | times |"
        yield "|---|---|"
        for name, times in sorted(self.faults.items()):
            yield f"| {name} | {times} |"
        yield ""
        yield "Resident MiB. In the second half no fault ends a process; growth is over that half."
        yield ""
        yield "| daemon | at its beginning | at its end | growth | highest in all |"
        yield "|---|---|---|---|---|"
        yield from self.memory.rows()
