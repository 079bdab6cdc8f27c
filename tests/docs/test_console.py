"""The runner of pages sees what is wrong with a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.console import Shell, commands_of, difference

PAGE = """
Words, and then
```console
$ echo one
one
$ for n in 1 2; do
>   echo $n
> done
1
2
```
```sh
$ not this
```
```console
$ afsctl nothing
afsctl: No such command
```
"""


def test_commands_are_found_with_their_output() -> None:
    """Commands over several lines, output, errors; other blocks are left alone."""
    first, second, third = commands_of(PAGE)
    assert (first.line, first.text, first.output) == (4, "echo one", ["one"])
    assert second.text == "for n in 1 2; do\n  echo $n\ndone"
    assert second.output == ["1", "2"]
    assert (third.output, third.errors) == ([], ["afsctl: No such command"])


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["took 12 ms, 3 files"], ["took 3.4 s,  3 files"], True),
        (["took 12 ms, 3 files"], ["took 12 ms, 4 files"], False),
        (["a", "…", "z"], ["a", "b", "c", "z"], True),
        (["a", "…", "z"], ["a", "b"], False),
        (["a … z"], ["a b z"], True),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["a"], False),
        (["a.c"], ["abc"], False),
        ([], [], True),
        (["2026-01-01 10:00:00"], ["1999-12-31 23:59:59"], True),
    ],
)
def test_difference(expected: list[str], printed: list[str], same: bool) -> None:
    """Only what differs from run to run may differ."""
    assert (difference(expected, printed) == "") is same


def test_shell_tells_status_output_and_errors(tmp_path: Path) -> None:
    """One shell for all commands: directories and variables stay, jobs in the background too."""
    with Shell(tmp_path) as shell:
        assert shell.run("x=5; mkdir d; cd d").status == 0
        assert shell.run("printf $x; pwd").output == [f"5{tmp_path}/d"]
        assert shell.run("(echo later > file) &").status == 0
        assert shell.run("wait; cat file").output == ["later"]
        failed = shell.run("echo no >&2; false")
        assert (failed.status, failed.errors) == (1, ["no"])
        assert shell.run("true").errors == []
