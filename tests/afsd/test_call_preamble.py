"""CallPreamble looks again after it has waited: what a host is owed since then counts too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from afs.types import BreakReason, Fid
from afsd.call_preamble import CallPreamble
from tests.afsd.gated import VOLUME, Host, Rig, rig

HOST = "00000000-0000-0000-0000-000000000001"
TURNS = 50


class Details(NamedTuple):
    """What an interceptor is told of a call."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...] = ()


class Context:
    """The context of a call of the host."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Names the host."""
        return (("afs-host-uuid", HOST),)


class Methods:
    """Two methods; the host comes to be owed a break while they run."""

    def __init__(self, at: Rig) -> None:
        self._at = at
        self.began = False

    async def unary(self, _request: Any, _context: Any) -> str:
        """Answers once."""
        self.began = True
        owe(self._at)
        return "answer"

    async def stream(self, _request: Any, _context: Any) -> AsyncIterator[str]:
        """Answers twice."""
        self.began = True
        yield "first"
        owe(self._at)
        yield "second"


def owe(at: Rig) -> None:
    """The host is promised something, and the volume is given back."""
    assert at.callbacks.promise(Fid(VOLUME, 2, 2), HOST) is not None
    _, instructions = at.callbacks.machine.break_volume_callbacks_later(
        VOLUME, BreakReason.VOLUME_GIVEN_BACK
    )
    at.callbacks._step(instructions)


async def behind(at: Rig, handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
    """The handler with the preamble before it and the check behind it."""

    async def continuation(_details: Any) -> Any:
        return handler

    preamble = CallPreamble(at.callbacks, "s")
    details: Any = Details("/s/method")
    return await preamble.intercept_service(continuation, details)


async def settle() -> None:
    """Lets everything happen that waits for nobody."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def acknowledged_and_owed_again(at: Rig, host: Host, waiting: asyncio.Task[Any]) -> None:
    """The host acknowledges, and is owed another break before who waited for that has a turn."""
    await settle()
    assert not waiting.done(), "an answer before the break"
    told = await host.next_break()
    host.ack(told)
    assert at.callbacks.may_answer(HOST)
    # A host that has acknowledged may be promised something at once, by another call of its.
    owe(at)
    await settle()
    assert not waiting.done(), "an answer between two breaks"
    host.ack(await host.next_break())


async def test_an_answer_waits_for_what_came_while_it_waited(tmp_path: Path) -> None:
    """I3: one look after the method is not enough."""
    async with rig(tmp_path) as at:
        host = await at.host(HOST)
        handler = await behind(at, grpc.unary_unary_rpc_method_handler(Methods(at).unary))
        answer = asyncio.create_task(handler.unary_unary(None, Context()))
        await acknowledged_and_owed_again(at, host, answer)
        assert await answer == "answer"


async def test_each_message_of_a_stream_waits_so(tmp_path: Path) -> None:
    """I3: what the stream has sent before is out; its next message waits."""
    async with rig(tmp_path) as at:
        host = await at.host(HOST)
        handler = await behind(at, grpc.unary_stream_rpc_method_handler(Methods(at).stream))
        messages = handler.unary_stream(None, Context())
        assert await anext(messages) == "first"
        second = asyncio.create_task(anext(messages))
        await acknowledged_and_owed_again(at, host, second)
        assert await second == "second"
        assert [message async for message in messages] == []


async def test_a_call_begins_when_its_host_has_acknowledged(tmp_path: Path) -> None:
    """M7: not before; what comes while it runs is waited for behind it."""
    async with rig(tmp_path) as at:
        host, methods = await at.host(HOST), Methods(at)
        handler = await behind(at, grpc.unary_unary_rpc_method_handler(methods.unary))
        owe(at)
        answer = asyncio.create_task(handler.unary_unary(None, Context()))
        await settle()
        assert not methods.began
        host.ack(await host.next_break())
        await acknowledged_and_owed_again(at, host, answer)
        assert await answer == "answer"
