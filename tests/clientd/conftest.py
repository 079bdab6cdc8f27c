"""A fake fileserver and a client of it, for every test that asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clientd.fake_fileserver import FakeFileServer, fake_fileserver
from tests.clientd.local_program import LocalProgram, running_client


@pytest.fixture
async def server() -> AsyncIterator[FakeFileServer]:
    """A fake fileserver."""
    async with fake_fileserver() as running:
        yield running


@pytest.fixture
async def program(server: FakeFileServer, tmp_path: Path) -> AsyncIterator[LocalProgram]:
    """A program whose client talks to the fake fileserver."""
    async with running_client(tmp_path, server.address) as running:
        yield running
