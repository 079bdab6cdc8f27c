"""What a copy of a tree did, and what it had to leave out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import grpc
import grpc.aio

from afs.errors import AfsCode
from afsctl.failure import abort_code, explain
from afsctl.local_tree import shown

T = TypeVar("T")

# Entries of a tree copied at a time. Enough to keep group commit busy; each holds one piece of data
# at most.
IN_FLIGHT: Final = 64

# Failures of one entry after which every further one would fail alike.
_FATAL_CODES: Final = frozenset(
    {
        AfsCode.VDISKFULL,
        AfsCode.VOVERQUOTA,
        AfsCode.EROFS,
        AfsCode.VNOVOL,
        AfsCode.VSALVAGE,
        AfsCode.VMOVED,
        AfsCode.RXKADNOAUTH,
    }
)


@dataclass(slots=True)
class CopyReport:
    """Counts of what was copied; `skipped` has one line for each entry that was not.

    `mount_points` are other volumes' and were left out.
    """

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    size_bytes: int = 0
    mount_points: int = 0
    skipped: list[str] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """Files and symbolic links, copied, and mount points, left out."""
        return self.files + self.symlinks + self.mount_points


@asynccontextmanager
async def skipping(report: CopyReport, path: Path) -> AsyncIterator[None]:
    """Turns the failure of one entry into a line of the report; raises one that concerns all."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE or abort_code(error) in _FATAL_CODES:
            raise
        report.skipped.append(f"{shown(path)}: {_reason(error, path)}")
    except (OSError, ValueError, EOFError) as error:
        report.skipped.append(f"{shown(path)}: {_reason(error, path)}")


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Does the work for each item, IN_FLIGHT at a time; raises a failure and cancels the rest."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(IN_FLIGHT)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reason(error: BaseException, path: Path) -> str:
    """Why an entry failed; without its path, where the system's error repeats that."""
    return explain(error).removeprefix(f"{path}: ")
