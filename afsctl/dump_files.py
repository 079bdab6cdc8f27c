"""Dump files of volumes: written whole or not at all, read in pieces, with progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from afs.limits import DATA_PIECE_BYTES
from afsctl.failure import CommandError
from afsctl.progress import Meter, metered
from afsctl.replacing import replacing

# Stands for standard output or input.
STANDARD_STREAM: Final = Path("-")


def write_dump(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes the pieces to a file, or to standard output for `-`.

    The file appears under its name only when it is whole.

    Raises:
        CommandError: standard output is a terminal.
        OSError: the file cannot be written.
    """
    if path == STANDARD_STREAM:
        if sys.stdout.isatty():
            raise CommandError(
                "a dump is no text for a terminal: name a file, or redirect the output"
            )
        with metered("dumping", "bytes") as meter:
            _copy(pieces, sys.stdout.buffer, meter)
        return
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        metered("dumping", "bytes") as meter,
    ):
        _copy(pieces, file, meter)


@contextmanager
def read_dump(path: Path, *, quiet: bool = False) -> Iterator[Iterator[bytes]]:
    """The pieces of a dump file, or of standard input for `-`.

    Args:
        path: of the file.
        quiet: shows no progress.
    """
    if path == STANDARD_STREAM:
        with metered("restoring", "bytes", quiet=quiet) as meter:
            yield _pieces(sys.stdin.buffer, 0, meter)
        return
    with path.open("rb") as file, metered("restoring", "bytes", quiet=quiet) as meter:
        yield _pieces(file, path.stat().st_size, meter)


def _copy(pieces: Iterable[bytes], file: BinaryIO, meter: Meter) -> None:
    done = 0
    for piece in pieces:
        file.write(piece)
        done += len(piece)
        meter.update(done=done, total=0)
    file.flush()


def _pieces(file: BinaryIO, total: int, meter: Meter) -> Iterator[bytes]:
    done = 0
    while piece := file.read(DATA_PIECE_BYTES):
        yield piece
        done += len(piece)
        meter.update(done=done, total=total)
