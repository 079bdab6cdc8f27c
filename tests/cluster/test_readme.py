"""README's section on the cell in containers is true, line by line, from its first command on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import DAEMONS, TESTS, Cluster, Plan
from tests.cluster.engine import ENGINE, ROOT
from tests.docs.console import Command, Printed, Shell, commands_of, difference

SECTION = "## A cell in containers"
# The page's cell: docker-compose.yml as it is, and the images that the tests have built.
PAGE_CELL = Plan("laterfs-readme", "", TESTS.image)
# On a slow machine a mark must still be seen between two looks, and a lease not have ended before.
SETTINGS = {"AFS_BREAK_DEADLINE_S": "10", "AFS_CHANNEL_LEASE_S": "60"}
POKES_AT_LEAST = 10


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Iterator[Shell]:
    """A shell whose docker-compose runs a cell of its own; the tests' cluster rests meanwhile."""
    cluster.pause(*DAEMONS)
    settings = {
        "COMPOSE_FILE": str(ROOT / "docker-compose.yml"),
        "COMPOSE_PROJECT_NAME": PAGE_CELL.name,
        "LATERFS_IMAGE": PAGE_CELL.image,
        "PATH": f"{Path(ENGINE).parent}:$PATH",
        **SETTINGS,
    }
    with Shell(tmp_path) as shell:
        shell.run("export " + " ".join(f'{name}="{text}"' for name, text in settings.items()))
        try:
            yield shell
        finally:
            shell.run("docker-compose down --volumes --remove-orphans")


def section_of(page: str, title: str) -> str:
    """The lines of one section, with empty ones before it so that line numbers are the page's."""
    before, _, rest = page.partition(title)
    return "\n" * before.count("\n") + rest.partition("\n## ")[0]


def typed(command: Command) -> str:
    """The command as a shell without a terminal can run it, whose own input is no input of it."""
    text = command.text.replace("docker-compose exec ", "docker-compose exec -T ")
    return f"{{\n{text}\n}} </dev/null"


def check(command: Command, printed: Printed) -> None:
    """Fails the test unless the command printed what the page says."""
    where = f"README.md, line {command.line}: {command.text}"
    assert printed.status == 0, (where, printed)
    wrong = difference(command.output, printed.output)
    assert not wrong, f"{where}\n{wrong}\nstandard error:\n{printed.errors}"


@pytest.mark.timeout(600)
def test_section_on_the_cell_in_containers(shell: Shell) -> None:
    """Each command does what the page says, in order, and the last leaves nothing."""
    section = section_of((ROOT / "README.md").read_text(), SECTION)
    assert section.count("\n**") >= POKES_AT_LEAST
    commands = list(commands_of(section))
    assert commands[0].text.startswith("docker-compose up")
    for command in commands:
        check(command, shell.run(typed(command)))
    left = f"{ENGINE} ps --all --quiet --filter label=com.docker.compose.project={PAGE_CELL.name}"
    assert shell.run(left).output == []
