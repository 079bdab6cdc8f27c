"""`docs/operators-day.md` is true: its commands are run against a real cell of two servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from afsctl.cell import Cell
from tests.docs.console import Command, Printed, Shell, commands_of, difference

PAGE = Path(__file__).parents[2] / "docs/operators-day.md"
# The page has the ports of a cell by itself on its machine; a test takes any that are free.
CELL_UP = "afsctl cell up "


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """An empty directory for the day; its cell, in `var`, is stopped at the end."""
    yield tmp_path
    cell = Cell.find(tmp_path / "var") if (tmp_path / "var").exists() else None
    if cell is not None:
        cell.stop(timeout_s=0.0)


class Addresses:
    """The addresses that the page has for those of the cell that runs."""

    def __init__(self, directory: Path) -> None:
        self._cell_dir = directory / "var"
        self._pairs: list[tuple[str, str]] = []

    def look(self) -> None:
        """Finds the cell's, once it runs."""
        cell = Cell.find(self._cell_dir) if self._cell_dir.exists() else None
        if cell is None or self._pairs:
            return
        self._pairs.append((cell.location, "127.0.0.1:7003"))
        for index, server in enumerate(cell.servers):
            port = 9000 + 10 * index if index else 7000
            self._pairs.append((server.file_server, f"127.0.0.1:{port}"))
            self._pairs.append((server.vol_server, f"127.0.0.1:{port + 5}"))
        for index, client in enumerate(cell.clients):
            self._pairs.append((client, f"127.0.0.1:{7010 + index if index else 7001}"))

    def real(self, text: str) -> str:
        """A command with the real addresses instead of the page's."""
        for real, page in self._pairs:
            text = text.replace(page, real)
        return text

    def of_page(self, lines: list[str]) -> list[str]:
        """Printed lines with the page's addresses instead of the real ones."""
        for real, page in self._pairs:
            lines = [line.replace(real, page) for line in lines]
        return lines


def check(command: Command, printed: Printed, addresses: Addresses) -> None:
    """Fails the test unless the command printed what the page says."""
    errors = [line for line in printed.errors if line.startswith("afsctl: ")]
    where = f"{PAGE.name}, line {command.line}: {command.text}"
    assert bool(printed.status) is bool(command.errors), (where, printed)
    for expected, given in ((command.output, printed.output), (command.errors, errors)):
        wrong = difference(expected, addresses.of_page(given))
        assert not wrong, f"{where}\n{wrong}\nstandard error:\n{printed.errors}"


@pytest.mark.timeout(600)
def test_day_of_an_operator(directory: Path) -> None:
    """Each command of the page does what the page says, in order, from an empty directory on."""
    addresses = Addresses(directory)
    commands = list(commands_of(PAGE.read_text()))
    assert len(commands) > 40
    with Shell(directory) as shell:
        for command in commands:
            text = addresses.real(command.text).replace(CELL_UP, f"{CELL_UP}--ports free ")
            printed = shell.run(text)
            addresses.look()
            check(command, printed, addresses)
    assert Cell.find(directory / "var") is None
