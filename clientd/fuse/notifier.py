"""Notifications that may block, written in threads.

Theory of operation: what may block, and why that must not happen in the loop
    INVAL_INODE with data waits for each page that is being read or written: for the answer to a
    READ or WRITE, which is ours to give. INVAL_ENTRY waits for the lock of the directory, which a
    program holds while its LOOKUP, CREATE or the like is with us. In the loop either would wait for
    itself for ever. INVAL_INODE of any kind waits for an inode that the kernel is doing away with,
    which in its turn waits for pages that are being read: only of files whose handles we have been
    told to release there are none. INVAL_INODE for attributes only of such a file, or of a
    directory, and INC_EPOCH, wait for nothing that waits for us.

    In a thread they can still be part of a circle: the answer to that CREATE may be held back by
    the fileserver until we have acknowledged a break, and the acknowledgement waits for the
    notification. So patience is bounded. A batch that takes longer goes on in its thread, and ends
    when what it waits for is answered; `kernel_caches` says what is done instead.

    THREADS of them may be stuck so; when all are, batches queue, and each waiter's patience runs
    out. Nothing waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from clientd.fuse import session

# How long anybody waits for a batch: far below the fileserver's break deadline, as a batch that is
# stuck costs the writer that much; and for each notification in it, which takes some 3 µs.
PATIENCE_S: Final = 0.05
PATIENCE_PER_MESSAGE_S: Final = 20e-6
THREADS: Final = 8


class Notifier:
    """Writes batches of notifications to a mount's descriptor.

    Args:
        descriptor: of /dev/fuse.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fuse-notify")
        self._closed = False

    def begin(self, messages: Sequence[bytes]) -> asyncio.Future[None]:
        """Begins to write; done when the kernel has taken them all in."""
        if self._closed:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return asyncio.get_running_loop().run_in_executor(self._threads, self._write, messages)

    async def done_soon(self, writing: asyncio.Future[None], messages: int) -> bool:
        """Waits for a batch; False if it takes longer than so many notifications may."""
        patience_s = PATIENCE_S + PATIENCE_PER_MESSAGE_S * messages
        done, _ = await asyncio.wait([writing], timeout=patience_s)
        return bool(done)

    async def close(self) -> None:
        """Ends, once the mount was cut off: then nothing blocks any more."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)

    def _write(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            if self._closed:
                return
            session.tell(self._descriptor, message)
