"""What is mounted where, and taking mounts away. Used by clientd, and by the guard beside it.

Imports little: the guard is a process of its own, and small.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

# What /proc/self/mountinfo calls our mounts.
FILE_SYSTEM: Final = "fuse.laterfs"
SOURCE: Final = "laterfs"

# Source: linux/mount.h.
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2

# fusermount3 only mounts and unmounts; one that takes longer hangs.
FUSERMOUNT_TIMEOUT_S: Final = 10.0


class Mounted(NamedTuple):
    """One line of the mount table; `device` is what stat(2) would say, as MAJOR:MINOR."""

    path: str
    type: str
    device: str


def mounted_at(path: Path) -> Mounted | None:
    """What is mounted at this very path, the topmost; None if nothing is."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(" ")
            point = _unescape(fields[4])
            if point == str(path):
                found = Mounted(point, fields[fields.index("-") + 1], fields[2])
    return found


def is_dead(path: Path) -> bool:
    """True if a FUSE mount is at the path, and the process behind it is gone."""
    mounted = mounted_at(path)
    if mounted is None or not mounted.type.startswith("fuse"):
        return False
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    return False


def mount(path: Path, options: str) -> None:
    """Makes a mount, as root.

    Raises:
        OSError: what the kernel says.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.mount(
        SOURCE.encode(),
        os.fsencode(path),
        FILE_SYSTEM.encode(),
        ctypes.c_ulong(MS_NOSUID | MS_NODEV),
        options.encode(),
    )
    if result:
        raise _last_error(path)


def unmount(path: Path) -> None:
    """Cuts the mount off at once, whoever still uses it; nothing if there is none.

    Raises:
        OSError: what the kernel, or fusermount3, says.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(path), MNT_FORCE | MNT_DETACH):
            error = _last_error(path)
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise error
        return
    program = fusermount()
    done = subprocess.run(
        [program, "-u", "-z", "-q", "--", os.fspath(path)],
        capture_output=True,
        timeout=FUSERMOUNT_TIMEOUT_S,
        check=False,
    )
    if done.returncode and mounted_at(path) is not None:
        raise OSError(errno.EPERM, done.stderr.decode(errors="replace").strip() or "fusermount3")


def fusermount() -> str:
    """The program by which others than root mount.

    Raises:
        OSError: ENOENT if it is not installed.
    """
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise OSError(
            errno.ENOENT, "only root can mount without the program fusermount3 (package fuse3)"
        )
    return program


def _last_error(path: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path))


def _unescape(text: str) -> str:
    """A path in the mount table: blanks and their kin are octal numbers there."""
    for code in (" ", "\t", "\n", "\\"):
        text = text.replace(f"\\{ord(code):03o}", code)
    return text
