"""What commands print: tables on a terminal, plain aligned lines elsewhere, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A record of a listing as JSON has it.
Record = Mapping[str, Any]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Words that tell at a glance how something is.
_STYLES: Final = {
    "running": "green",
    "serving": "green",
    "online": "green",
    "frozen": "cyan",
    "checked out": "yellow",
    "changing": "yellow",
    "not serving": "yellow",
    "offline": "yellow",
    "moved": "yellow",
    "silent": "red",
    "gone": "red",
    "error": "red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a listing: its heading, the key of the records it shows, and how.

    On a narrow terminal the texts of `folds` columns go over several lines; the others stay whole.
    """

    heading: str
    key: str
    show: Callable[[Any], str] = str
    right: bool = False
    folds: bool = False

    def text(self, record: Record) -> str:
        """What stands in the column for a record; empty for a key that the record lacks."""
        value = record.get(self.key)
        return "" if value is None else self.show(value)


def print_listing(
    columns: Sequence[Column], records: Sequence[Record], *, as_json: bool, empty: str
) -> None:
    """Prints records: a table on a terminal, aligned lines elsewhere, or a JSON array.

    Args:
        columns: of the table and the lines; JSON has everything the records have.
        records: in the order in which they are to appear.
        as_json: prints the JSON array.
        empty: the sentence for people when there are no records.
    """
    if as_json:
        print_json(list(records))
    elif not records:
        print(empty)
    elif sys.stdout.isatty():
        # What says nothing takes no room; programs that read lines find every column.
        telling = [column for column in columns if any(map(column.text, records))]
        _print_table(telling, records)
    else:
        _print_lines(columns, records)


def print_details(columns: Sequence[Column], record: Record, *, as_json: bool) -> None:
    """Prints one record, a line for each column that has a value; or the record as JSON."""
    if as_json:
        print_json(record)
        return
    shown = [(column.heading, text) for column in columns if (text := column.text(record))]
    width = max(len(heading) for heading, _ in shown)
    for heading, text in shown:
        _terminal().print(
            f"{heading:<{width}}  ", Text(text, _STYLES.get(text, "")), sep="", soft_wrap=True
        )


def print_json(document: Any) -> None:
    """Prints a JSON value: indented on a terminal, one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(document, indent=indent, ensure_ascii=False))


def error_line(text: str) -> None:
    """Prints one line on standard error, under the program's name."""
    print(f"afsctl: {text}", file=sys.stderr, flush=True)


def show_time(time_ns: int | str) -> str:
    """Local date and time of nanoseconds since the Unix epoch; empty for 0, which means never."""
    seconds = int(time_ns) / 1e9
    return (
        f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}" if seconds else ""
    )


def show_kib(kib: int | str) -> str:
    """A size in KiB for people: `12 KiB`, `3.4 MiB`."""
    return show_bytes(int(kib) * 1024)


def show_bytes(count: int | str) -> str:
    """A size in bytes for people: `512 B`, `12 KiB`, `3.4 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def show_duration(seconds: float) -> str:
    """A duration for people: `12 ms`, `3.4 s`, `5 min`, `2 h`, `3 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for limit, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return (
                f"{seconds / unit_s:.1f} {unit}"
                if seconds < 10
                else f"{seconds / unit_s:.0f} {unit}"
            )
    return f"{seconds / 86_400:.0f} d"


def _terminal() -> Console:
    # Made anew each time, because it must see the standard output of now.
    return Console(highlight=False, markup=False)


def _print_table(columns: Sequence[Column], records: Sequence[Record]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            overflow="fold" if column.folds else "ellipsis",
            no_wrap=not column.folds,
        )
    for record in records:
        texts = [column.text(record) for column in columns]
        table.add_row(*(Text(text, _STYLES.get(text, "")) for text in texts))
    _terminal().print(table)


def _print_lines(columns: Sequence[Column], records: Sequence[Record]) -> None:
    rows = [[column.heading for column in columns]]
    rows += [[column.text(record) for column in columns] for record in records]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        cells = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())
