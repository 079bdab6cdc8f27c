"""The conversation with the kernel on /dev/fuse.

Theory of operation
    The kernel queues requests; each `read` takes one, each `write` answers one, and answers may
    come in any order. The loop watches the descriptor. When it becomes readable some requests are
    taken, at most REQUESTS_PER_TURN, so that the callback channel and everybody else gets a turn;
    what is left makes it readable again at once.

    A handler answers at once (bytes or an errno), or returns a coroutine, which becomes a task. The
    first is the warm path and costs no task. A handler must not keep the request's body beyond its
    return: the buffer is used for the next request.

    FUSE_INTERRUPT: the program got a signal. Most requests are answered within milliseconds, and
    programs do not expect EINTR from mkdir(2); so the task is cancelled, and the answer EINTR, only
    if it takes longer than INTERRUPT_GRACE_S. Who waits for something that may never come (a lock)
    says so by `INTERRUPT_AT_ONCE`. The kernel waits for an answer in any case.

    There are never more than MAX_TASKS tasks: with so many, nothing more is read until one is done.
    The kernel's own queue then holds the programs that ask.

    Notifications are writes to the same descriptor, and may block; `notifier` deals with that.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from afs.errors import AfsError
from clientd.fuse import abi
from clientd.fuse.abi import InitFlag, Opcode
from clientd.fuse.errnos import errno_of

# Requests taken before the loop gets its turn: about a millisecond of warm work.
REQUESTS_PER_TURN: Final = 32
# Requests being worked on. Each stands for a program's thread or a read-ahead of the kernel.
MAX_TASKS: Final = 1024
# A request whose program got a signal is answered normally if it is done within so many seconds.
INTERRUPT_GRACE_S: Final = 1.0
# Requests that wait for others, and end with the signal at once.
INTERRUPT_AT_ONCE: Final = frozenset({Opcode.SETLKW})
# Bytes of one WRITE, and pages of one READ or WRITE.
MAX_WRITE_BYTES: Final = 1024 * 1024
PAGE_BYTES: Final = 4096
# Reads ahead, and the like, that the kernel has under way at a time.
MAX_BACKGROUND: Final = 64
# Answers up to this size are copied together: two parts cost more than that.
COPIED_BYTES: Final = 4096
# Source: linux/fuse.h: the header of a WRITE in front of its data, with room for extensions.
_BUFFER_BYTES: Final = MAX_WRITE_BYTES + 4096

WANTED: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.POSIX_LOCKS
    | InitFlag.FLOCK_LOCKS
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
)

_log = structlog.get_logger(__name__)


class Request:
    """One request. `body` is the part after the header, good until the handler returns."""

    __slots__ = ("body", "gid", "node_id", "opcode", "pid", "uid", "unique")

    def __init__(
        self, opcode: int, unique: int, node_id: int, uid: int, gid: int, pid: int, body: memoryview
    ) -> None:
        self.opcode = opcode
        self.unique = unique
        self.node_id = node_id
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.body = body


class Granted(NamedTuple):
    """A payload that gives the kernel something; `take_back` is called if nobody takes it."""

    payload: bytes
    take_back: Callable[[], None]


# What a request is answered with: a payload, or an errno. None: the kernel expects no answer.
Answer: TypeAlias = bytes | int | Granted | None
Handler: TypeAlias = Callable[[Request], Answer | Coroutine[Any, Any, Answer]]


class Session:
    """One mount's conversation; begins with `start`, ends when the kernel or `close` ends it.

    Args:
        descriptor: of /dev/fuse, non-blocking; closed with the session.
        on_end: called once, when the mount is gone.
        wanted: what to agree upon, as far as the kernel can.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        on_end: Callable[[], None],
        wanted: InitFlag = WANTED,
    ) -> None:
        self.descriptor = descriptor
        self.minor = abi.LEAST_MINOR
        self.flags = 0
        self._handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: self._destroy,
        }
        self._on_end = on_end
        self._wanted = wanted
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._tasks: dict[int, asyncio.Task[Answer]] = {}
        self._opcodes: dict[int, int] = {}
        self._reading = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.initialized = asyncio.Event()

    def start(self, handlers: Mapping[int, Handler]) -> None:
        """Begins to answer.

        Args:
            handlers: what answers each opcode; others are answered with ENOSYS.
        """
        self._handlers.update(handlers)
        self._read_on()

    async def close(self) -> None:
        """Ends: what is under way is cancelled, the kernel's side is cut off."""
        self._end()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._closed:
            self._closed = True
            os.close(self.descriptor)

    def tell(self, message: bytes) -> bool:
        """Writes a notification; False if the kernel does not know what it is about.

        Must be one that cannot block, if called in the loop.
        """
        if self._closed:
            return False
        return tell(self.descriptor, message)

    # --- reading ---

    def _read_on(self) -> None:
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self.descriptor, self._on_readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.descriptor)

    def _end(self) -> None:
        """The mount is gone, or to be left."""
        self._pause()
        on_end, self._on_end = self._on_end, _nothing
        on_end()

    def _on_readable(self) -> None:
        for _ in range(REQUESTS_PER_TURN):
            try:
                length = os.readv(self.descriptor, (self._buffer,))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    # A request that was given up before it was read.
                    continue
                if error.errno != errno.ENODEV:
                    _log.warning("fuse.read_failed", error=str(error))
                self._end()
                return
            self._take(length)
            if not self._reading:
                return

    def _take(self, length: int) -> None:
        """Answers one request, or begins to."""
        _, opcode, unique, node_id, uid, gid, pid, _, _ = abi.IN_HEADER.unpack_from(self._buffer)
        body = self._view[abi.IN_HEADER.size : length]
        handler = self._handlers.get(opcode)
        if handler is None:
            self.answer(unique, errno.ENOSYS)
            return
        try:
            answer = handler(Request(opcode, unique, node_id, uid, gid, pid, body))
        except Exception as error:
            answer = _errno_for(error, opcode)
        if answer is None or isinstance(answer, (bytes, int, Granted)):
            self.answer(unique, answer)
            return
        task = self._loop.create_task(answer)
        self._tasks[unique] = task
        self._opcodes[unique] = opcode
        task.add_done_callback(lambda done: self._done(unique, done))
        if len(self._tasks) >= MAX_TASKS:
            self._pause()

    def _done(self, unique: int, task: asyncio.Task[Answer]) -> None:
        del self._tasks[unique]
        opcode = self._opcodes.pop(unique)
        if task.cancelled():
            answer: Answer = errno.EINTR
        elif (error := task.exception()) is not None:
            answer = _errno_for(error, opcode)
        else:
            answer = task.result()
        self.answer(unique, answer)
        if len(self._tasks) < MAX_TASKS and self._on_end is not _nothing:
            self._read_on()

    def answer(self, unique: int, answer: Answer) -> None:
        """Writes an answer."""
        if isinstance(answer, Granted):
            if not self._write(unique, 0, answer.payload):
                answer.take_back()
        elif isinstance(answer, bytes):
            self._write(unique, 0, answer)
        elif answer is not None:
            self._write(unique, -answer, b"")

    def _write(self, unique: int, error: int, payload: bytes) -> bool:
        """False if nobody waits for the answer any more."""
        if self._closed:
            return False
        head = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(payload), error, unique)
        try:
            if len(payload) > COPIED_BYTES:
                os.writev(self.descriptor, (head, payload))
            else:
                os.write(self.descriptor, head + payload)
        except OSError as problem:
            # ENOENT: the request was given up meanwhile. ENODEV: the mount is gone.
            if problem.errno not in (errno.ENOENT, errno.ENODEV, errno.EINTR):
                _log.exception("fuse.answer_refused", size=len(payload))
            return False
        return True

    # --- what concerns the conversation itself ---

    def _init(self, request: Request) -> Answer:
        offered = abi.decode_init(request.body)
        if offered.major > abi.MAJOR:
            # A newer kernel is told what we speak, and begins again.
            return abi.INIT_OUT.pack(abi.MAJOR, abi.NEWEST_MINOR, *[0] * 9)
        if (offered.major, offered.minor) < (abi.MAJOR, abi.LEAST_MINOR):
            _log.warning("fuse.kernel_too_old", major=offered.major, minor=offered.minor)
            return errno.EPROTO
        self.minor = min(offered.minor, abi.NEWEST_MINOR)
        self.flags = offered.flags & self._wanted
        self.initialized.set()
        _log.info("fuse.agreed", minor=self.minor, flags=InitFlag(self.flags).name)
        return abi.INIT_OUT.pack(
            abi.MAJOR,
            self.minor,
            # The kernel takes the least of this and what the mount is set to.
            MAX_WRITE_BYTES,
            self.flags & 0xFFFFFFFF,
            MAX_BACKGROUND,
            MAX_BACKGROUND * 3 // 4,
            MAX_WRITE_BYTES,
            1,
            MAX_WRITE_BYTES // PAGE_BYTES,
            0,
            self.flags >> 32,
        )

    def _interrupt(self, request: Request) -> Answer:
        (unique,) = abi.INTERRUPT_IN.unpack_from(request.body)
        task = self._tasks.get(unique)
        if task is not None:
            at_once = self._opcodes[unique] in INTERRUPT_AT_ONCE
            self._loop.call_later(0 if at_once else INTERRUPT_GRACE_S, task.cancel)
        return None

    def _destroy(self, request: Request) -> Answer:
        self.answer(request.unique, b"")
        self._end()
        return None


def tell(descriptor: int, message: bytes) -> bool:
    """Writes a notification to a mount's descriptor; may be called in any thread."""
    try:
        os.write(descriptor, message)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.ENOTDIR):
            _log.warning("fuse.notification_refused", error=str(error))
        return False
    return True


def _nothing() -> None:
    pass


def _errno_for(error: BaseException, opcode: int) -> int:
    """The errno for what a handler raised; anything but an AfsError or OSError is a bug of ours."""
    if isinstance(error, AfsError):
        _log.debug("fuse.request_failed", opcode=opcode, error=str(error))
        return errno_of(error.code)
    if isinstance(error, OSError) and error.errno:
        return error.errno
    _log.error("fuse.handler_failed", opcode=opcode, exc_info=error)
    return errno.EIO
