"""The bounded queue between an operation and its client's call."""

from __future__ import annotations

import asyncio

import pytest

from afs.errors import AfsCode, AfsError
from tests.volserverd.running import refused
from volserverd.piece_queue import PieceQueue


async def test_pieces_arrive_in_order_and_end() -> None:
    """What was put is got, then None, again and again."""
    queue = PieceQueue(2)
    await queue.put(b"one")
    await queue.put(b"two")
    await queue.end()
    assert [await queue.get() for _ in range(4)] == [b"one", b"two", None, None]


async def test_the_faster_side_waits() -> None:
    """A full queue holds the putter until there is room; an empty one holds the getter."""
    queue = PieceQueue(1)
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not getting.done()
    await queue.put(b"one")
    assert await getting == b"one"
    await queue.put(b"two")
    putting = asyncio.create_task(queue.put(b"three"))
    await asyncio.sleep(0)
    assert not putting.done()
    assert await queue.get() == b"two"
    await putting
    assert await queue.get() == b"three"


@pytest.mark.parametrize("side", ["put", "get"])
async def test_an_abort_reaches_who_waits_and_who_comes_later(side: str) -> None:
    """Both sides get the first error, whatever was still in the queue."""
    queue = PieceQueue(1)
    if side == "put":
        await queue.put(b"full")
        waiting: asyncio.Task[object] = asyncio.create_task(queue.put(b"more"))
    else:
        waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.abort(AfsError(AfsCode.EAGAIN, "enough"))
    queue.abort(AfsError(AfsCode.EIO, "too late"))
    with refused(AfsCode.EAGAIN, "enough"):
        await waiting
    with refused(AfsCode.EAGAIN, "enough"):
        await queue.get()
    with refused(AfsCode.EAGAIN, "enough"):
        await queue.put(b"x")
