"""Has what could not be stored stored, when its fileserver is back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from afs.errors import AfsError
from afs.limits import UNSENT_RETRY_MAX_S, UNSENT_RETRY_S
from afs.runtime.clock import Clock
from clientd.open_files import OpenFiles
from clientd.unsent_records import UnsentRecord
from clientd.volumes import Volumes

# What is tried the first time waits for nothing.
_AT_ONCE: Final = float("-inf")


class Resending:
    """Tries again and again, each volume by itself. Made in the event loop.

    A record that is refused (no quota, say) is tried ever more rarely; one whose fileserver is away
    is not tried at all.

    Args:
        files: stores them.
        volumes: finds volumes.
        clock: steady time.
    """

    def __init__(self, files: OpenFiles, volumes: Volumes, clock: Clock) -> None:
        self._files = files
        self._volumes = volumes
        self._clock = clock
        self._poked = asyncio.Event()
        # When a record is tried next, and how long it waits after that.
        self._next: dict[int, tuple[float, float]] = {}
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._task = asyncio.create_task(self._run())

    def poke(self) -> None:
        """Something may have changed: everything is tried now."""
        self._next.clear()
        self._poked.set()

    async def stop(self) -> None:
        """Tries no more."""
        tasks = [self._task, *self._sending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._poked.clear()
            waiting: dict[int, list[UnsentRecord]] = {}
            for record in self._files.unsent.waiting():
                waiting.setdefault(record.fid.volume, []).append(record)
            for volume_id, records in waiting.items():
                if volume_id not in self._sending:
                    task = asyncio.create_task(self._send_all(volume_id, records))
                    self._sending[volume_id] = task
            with suppress(TimeoutError):
                async with asyncio.timeout(UNSENT_RETRY_S):
                    await self._poked.wait()

    async def _send_all(self, volume_id: int, records: list[UnsentRecord]) -> None:
        """Stores what waits of one volume, as long as there is a fileserver."""
        try:
            volume = self._volumes.known(volume_id) or await self._volumes.named(str(volume_id))
            for record in records:
                at, wait_s = self._next.get(record.number, (_AT_ONCE, UNSENT_RETRY_S))
                if volume.away_for_s or self._clock.now() < at:
                    continue
                self._next[record.number] = (
                    self._clock.now() + wait_s,
                    min(2 * wait_s, UNSENT_RETRY_MAX_S),
                )
                with suppress(AfsError):
                    await self._files.send(volume, record)
        except AfsError:
            # Nobody knows where the volume is, for now.
            pass
        finally:
            del self._sending[volume_id]
