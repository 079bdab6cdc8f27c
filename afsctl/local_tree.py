"""A tree of files on this machine: looked through once, then read file by file."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from afs.limits import DATA_PIECE_BYTES
from afs.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """A file or symbolic link: its path, and its size in bytes when the tree was looked through."""

    path: Path
    name: str
    size_bytes: int


@dataclass(slots=True)
class LocalDirectory:
    """A directory and what is directly in it; sorted by name."""

    path: Path
    name: str
    status: os.stat_result
    files: list[LocalEntry] = field(default_factory=list)
    symlinks: list[LocalEntry] = field(default_factory=list)
    directories: list[LocalDirectory] = field(default_factory=list)

    def walk(self) -> Iterator[LocalDirectory]:
        """This directory and all below it, parents before their children."""
        yield self
        for directory in self.directories:
            yield from directory.walk()


def scan(root: Path, skipped: list[str]) -> LocalDirectory:
    """The tree below a directory; blocks on the disk.

    Args:
        root: must be a directory; OSError if it cannot be read.
        skipped: gets a line for each entry that no volume can hold (a name or link target that is
            not UTF-8, a special file) and each directory that cannot be read.
    """
    tree = LocalDirectory(root, root.name, root.stat())
    _fill(tree, skipped)
    return tree


def _fill(tree: LocalDirectory, skipped: list[str]) -> None:
    ahead = [tree]
    while ahead:
        directory = ahead.pop()
        with os.scandir(directory.path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            try:
                problem = _add(directory, entry)
            except OSError as error:
                problem = error.strerror or str(error)
            if problem:
                skipped.append(f"{shown(entry.path)}: {problem}")
        ahead += directory.directories


def _add(directory: LocalDirectory, entry: os.DirEntry[str]) -> str:
    """Adds one entry to its directory; answers why not, if it cannot be."""
    if not is_utf8(entry.name):
        return "the name is not UTF-8"
    path = Path(entry.path)
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        if not os.access(path, os.R_OK | os.X_OK):
            return "the directory cannot be read"
        directory.directories.append(LocalDirectory(path, entry.name, status))
    elif stat.S_ISLNK(status.st_mode):
        if not is_utf8(os.readlink(path)):
            return "the link's target is not UTF-8"
        directory.symlinks.append(LocalEntry(path, entry.name, 0))
    elif stat.S_ISREG(status.st_mode):
        directory.files.append(LocalEntry(path, entry.name, status.st_size))
    else:
        return "neither file, directory nor symbolic link"
    return ""


class LocalFile:
    """An open file with its status and its first piece; the methods block on the disk."""

    def __init__(self, path: Path) -> None:
        # A read may still run in its thread when the store it was for has failed and the file is
        # closed.
        self._lock = threading.Lock()
        # A name may have become a link or a pipe since the scan: follow none, wait for none.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        try:
            self.status = os.fstat(descriptor)
            if not stat.S_ISREG(self.status.st_mode):
                raise OSError(0, "no longer a file", str(path))
            self.first = self.read()
            # Most files are of one piece; they are then closed before they are sent.
            if len(self.first) < DATA_PIECE_BYTES:
                self.close()
        except BaseException:
            self.close()
            raise

    @property
    def is_one_piece(self) -> bool:
        """True if there is nothing after the first piece."""
        return self._file.closed

    def seek_second_piece(self) -> None:
        """Makes `read` go on after the first piece, for a store that is tried again."""
        with self._lock:
            self._file.seek(len(self.first))

    def read(self) -> bytes:
        """The next piece; empty at the end, or when closed."""
        pieces, missing = [], DATA_PIECE_BYTES
        with self._lock:
            while missing and not self._file.closed and (data := self._file.read(missing)):
                pieces.append(data)
                missing -= len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Closes the file; a no-op when closed."""
        with self._lock:
            self._file.close()


def set_status_of(status: os.stat_result) -> types_pb2.SetStatus:
    """What a volume keeps of a local file: mode, owner, group and time of modification."""
    return types_pb2.SetStatus(
        mode=stat.S_IMODE(status.st_mode),
        owner=status.st_uid,
        group=status.st_gid,
        client_mtime_ns=status.st_mtime_ns,
    )


def is_utf8(name: str) -> bool:
    """True if a name from the operating system is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str | Path) -> str:
    """A path for people, also one that is not UTF-8 or has control characters in it."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )
