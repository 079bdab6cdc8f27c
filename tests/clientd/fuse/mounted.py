"""Clients that are mounted, in the process of the test, and programs on them, in threads.

Whatever touches a mount must run in a thread: the loop of the test answers it. No process may be
started while a file of a mount is open in this one: the child closes it before it becomes a
program, which is a request too, and until then this process stands still.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.clientd.local_program import LocalProgram
from tests.clientd.test_coherence import RealCell, real_cell

T = TypeVar("T")
PATIENCE_S = 20.0

needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)


class MountedCell:
    """A real fileserver, and clients of it with mounts.

    Attributes:
        cell: fileserver and clients.
        roots: of each client, the volume `home` in its mount.
    """

    def __init__(self, cell: RealCell, roots: list[Path]) -> None:
        self.cell = cell
        self.roots = roots

    @property
    def programs(self) -> list[LocalProgram]:
        """What calls the clients by their other door."""
        return self.cell.programs


@asynccontextmanager
async def mounted_cell(folder: Path, clients: int = 1) -> AsyncIterator[MountedCell]:
    """A cell whose clients are all mounted."""
    async with AsyncExitStack() as stack:
        cell = await stack.enter_async_context(real_cell(folder, clients))
        roots: list[Path] = []
        for number, program in enumerate(cell.programs):
            path = folder / f"mount-{number}"
            path.mkdir()
            await program.client.mounts.mount(path)
            stack.push_async_callback(program.client.mounts.stop)
            roots.append(path / "home")
        yield MountedCell(cell, roots)


async def run(program: str, *arguments: object) -> str:
    """What a Python program prints that runs as a process of its own.

    Mapped memory needs that: a fault in a thread of ours would hold the interpreter's lock, and
    wait for the loop, which needs it.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def do(work: Callable[..., T], *arguments: Any) -> T:
    """What a program does with a mount, and what comes of it; not for ever."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(work, *arguments)
