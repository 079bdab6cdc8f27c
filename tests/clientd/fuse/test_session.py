"""The conversation with the kernel, which here is the other end of a socket that keeps messages."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from afs.errors import AfsCode, AfsError
from clientd.fuse import abi, session
from clientd.fuse.abi import InitFlag, Opcode
from clientd.fuse.session import Answer, Granted, Handler, Request, Session

PATIENCE_S = 10.0


class Kernel:
    """Sends requests and reads answers.

    Attributes:
        session: the conversation.
    """

    def __init__(self) -> None:
        self.socket, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        ours.setblocking(False)
        self.ended = asyncio.Event()
        self.session = Session(ours.detach(), on_end=self.ended.set)

    def ask(self, opcode: int, unique: int, body: bytes = b"") -> None:
        """Sends a request about node 1 by user 1000."""
        size = abi.IN_HEADER.size + len(body)
        head = abi.IN_HEADER.pack(size, opcode, unique, 1, 1000, 1000, 1, 0, 0)
        self.socket.send(head + body)

    async def answer(self) -> tuple[int, int, bytes]:
        """The next answer: number, error, payload."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            message = await loop.sock_recv(self.socket, 2 * session.MAX_WRITE_BYTES)
        length, error, unique = abi.OUT_HEADER.unpack_from(message)
        assert length == len(message)
        return unique, error, message[abi.OUT_HEADER.size :]


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    """A kernel's end."""
    running = Kernel()
    yield running
    await running.session.close()
    running.socket.close()


def echo(request: Request) -> Answer:
    """Answers with what was sent."""
    return bytes(request.body)


async def test_init_agrees_on_what_both_can(kernel: Kernel) -> None:
    """Never more than the kernel offers."""
    kernel.session.start({})
    offered = InitFlag.ASYNC_READ | InitFlag.MAX_PAGES | InitFlag(1 << 16)
    kernel.ask(Opcode.INIT, 1, abi.INIT_IN.pack(7, 33, 65536, offered))
    unique, error, payload = await kernel.answer()
    major, minor, readahead, flags, *_ = abi.INIT_OUT.unpack(payload)
    assert (unique, error, major, minor, readahead) == (1, 0, 7, 33, session.MAX_WRITE_BYTES)
    assert flags == InitFlag.ASYNC_READ | InitFlag.MAX_PAGES
    assert kernel.session.initialized.is_set()
    assert kernel.session.minor == 33


@pytest.mark.parametrize(("major", "answered"), [(8, (0, 7)), (6, (-errno.EPROTO, None))])
async def test_init_of_another_major_version(
    kernel: Kernel, major: int, answered: tuple[int, int | None]
) -> None:
    """A newer kernel is told what we speak; one that is too old is refused."""
    kernel.session.start({})
    kernel.ask(Opcode.INIT, 1, abi.INIT_IN.pack(major, 1, 65536, 0))
    _, error, payload = await kernel.answer()
    told = abi.INIT_OUT.unpack(payload)[0] if payload else None
    assert (error, told) == answered
    assert not kernel.session.initialized.is_set()


async def test_handler_answers_at_once_or_later(kernel: Kernel) -> None:
    """In whatever order they are done."""
    go_on = asyncio.Event()

    async def later(body: bytes) -> Answer:
        await go_on.wait()
        return body

    kernel.session.start(
        {Opcode.LOOKUP: echo, Opcode.READ: lambda request: later(bytes(request.body))}
    )
    kernel.ask(Opcode.READ, 1, b"slow")
    kernel.ask(Opcode.LOOKUP, 2, b"quick")
    assert await kernel.answer() == (2, 0, b"quick")
    go_on.set()
    assert await kernel.answer() == (1, 0, b"slow")


def raises(error: Exception) -> Handler:
    """A handler that raises."""

    def handle(_: Request) -> Answer:
        raise error

    return handle


def fails(error: Exception) -> Handler:
    """A handler whose task raises."""

    async def later() -> Answer:
        raise error

    return lambda _: later()


@pytest.mark.parametrize("failing", [raises, fails])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (AfsError(AfsCode.VOVERQUOTA, "the volume is full"), errno.EDQUOT),
        (AfsError(AfsCode.ENOTEMPTY, "it is not empty"), errno.ENOTEMPTY),
        (OSError(errno.EXDEV, "elsewhere"), errno.EXDEV),
    ],
)
async def test_errors_become_errno(
    kernel: Kernel, failing: Callable[[Exception], Handler], error: Exception, number: int
) -> None:
    """AFS codes by the one table."""
    kernel.session.start({Opcode.MKDIR: failing(error)})
    kernel.ask(Opcode.MKDIR, 1)
    assert await kernel.answer() == (1, -number, b"")


@pytest.mark.expects_error_event
@pytest.mark.parametrize("failing", [raises, fails])
async def test_bug_of_ours_is_eio(kernel: Kernel, failing: Callable[[Exception], Handler]) -> None:
    """The program gets an answer, the log the rest."""
    kernel.session.start({Opcode.MKDIR: failing(ValueError("a bug"))})
    kernel.ask(Opcode.MKDIR, 1)
    assert await kernel.answer() == (1, -errno.EIO, b"")


