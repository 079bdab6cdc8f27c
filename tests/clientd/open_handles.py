"""Handles of files, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from afs.types import Fid
from clientd.open_file import OpenFile
from clientd.volume_calls import VolumeCalls
from tests.clientd.local_program import LocalProgram


async def home(program: LocalProgram) -> VolumeCalls:
    """The volume."""
    volume = await program.client.services.volumes.named("home")
    await program.until_leased()
    return volume


@asynccontextmanager
async def opened(
    program: LocalProgram, fid: Fid, *, write: bool = True, truncate: bool = False
) -> AsyncIterator[OpenFile]:
    """An open file, closed in the end."""
    volume = await home(program)
    files = program.client.services.open_files
    handle = await files.open(volume, fid, write=write, truncate=truncate)
    try:
        yield handle
    finally:
        await handle.close()
