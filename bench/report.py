"""What a measurement found: rows of figures beside the figures they are compared to."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: what was measured.
        ours, base: the figure and the one it is compared to, in `unit`; medians.
        ratio: ours / base, in one run.
        at_least, at_most: what the ratio must reach; None where there is no such bound.
        note: how it was measured.
    """

    what: str
    ours: float
    base: float
    unit: str
    ratio: float
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def is_reached(self) -> bool:
        """True if the ratio is within its bounds."""
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    @property
    def goal(self) -> str:
        """The bound, for people."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""


@dataclass
class Report:
    """The rows of one measurement.

    Attributes:
        name: file name below bench/results/, without suffix.
        title: headline.
        command: what repeats it.
    """

    name: str
    title: str
    command: str
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Adds a row and prints it."""
        self.rows.append(row)
        verdict = "" if not row.goal else (" ok" if row.is_reached else " MISSED")
        print(
            f"  {row.what}: {_number(row.ours)} against {_number(row.base)} {row.unit},"
            f" ratio {row.ratio:.2f} {row.goal}{verdict}",
            flush=True,
        )

    @property
    def is_reached(self) -> bool:
        """True if every row is within its bounds."""
        return all(row.is_reached for row in self.rows)

    def write(self) -> None:
        """Writes the table, and the same as JSON, into bench/results/."""
        RESULTS.mkdir(exist_ok=True)
        lines = [
            f"# {self.title}",
            "",
            f"`{self.command}` on {os.cpu_count()} cores, Python {platform.python_version()}."
            " Medians of one run; only the ratios compare between machines.",
            "",
            "| what | ours | compared to | unit | ratio | goal | |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            verdict = "" if not row.goal else ("reached" if row.is_reached else "**missed**")
            lines.append(
                f"| {row.what} | {_number(row.ours)} | {_number(row.base)} | {row.unit}"
                f" | {row.ratio:.2f} | {row.goal} | {verdict} |"
            )
        notes = [f"- {row.what}: {row.note}" for row in self.rows if row.note]
        lines += ["", *notes] if notes else []
        (RESULTS / f"{self.name}.md").write_text("\n".join(lines).rstrip() + "\n")
        data = {"title": self.title, "rows": [asdict(row) for row in self.rows]}
        (RESULTS / f"{self.name}.json").write_text(json.dumps(data, indent=1) + "\n")


def compare(
    what: str,
    ours: Sequence[float],
    base: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """A row from samples that were taken in turn: medians, and the ratio of the medians."""
    mine, theirs = statistics.median(ours), statistics.median(base)
    return Row(what, mine, theirs, unit, mine / theirs, at_least, at_most, note)


def p99(values: Sequence[float]) -> float:
    """What 99 % of the values do not exceed; the largest one if there are fewer than 100."""
    return sorted(values)[ceil(len(values) * 0.99) - 1]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
