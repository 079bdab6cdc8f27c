"""Files that appear under their names only when they are whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """A path beside `path` that nothing else has, for what is to be renamed to `path`.

    Its name is short whatever the name of `path`, and says whose it is if it is ever left behind.
    """
    return path.with_name(f".afsctl-{secrets.token_hex(8)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` at the end, removed if anything goes wrong before."""
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
