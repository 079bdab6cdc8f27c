"""A channel whose certificate may be renewed while it is open.

gRPC takes a channel's certificate when it is made. So calls go to a channel that was made with what
the files hold now, and one that was made with an older certificate is closed when its last call has
ended: a stream that lasts is not cut off for a renewal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from afs.limits import CERTIFICATE_LIFETIME_S, CERTIFICATE_POLL_S
from afs.runtime.tls import Certificates, certificates, renew_certificates


class RenewingChannel(grpc.aio.Channel):
    """Stands for the channel of the moment.

    Args:
        make: makes a channel with such credentials.
        poll_s: how often it is looked whether the certificate was renewed.
    """

    def __init__(
        self,
        make: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
        poll_s: float = CERTIFICATE_POLL_S,
    ) -> None:
        self._make = make
        self._poll_s = poll_s
        self._certificates = certificates()
        self.current = make(self._certificates.as_client)
        self._closing: set[asyncio.Task[None]] = set()
        self._follower = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            self._renew(await asyncio.to_thread(renew_certificates))

    def _renew(self, renewed: Certificates) -> None:
        if renewed is self._certificates:
            return
        old, self._certificates = self.current, renewed
        self.current = self._make(renewed.as_client)
        closing = asyncio.ensure_future(old.close(CERTIFICATE_LIFETIME_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel, and those that it was before."""
        for task in (self._follower, *self._closing):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.current.close(grace)

    async def __aenter__(self) -> RenewingChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current.channel_ready()

    def unary_unary(self, *method: Any, **how: Any) -> Any:
        return _Method(self, "unary_unary", method, how)

    def unary_stream(self, *method: Any, **how: Any) -> Any:
        return _Method(self, "unary_stream", method, how)

    def stream_unary(self, *method: Any, **how: Any) -> Any:
        return _Method(self, "stream_unary", method, how)

    def stream_stream(self, *method: Any, **how: Any) -> Any:
        return _Method(self, "stream_stream", method, how)


class _Method:
    """One method of a stub, called on the channel of the moment."""

    def __init__(self, channel: RenewingChannel, kind: str, method: Any, how: Any) -> None:
        self._channel = channel
        self._kind = kind
        self._method = method
        self._how = how
        self._made_by: grpc.aio.Channel | None = None
        self._made: Any = None

    def __call__(self, *arguments: Any, **further: Any) -> Any:
        current = self._channel.current
        if self._made_by is not current:
            self._made = getattr(current, self._kind)(*self._method, **self._how)
            self._made_by = current
        return self._made(*arguments, **further)
