"""CallBackChannel: the stream that a client opens so that it can be called back."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import HELLO_DEADLINE_S, MAX_CLIENT_NAME_CHARS
from afs.runtime.interceptors import Context
from afs.v1 import callback_channel_pb2_grpc
from afs.v1.callback_channel_pb2 import AttachRequest, Hello
from afsd.call_preamble import HOST_UUID_METADATA, host_of
from afsd.callbacks import CallBacks
from afsd.core.hosts import SessionName
from afsd.outbox import Outbox

_log = structlog.get_logger(__name__)


class CallBackChannelServicer(callback_channel_pb2_grpc.CallBackChannelServicer):
    """Serves Attach; the messages are explained in `callback_channel.proto`."""

    def __init__(self, callbacks: CallBacks) -> None:
        self._callbacks = callbacks

    async def Attach(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]  # noqa: ARG002
        """One channel, from hello to its end.

        Raises:
            AfsError: EINVAL without a host UUID or a hello; VLIMIT for too many hosts; EAGAIN when
                the host has attached anew.
        """
        host = host_of(context)
        if host is None:
            raise AfsError(
                AfsCode.EINVAL, f"Attach needs the metadata {HOST_UUID_METADATA}: a UUID"
            )
        hello = await self._hello(context)
        client = hello.client[:MAX_CLIENT_NAME_CHARS]
        channel, outbox = await self._callbacks.attach(
            host, context.peer(), client, _resumes(hello)
        )
        _log.info("host.attached", host=host, address=context.peer(), client=client)
        tasks = [
            asyncio.create_task(self._read(host, channel, context)),
            asyncio.create_task(self._write(outbox, context)),
            asyncio.create_task(outbox.replaced.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            self._callbacks.channel_closed(host, channel)
            await asyncio.gather(*tasks, return_exceptions=True)
            _log.info("host.detached", host=host)
        if outbox.replaced.is_set():
            raise AfsError(AfsCode.EAGAIN, f"host {host} has attached anew: this channel ends")

    async def _hello(self, context: Context) -> Hello:
        try:
            async with asyncio.timeout(HELLO_DEADLINE_S):
                message = await context.read()
        except TimeoutError:
            message = grpc.aio.EOF
        if not isinstance(message, AttachRequest) or message.WhichOneof("message") != "hello":
            raise AfsError(
                AfsCode.EINVAL, f"Attach begins with hello, within {HELLO_DEADLINE_S:g} s: got none"
            )
        return message.hello

    async def _read(self, host: str, channel: int, context: Context) -> None:
        """Takes in acks and renewals until the client closes its side."""
        while isinstance(message := await context.read(), AttachRequest):
            match message.WhichOneof("message"):
                case "ack":
                    self._callbacks.acked(host, channel, message.ack.sequence)
                case "renew_lease":
                    self._callbacks.lease_renewed(host, channel, message.renew_lease.number)
                case other:
                    raise AfsError(
                        AfsCode.EINVAL,
                        f"message {other or 'without content'}: expected ack or renew_lease",
                    )

    async def _write(self, outbox: Outbox, context: Context) -> None:
        """Sends what there is to send; a client that does not read stops only this."""
        while True:
            await context.write(await outbox.next())


def _resumes(hello: Hello) -> SessionName | None:
    """The session whose promises the client says it holds."""
    if not hello.HasField("resumes"):
        return None
    return SessionName(hello.resumes.epoch, hello.resumes.sequence)
