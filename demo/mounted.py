"""Ordinary programs on a client that is mounted: they know nothing of laterfs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from demo.client import digest_of

FUSE: Final = Path("/dev/fuse")


def why_no_mount() -> str:
    """Why nothing can be mounted here; "" if it can."""
    if not FUSE.exists():
        return f"there is no {FUSE}"
    if not os.access(FUSE, os.R_OK | os.W_OK):
        return f"{FUSE} may not be used"
    if os.geteuid() and shutil.which("fusermount3") is None:
        return "this user is not root, and there is no fusermount3"
    return ""


async def digests(root: Path) -> dict[str, str]:
    """Every file below a directory, read by open(2) and read(2); digests by relative path."""

    def read() -> dict[str, str]:
        return {
            str(path.relative_to(root)): digest_of(path.read_bytes())
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    return await asyncio.to_thread(read)


async def digest(path: Path) -> str:
    """One file's."""
    return digest_of(await asyncio.to_thread(path.read_bytes))


async def files_with(word: str, root: Path) -> set[str]:
    """What `grep -rl` finds."""

    def grep() -> set[str]:
        command = ("grep", "-rlF", word, ".")
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        return set(found.stdout.splitlines())

    return await asyncio.to_thread(grep)
