"""Watching events without holding up who publishes them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from afs.runtime.watch import Watched, WatchHub


async def _reader(hub: WatchHub[int]) -> list[Watched[int]]:
    return [watched async for watched in hub.subscribe()]


async def _until_watched(hub: WatchHub[int], watched: bool = True) -> None:
    async with asyncio.timeout(10):
        while hub.watched is not watched:
            await asyncio.sleep(0)


async def test_every_watcher_gets_every_event() -> None:
    """Two watchers each get all events in order, until the hub is closed."""
    hub = WatchHub[int]()
    hub.publish(0)
    readers = [asyncio.ensure_future(_reader(hub)) for _ in range(2)]
    await _until_watched(hub)
    await asyncio.sleep(0)
    hub.publish(1)
    hub.publish(2)
    await asyncio.sleep(0)
    hub.publish(3)
    hub.close()
    for reader in readers:
        assert await reader == [Watched(1, 0), Watched(2, 0), Watched(3, 0)]
    assert not hub.watched
    assert await _reader(hub) == []


async def test_lagging_watcher_loses_the_oldest_and_is_told() -> None:
    """A watcher that does not read loses the oldest events; it and the hub count how many."""
    hub = WatchHub[int](backlog_events=3)
    async with aclosing(hub.subscribe()) as events:
        first = asyncio.ensure_future(anext(events))
        await _until_watched(hub)
        for event in range(10):
            hub.publish(event)
        assert await first == Watched(7, 7)
        assert await anext(events) == Watched(8, 0)
        assert hub.dropped_events == 7
    assert not hub.watched


async def test_cancelled_watcher_is_forgotten() -> None:
    """A watcher that hangs up costs nothing any more."""
    hub = WatchHub[int]()
    reader = asyncio.ensure_future(_reader(hub))
    await _until_watched(hub)
    reader.cancel()
    await _until_watched(hub, watched=False)
