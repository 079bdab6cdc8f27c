"""A mounted client, a local folder and a local pass-through file system, to be compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afsctl.cell import Cell
from bench import stage

# A mount that has not come, or not gone, after this long has failed.
PATIENCE_S: Final = 30.0
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Mounted:
    """A cell with one client, mounted.

    Attributes:
        cell: the cell.
        root: where it is mounted: the volumes are its names.
        local: an empty folder on the disk that the cell is on.
    """

    cell: Cell
    root: Path
    local: Path

    def go_cold(self) -> None:
        """The same mount by a client that has nothing, and a kernel that has nothing.

        Needs root, to have the kernel drop its caches.
        """
        (client,) = self.cell.clientds
        client.stop()
        shutil.rmtree(self.cell.directory / "cache-0")
        _drop_caches()
        client.start()
        _wait_for_mount(self.root, there=True)


@contextmanager
def mounted() -> Iterator[Mounted]:
    """A cell of one server and one client that is mounted."""
    with stage.scratch() as directory:
        root, local = directory / "afs", directory / "local"
        local.mkdir()
        with Cell.start(directory / "cell", mounts=(root,)) as cell:
            _wait_for_mount(root, there=True)
            yield Mounted(cell, root, local)
        _wait_for_mount(root, there=False)


@contextmanager
def passed_through(folder: Path) -> Iterator[Path]:
    """The folder through bindfs, another FUSE file system.

    Raises:
        RuntimeError: there is no bindfs here.
    """
    bindfs, umount = shutil.which("bindfs"), shutil.which("umount")
    if bindfs is None or umount is None:
        raise RuntimeError("there is no bindfs: install the package of that name to compare with")
    point = folder.with_name(f"{folder.name}.bindfs")
    point.mkdir()
    subprocess.run([bindfs, folder, point], check=True)
    try:
        yield point
    finally:
        subprocess.run([umount, point], check=True)
        point.rmdir()


def _drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")


def _wait_for_mount(root: Path, *, there: bool) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while os.path.ismount(root) is not there:
        if time.monotonic() > give_up:
            raise RuntimeError(f"{root} is {'not ' if there else 'still '}mounted")
        time.sleep(POLL_S)
