"""`docs/posix.md` names a test for each of its lines, and every test of the mount has a line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/posix.md"
TESTS = ROOT / "tests/mounted"


def _tests() -> set[str]:
    names = set()
    for path in TESTS.glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names.add(node.name)
    return names


def test_each_line_has_its_test() -> None:
    """A row of the tables without a test, or with one that does not exist, is a claim."""
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| (?!call )[^-]", line)]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2])
        assert named, f"no test is named: {row}"
        assert set(named) <= _tests(), f"there is no such test: {row}"


def test_each_test_of_a_call_has_its_line() -> None:
    """What is tested of calls stands on the page; programs have their own paragraph."""
    programs = (TESTS / "test_programs.py").read_text()
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert {name for name in _tests() - named if f"def {name}(" not in programs} == set()
