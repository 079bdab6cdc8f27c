"""What the demo saw: promises kept or broken, figures side by side, and a timeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

WIDTH = 80


@dataclass
class Act:
    """What was measured under one break policy; seconds, None where it was not seen.

    Attributes:
        policy: the break policy.
        ack_s: FSSYNC's acknowledgement of the give-back, as the volserver saw it.
        other_operation_s: a backup of another volume, begun when the callbacks had been marked.
        fresh_s: from the mark until each live client read the new contents, by client.
        thawed_s: from the thaw until the frozen client's first answer.
        is_thawed_fresh: that answer was the new contents.
        marked: callbacks that were broken.
        timeline: what happened, in seconds from the mark.
    """

    policy: str
    ack_s: float = 0.0
    other_operation_s: float = 0.0
    fresh_s: dict[str, float] = field(default_factory=dict)
    thawed_s: float = 0.0
    is_thawed_fresh: bool = False
    marked: int = 0
    timeline: list[tuple[float, str]] = field(default_factory=list)


class Findings:
    """Collects what the demo saw and prints it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._broken: list[str] = []
        self._kept = 0

    def chapter(self, title: str) -> None:
        """Begins a chapter."""
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left", characters="-")

    def say(self, text: str) -> None:
        """Tells something."""
        self.console.print(f"  {text}", highlight=False)

    def check(self, promise: str, *, kept: bool) -> None:
        """Notes whether a promise of the story was kept."""
        if kept:
            self._kept += 1
        else:
            self._broken.append(promise)
        mark = "[green]kept  " if kept else "[bold red]BROKEN"
        self.console.print(f"  {mark}[/] {promise}", highlight=False)

    def show_timeline(self, act: Act) -> None:
        """The events of an act, oldest first, with a bar as long as the logarithm of their time."""
        self.chapter(f"Timeline under '{act.policy}', in ms from the mark")
        # Sorted by time alone: what happened at the same time stays in the order it was noted.
        for at_s, what in sorted(act.timeline, key=lambda line: line[0]):
            self.console.print(f"  {at_s * 1e3:>9,.1f}  {what}", highlight=False, overflow="fold")

    def show_table(self, acts: Mapping[str, Act], baseline_s: float) -> None:
        """The acts side by side."""
        self.chapter("One frozen client, one give-back: what the others had to wait")
        table = Table(width=WIDTH - 2, show_edge=False, pad_edge=False)
        table.add_column("", ratio=1)
        for policy in acts:
            table.add_column(f"{policy}, ms", justify="right")
        rows = {
            "volserver: until FSSYNC acknowledged": [act.ack_s for act in acts.values()],
            f"backup of another volume (alone: {baseline_s * 1e3:,.1f} ms)": [
                act.other_operation_s for act in acts.values()
            ],
            "slowest live client: until it read the new contents": [
                max(act.fresh_s.values()) for act in acts.values()
            ],
            "thawed client: until its first answer, which was new": [
                act.thawed_s for act in acts.values()
            ],
        }
        for what, values in rows.items():
            table.add_row(what, *(f"{value * 1e3:,.1f}" for value in values))
        self.console.print(table)

    def conclude(self) -> bool:
        """Prints the verdict; True if every promise was kept."""
        self.console.print()
        if self._broken:
            self.console.print(f"[bold red]{len(self._broken)} promises were broken:")
            for promise in self._broken:
                self.console.print(f"  {promise}", highlight=False)
            return False
        self.console.print(f"[bold green]All {self._kept} promises were kept.")
        return True
