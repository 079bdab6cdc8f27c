"""Writes that are on disk when they return."""

from __future__ import annotations

from pathlib import Path

import pytest

from afs.runtime.files import fsync_dir, write_durably


def test_writes_and_replaces(tmp_path: Path) -> None:
    """A file gets its new content, whatever it held before, and nothing is left beside it."""
    path = tmp_path / "state"
    write_durably(path, b"one")
    write_durably(path, b"a longer two")
    assert path.read_bytes() == b"a longer two"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """When the new file cannot take its place, the old one stays and the temporary one goes."""
    path = tmp_path / "state"
    path.mkdir()
    (path / "entry").touch()
    with pytest.raises(OSError, match="directory"):
        write_durably(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "entry").exists()


def test_name_of_full_length(tmp_path: Path) -> None:
    """A name as long as the system allows can be written: the temporary name is no longer."""
    path = tmp_path / ("n" * 255)
    write_durably(path, b"x")
    assert path.read_bytes() == b"x"


def test_fsync_dir_needs_a_directory(tmp_path: Path) -> None:
    """A directory can be synced; a file in its place is an error, not a silent success."""
    fsync_dir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        fsync_dir(tmp_path / "file")
