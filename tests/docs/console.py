"""Runs the commands of a Markdown page in a shell and compares what they print with the page.

In the page's `console` blocks a line that begins with `$ ` is a command (one with `> ` goes on with
it), and the lines after it are what it prints. `afsctl: …` is a line on standard error, and means
that the command fails. All commands run in one shell, in order.

What differs from run to run is compared by its kind only: durations, rates, dates, sizes in GiB,
incarnations and host UUIDs, and how columns are aligned. A line `…` stands for any lines, and a `…`
within a line for any text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

ANYTHING: Final = "…"
_ERROR: Final = "afsctl: "
_END: Final = "--- end of command"
# Kinds of text whose value is not compared, and the word that stands for each.
_KINDS: Final = [
    (re.compile(r"\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d"), "<date>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<incarnation>"),
    (re.compile(r"\b\d+(?:\.\d+)? GiB\b"), "<size>"),
    (re.compile(r"\b\d+(?:\.\d+)?(?:e[+-]\d+)? (?:ms|s|min|h)\b"), "<duration>"),
    (re.compile(r"\b\d+ files/s\b"), "<rate>"),
]


@dataclass(slots=True)
class Command:
    """A command of a page, the line that it is in, and what the page says that it prints."""

    line: int
    text: str
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def commands_of(page: str) -> Iterator[Command]:
    """The commands in a page's `console` blocks, in order."""
    command: Command | None = None
    inside = False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.startswith("```"):
            inside = line == "```console"
            if command is not None:
                yield command
            command = None
        elif inside and line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(number, line[2:])
        elif inside and command is not None:
            if line.startswith("> "):
                command.text += "\n" + line[2:]
            elif line.startswith(_ERROR):
                command.errors.append(line)
            else:
                command.output.append(line)


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command printed, line by line, and its exit status."""

    status: int
    output: list[str]
    errors: list[str]


class Shell:
    """A shell in a directory, in which `afsctl` and `python3` are this environment's. A context."""

    def __init__(self, directory: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {name: text for name, text in os.environ.items() if name[:4] != "AFS_"}
        self._errors = (directory / ".stderr").open("w+")
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env={**environment, "PATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()
        assert self._shell.stdout is not None
        self._shell.stdout.close()
        self._errors.close()

    def run(self, command: str) -> Printed:
        """Runs a command to its end."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        began = self._errors.seek(0, os.SEEK_END)
        # Output that does not end with a line end gets one.
        self._shell.stdin.write(f"{command}\nprintf '\\n{_END} %d\\n' $?\n")
        self._shell.stdin.flush()
        output: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(_END):
                break
            output.append(line.rstrip("\n"))
        else:
            raise AssertionError(f"the shell ended in {command!r}")
        self._errors.seek(began)
        errors = self._errors.read().splitlines()
        status = int(line.removeprefix(_END))
        return Printed(status, [text for text in output if text.strip()], errors)


def difference(expected: list[str], printed: list[str]) -> str:
    """Where what was printed is not what was expected; empty if it is.

    Empty lines do not count.
    """
    wanted = [_kinds(line) for line in expected if line.strip()]
    given = [_kinds(line) for line in printed if line.strip()]
    pattern = "".join(
        "(?:.*\n)*" if line == ANYTHING else re.escape(line).replace(ANYTHING, ".*") + "\n"
        for line in wanted
    )
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in given)):
        return ""
    return "expected:\n  " + "\n  ".join(wanted) + "\nprinted:\n  " + "\n  ".join(given)


def _kinds(line: str) -> str:
    for pattern, word in _KINDS:
        line = pattern.sub(word, line)
    return " ".join(line.split())