async def test_unknown_request_is_not_implemented(kernel: Kernel) -> None:
    """So the kernel does not ask again."""
    kernel.session.start({})
    kernel.ask(4000, 1)
    assert await kernel.answer() == (1, -errno.ENOSYS, b"")


def hanging(cancelled: list[str]) -> Mapping[int, Handler]:
    """Handlers that wait for ever."""

    async def hang(name: str) -> Answer:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(name)
            raise
        return None

    return {Opcode.SETLKW: lambda _: hang("lock"), Opcode.MKDIR: lambda _: hang("mkdir")}


async def test_signal_ends_a_wait_for_a_lock_at_once(kernel: Kernel) -> None:
    """FUSE_INTERRUPT cancels the task of that request; the program gets EINTR."""
    cancelled: list[str] = []
    kernel.session.start(hanging(cancelled))
    kernel.ask(Opcode.SETLKW, 8)
    kernel.ask(Opcode.INTERRUPT, 9, abi.INTERRUPT_IN.pack(8))
    assert await kernel.answer() == (8, -errno.EINTR, b"")
    assert cancelled == ["lock"]


async def test_signal_ends_what_takes_long(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its grace; until then the request may be answered normally."""
    monkeypatch.setattr(session, "INTERRUPT_GRACE_S", 0.01)
    cancelled: list[str] = []
    kernel.session.start(hanging(cancelled))
    kernel.ask(Opcode.MKDIR, 8)
    kernel.ask(Opcode.INTERRUPT, 9, abi.INTERRUPT_IN.pack(8))
    assert await kernel.answer() == (8, -errno.EINTR, b"")


async def test_signal_during_a_short_request_is_nothing(kernel: Kernel) -> None:
    """Programs do not expect EINTR from mkdir(2)."""
    go_on = asyncio.Event()

    async def soon() -> Answer:
        await go_on.wait()
        return b"done"

    kernel.session.start({Opcode.MKDIR: lambda _: soon(), Opcode.LOOKUP: echo})
    kernel.ask(Opcode.MKDIR, 8)
    kernel.ask(Opcode.INTERRUPT, 9, abi.INTERRUPT_IN.pack(8))
    # An unknown one is no matter.
    kernel.ask(Opcode.INTERRUPT, 11, abi.INTERRUPT_IN.pack(77))
    kernel.ask(Opcode.LOOKUP, 12)
    assert await kernel.answer() == (12, 0, b"")
    go_on.set()
    assert await kernel.answer() == (8, 0, b"done")


async def test_tasks_are_bounded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many under way nothing is read; when one is done, the rest comes."""
    monkeypatch.setattr(session, "MAX_TASKS", 2)
    go_on = asyncio.Semaphore(0)
    begun: list[int] = []

    async def wait(unique: int) -> Answer:
        begun.append(unique)
        await go_on.acquire()
        return b""

    kernel.session.start({Opcode.READ: lambda request: wait(request.unique)})
    for unique in range(1, 6):
        kernel.ask(Opcode.READ, unique)
    async with asyncio.timeout(PATIENCE_S):
        while len(begun) < 2:
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert begun == [1, 2]
    answered = []
    for _ in range(5):
        go_on.release()
        answered.append((await kernel.answer())[0])
    assert sorted(answered) == [1, 2, 3, 4, 5]


async def test_what_nobody_waits_for_any_more_is_taken_back(kernel: Kernel) -> None:
    """An open file whose opener was killed is closed."""
    taken_back: list[bool] = []
    kernel.session.start({Opcode.OPEN: lambda _: Granted(b"x", lambda: taken_back.append(True))})
    kernel.ask(Opcode.OPEN, 1)
    assert await kernel.answer() == (1, 0, b"x")
    assert not taken_back
    await kernel.session.close()
    kernel.session.answer(2, Granted(b"x", lambda: taken_back.append(True)))
    assert taken_back == [True]


async def test_large_answer_arrives_whole(kernel: Kernel) -> None:
    """Header and data are one message, also where they are not copied together."""
    data = bytes(range(256)) * 400
    kernel.session.start({Opcode.READ: lambda _: data})
    kernel.ask(Opcode.READ, 1)
    assert await kernel.answer() == (1, 0, data)


async def test_destroy_ends_the_conversation(kernel: Kernel) -> None:
    """The mount is gone."""
    kernel.session.start({})
    kernel.ask(Opcode.DESTROY, 1)
    assert await kernel.answer() == (1, 0, b"")
    assert kernel.ended.is_set()


async def test_close_cancels_what_is_under_way(kernel: Kernel) -> None:
    """Nothing of it is left."""
    cancelled: list[str] = []
    kernel.session.start({**hanging(cancelled), Opcode.LOOKUP: echo})
    kernel.ask(Opcode.MKDIR, 1)
    kernel.ask(Opcode.LOOKUP, 2)
    await kernel.answer()
    await asyncio.sleep(0)
    await kernel.session.close()
    assert cancelled == ["mkdir"]
    assert kernel.ended.is_set()
