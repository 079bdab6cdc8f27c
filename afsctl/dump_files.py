"""Dump files of volumes: written whole or not at all, read in pieces, with progress."""

from __future__ import annotations

import os
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


def write_dump(path: Path, pieces: Iterable[bytes], *, quiet: bool = False) -> int:
    """Writes the pieces to a file, or to standard output for `-`; answers how many bytes they were.

    The file appears under its name only when it is whole, and on disk.

    Args:
        path: of the file.
        pieces: the dump.
        quiet: shows no progress.

    Raises:
        CommandError: standard output is a terminal.
        OSError: the file cannot be written.
    """
    if path == STANDARD_STREAM:
        if sys.stdout.isatty():
            raise CommandError(
                "a dump is no text for a terminal: name a file, or redirect the output"
            )
        with metered("dumping", "bytes", quiet=quiet) as meter:
            return _copy(pieces, sys.stdout.buffer, meter)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        metered("dumping", "bytes", quiet=quiet) as meter,
    ):
        size_bytes = _copy(pieces, file, meter)
        # The volume may be removed as soon as its dump is there.
        os.fsync(file.fileno())
    return size_bytes


@contextmanager
def read_dump(
    path: Path, *, label: str = "restoring", quiet: bool = False
) -> Iterator[Iterator[bytes]]:
    """The pieces of a dump file, or of standard input for `-`.

    Args:
        path: of the file.
        label: what is being done with it.
        quiet: shows no progress.
    """
    if path == STANDARD_STREAM:
        with metered(label, "bytes", quiet=quiet) as meter:
            yield _pieces(sys.stdin.buffer, 0, meter)
        return
    with path.open("rb") as file, metered(label, "bytes", quiet=quiet) as meter:
        yield _pieces(file, path.stat().st_size, meter)


def _copy(pieces: Iterable[bytes], file: BinaryIO, meter: Meter) -> int:
    done = 0
    for piece in pieces:
        file.write(piece)
        done += len(piece)
        meter.update(done=done, total=0)
    file.flush()
    return done


def _pieces(file: BinaryIO, total: int, meter: Meter) -> Iterator[bytes]:
    done = 0
    while piece := file.read(DATA_PIECE_BYTES):
        yield piece
        done += len(piece)
        meter.update(done=done, total=total)
