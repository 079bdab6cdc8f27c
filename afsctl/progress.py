"""How far a long operation is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from afsctl.output import show_bytes

# A log is no film: one line now and then is enough to see that it goes on.
LINE_INTERVAL_S: Final = 2.0


class Meter(Protocol):
    """What a long operation tells its progress to."""

    def update(
        self, *, done: int, total: int, size_bytes: int = 0, step: str = "", unit: str = ""
    ) -> None:
        """So many of `total` (0: not known) are done, and `size_bytes` of data with them.

        `step` and `unit`, if given, are what is being done and counted from now on.
        """


@contextmanager
def metered(label: str, unit: str, *, quiet: bool = False) -> Iterator[Meter]:
    """A meter on standard error for the time of an operation.

    Args:
        label: what is being done, such as "loading".
        unit: of what is counted, such as "files"; "bytes" are shown as sizes.
        quiet: shows nothing.
    """
    if quiet:
        yield _Silence()
    elif sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Count(),
            _Size(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as progress:
            yield _Bar(progress, label, unit)
    else:
        yield _Lines(label, unit, time.monotonic)


class _Silence:
    def update(
        self, *, done: int, total: int, size_bytes: int = 0, step: str = "", unit: str = ""
    ) -> None:
        pass


class _Bar:
    def __init__(self, progress: Progress, label: str, unit: str) -> None:
        self._progress = progress
        self._label = label
        self._unit = unit
        self._task = progress.add_task(label, total=None, size_bytes=0, unit=unit)

    def update(
        self, *, done: int, total: int, size_bytes: int = 0, step: str = "", unit: str = ""
    ) -> None:
        self._unit = unit or self._unit
        self._progress.update(
            self._task,
            completed=done,
            total=total or None,
            size_bytes=size_bytes,
            unit=self._unit,
            description=step or self._label,
        )


class _Lines:
    def __init__(self, label: str, unit: str, now: Callable[[], float]) -> None:
        self._label = label
        self._unit = unit
        self._now = now
        self._next_s = now() + LINE_INTERVAL_S
        self._step = ""

    def update(
        self, *, done: int, total: int, size_bytes: int = 0, step: str = "", unit: str = ""
    ) -> None:
        self._unit = unit or self._unit
        if self._now() < self._next_s and step == self._step:
            return
        self._next_s = self._now() + LINE_INTERVAL_S
        self._step = step
        size = f", {show_bytes(size_bytes)}" if size_bytes else ""
        text = f"{step or self._label}: {count_text(done, total, self._unit)}{size}"
        print(text, file=sys.stderr, flush=True)


def count_text(done: int, total: int, unit: str) -> str:
    """`12 of 34 files`, `12 files` when the total is not known, `1.2 MiB of 3.4 MiB` for bytes."""
    if unit == "bytes":
        return f"{show_bytes(done)} of {show_bytes(total)}" if total else show_bytes(done)
    return f"{done} of {total} {unit}" if total else f"{done} {unit}"


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        return Text(count_text(int(task.completed), int(task.total or 0), unit))


class _Size(ProgressColumn):
    def render(self, task: Task) -> Text:
        size_bytes = int(task.fields["size_bytes"])
        return Text(show_bytes(size_bytes) if size_bytes else "")
