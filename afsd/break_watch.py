"""Watches who has not been told yet that the promises on a volume ended (FSSync.WatchBreaks)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from afs.errors import AfsCode, AfsError
from afs.limits import WATCH_BREAKS_PAUSE_S
from afsd.callbacks import CallBacks
from afsd.core.not_told import HostNotTold


async def watch_not_told(
    callbacks: CallBacks, volume: int
) -> AsyncGenerator[list[HostNotTold], None]:
    """Yields who is not told, at once and whenever that changes; the empty list is the last one.

    Only breaks up to the first step of the iteration count.

    Args:
        callbacks: whose hosts.
        volume: its number.

    Raises:
        AfsError: VRESTARTING when the fileserver stops meanwhile: its next life can be asked.
    """
    before = callbacks.machine.sequence
    seen: list[str] | None = None
    while True:
        callbacks.stepped.clear()
        hosts = callbacks.hosts_not_told(volume, before)
        names = [host.uuid for host in hosts]
        if names != seen:
            seen = names
            yield hosts
        if not hosts:
            return
        if callbacks.stopping:
            raise AfsError(AfsCode.VRESTARTING, "the fileserver stops: ask again when it is back")
        first_end_s = min(host.lease_end for host in hosts) - callbacks.now()
        with suppress(TimeoutError):
            async with asyncio.timeout(first_end_s):
                await callbacks.stepped.wait()
        # Acks come in their hundreds: one look for many of them.
        await asyncio.sleep(WATCH_BREAKS_PAUSE_S)
