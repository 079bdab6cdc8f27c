"""The seal of a cleanly detached volume.

A hash over its whole database, so that damage at rest is found on opening.

A seal `<id>.seal` is written when the volume is closed and taken away, durably, before its first
change after that. A volume without a seal was not cleanly detached, and is checked row by row
instead (`verify`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.runtime.files import fsync_dir, write_durably

_READ_BYTES: Final = 4 * MIB


def seal_path(database: Path) -> Path:
    """Where the seal of a database lies."""
    return database.with_suffix(".seal")


def put_seal(database: Path, digest: str | None = None) -> None:
    """Seals a database that nobody has open and that has no WAL; durable on return.

    Args:
        database: the database.
        digest: its `database_digest`, if that is known.
    """
    digest = database_digest(database) if digest is None else digest
    write_durably(seal_path(database), f"blake3 {digest}\n".encode())


def break_seal(database: Path) -> None:
    """Takes the seal away, durably: the database is about to change."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(seal_path(database))
        fsync_dir(database.parent)


def check_seal(database: Path) -> bool:
    """Whether the database was cleanly detached.

    Raises:
        AfsError: VSALVAGE if it has a seal that does not fit it.
    """
    wal = database.with_name(database.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        return False
    try:
        seal = seal_path(database).read_bytes()
    except FileNotFoundError:
        return False
    if seal != f"blake3 {database_digest(database)}\n".encode():
        raise AfsError(
            AfsCode.VSALVAGE,
            f"the database {database.name} is not the one that was sealed: it is damaged",
        )
    return True


def database_digest(path: Path) -> str:
    """The hash that a seal holds."""
    # Read, not mapped: a disk that fails is then an error, not a signal that ends the daemon.
    digest = blake3(max_threads=blake3.AUTO)
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
