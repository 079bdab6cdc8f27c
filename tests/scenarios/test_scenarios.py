"""Transcripts of the callback machine: each is what the machine does today, and none is missing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.scenarios.runner import Transcript, TranscriptError, main, transcripts

ROOT = Path(__file__).parents[2]
PITFALLS = ROOT / "docs/pitfalls.md"

# Statements of the mechanism, and the pitfalls that concern the callback machine. Not here: T21,
# T22, T24, R7, R8, R9, which are the volserver's and FSSync's.
STATEMENTS = {f"M{number}" for number in range(1, 8)} | {"E1", "E2"}
OF_THE_MACHINE = {f"T{number}" for number in range(1, 27)} - {"T21", "T22", "T24"} | {
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R6",
    "R10",
}
ALL_PITFALLS = [f"T{number}" for number in range(1, 27)] + [f"R{n}" for n in range(1, 11)]


@pytest.mark.parametrize("transcript", transcripts(), ids=lambda each: each.path.stem)
def test_machine_does_what_the_transcript_says(transcript: Transcript) -> None:
    """What each command is answered is what stands below it; SCENARIOS_REWRITE=1 rewrites it."""
    played = transcript.played().text()
    if os.environ.get("SCENARIOS_REWRITE") and played != transcript.text():
        transcript.path.write_text(played, "utf-8")
    else:
        assert played.splitlines() == transcript.text().splitlines()


@pytest.mark.parametrize("number", sorted(STATEMENTS | OF_THE_MACHINE))
def test_some_transcript_shows(number: str) -> None:
    """Each statement and each pitfall of the machine is in the header of some transcript."""
    assert [each.path.name for each in transcripts() if number in each.shows]


@pytest.mark.parametrize("transcript", transcripts(), ids=lambda each: each.path.stem)
def test_header_explains(transcript: Transcript) -> None:
    """A header names what the file is named for, and says what one should see."""
    named = transcript.path.stem.split("_")[0].upper()
    named = named[0] + named[1:].lstrip("0")
    assert named in transcript.shows
    assert "One should see" in " ".join(transcript.header) or "one should see" in " ".join(
        transcript.header
    )


def test_transcript_that_is_wrong_differs(tmp_path: Path) -> None:
    """The runner notices an answer that is not given, and rewrites it when it is told to."""
    path = tmp_path / "wrong.txt"
    path.write_text("# M3: one should see more than this.\n\n> up a\nnothing\n", "utf-8")
    assert main([str(path)]) == 1
    assert "nothing" in path.read_text("utf-8")
    assert main(["--rewrite", str(path)]) == 0
    assert path.read_text("utf-8").endswith("> up a\na is up, channel 1\n")
    assert main([str(path)]) == 0


@pytest.mark.parametrize(
    "command", ["fly a", "promise a two", "ack nobody", "advance 2 parsecs", "call", "write 2 by"]
)
def test_command_that_cannot_be_understood(tmp_path: Path, command: str) -> None:
    """The error names the file, the line and the command."""
    path = tmp_path / "wrong.txt"
    path.write_text(f"# M3: one should see an error.\n> up a\n> {command}\n", "utf-8")
    with pytest.raises(TranscriptError, match=rf"^wrong\.txt:3: > {command}: "):
        Transcript.read(path).played()


# --- docs/pitfalls.md -----------------------------------------------------------------------------


def rows() -> dict[str, str]:
    """The lines of the table, by the number of the pitfall."""
    lines = PITFALLS.read_text("utf-8").splitlines()
    return {
        match[1]: line
        for line in lines
        if (match := re.match(r"\| ([TR]\d+) \|", line)) is not None
    }


def test_table_has_every_pitfall() -> None:
    """Each of T1-T26 and R1-R10 has its line, which names a test or says that it has none."""
    table = rows()
    assert list(table) == ALL_PITFALLS
    for number, line in table.items():
        assert re.search(r"`tests/\S+`", line) or "**not yet**" in line, number


def named_tests() -> list[str]:
    """Every test or transcript that the page names."""
    return sorted(
        set(re.findall(r"`(tests/[^\s`]+\.(?:py|txt)[^\s`]*)`", PITFALLS.read_text("utf-8")))
    )


@pytest.mark.parametrize("named", named_tests())
def test_test_in_the_table_exists(named: str) -> None:
    """A file that the page names is there, and what it names in it is defined in it."""
    path, *names = named.split("::")
    text = (ROOT / path).read_text("utf-8")
    for name in names:
        kind = "class" if name.startswith("Test") else r"(?:async )?def"
        # A name bound to a Hypothesis state machine's TestCase is a test as well.
        assert re.search(rf"^\s*{kind} {name}\b|^{name} = ", text, re.MULTILINE), name
