"""A cell of processes with two mounted clients, for programs that know nothing of laterfs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import pytest

from afs.v1 import vol_server_pb2, vol_server_pb2_grpc
from afsctl.cell import Cell
from tests.mounted.waiting import wait_until

_names = count(1)


@dataclass(frozen=True, slots=True)
class Mounts:
    """The cell, and where its two clients are mounted."""

    cell: Cell
    first: Path
    second: Path

    def make_volume(self) -> str:
        """A new volume, empty; its name."""
        name = f"volume-{next(_names)}"
        # Not by afsctl, which takes longer to start than a volume to be made.
        with grpc.insecure_channel(self.cell.vol_server) as channel:
            stub = vol_server_pb2_grpc.VolServerStub(channel)
            stub.Create(vol_server_pb2.CreateRequest(name=name, partition="vicepa"), timeout=60)
        return name

    def afsctl(self, *words: str) -> str:
        """Runs a command of the command line; what it printed."""
        return run(sys.executable, "-m", "afsctl", *words, "--cell", self.cell.directory)


def run(*words: str | Path, cwd: Path | None = None, timeout_s: float = 100.0) -> str:
    """Runs a program, which must end with status 0; its standard output.

    The test is skipped where there is no such program.
    """
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"there is no {words[0]} here")
    ended = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, f"{words}: exit {ended.returncode}: {ended.stderr[-2000:]}"
    return ended.stdout


@pytest.fixture(scope="session")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    """One cell for all tests here; each makes its own volumes."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no FUSE here")
    root = tmp_path_factory.mktemp("mounted")
    first, second = root / "first", root / "second"
    with Cell.start(root / "cell", clients=2, partitions=2, mounts=(first, second)) as cell:
        wait_until(lambda: os.path.ismount(first) and os.path.ismount(second))
        yield Mounts(cell, first, second)


@pytest.fixture
def volume(mounts: Mounts) -> str:
    """The name of a new volume."""
    return mounts.make_volume()


@pytest.fixture
def here(mounts: Mounts, volume: str) -> Path:
    """The new volume's root directory, at the first client."""
    return mounts.first / volume


@pytest.fixture
def there(mounts: Mounts, volume: str) -> Path:
    """The same directory, at the second client."""
    return mounts.second / volume
