"""Reads on in a thread while what was read before is being sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import Final, TypeVar

from volserverd.disk import Disk

T = TypeVar("T")

_END: Final = object()


async def read_ahead(disk: Disk, items: Iterator[T]) -> AsyncGenerator[T, None]:
    """The items of an iterator that blocks, one of them always on its way.

    To be closed (`contextlib.aclosing`) if it is not read to its end; that closes the iterator.
    """
    following = asyncio.ensure_future(disk.run(next, items, _END))
    try:
        while (item := await following) is not _END:
            following = asyncio.ensure_future(disk.run(next, items, _END))
            yield item
    finally:
        # A generator that is running cannot be closed.
        with suppress(Exception):
            await following
        await disk.run(_close, items)


def _close(items: Iterator[T]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()
