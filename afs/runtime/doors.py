"""Who is calling: read from every call before its servicer sees it, and asked for what it needs.

The token is the metadata `authorization: Bearer TOKEN`. A call without one is from
system:anyuser; one with a token that is not valid is refused, never taken for nobody's. Whoever
calls through a unix socket is whom its mode lets in: the daemon's own user.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Protocol

import grpc
import grpc.aio

from afs.access.caller import Caller
from afs.access.requirements import REQUIREMENTS, Requirement
from afs.errors import AfsCode, AfsError
from afs.identity.callers import DAEMON, Callers
from afs.limits import CALLER_LIFETIME_S, VERIFIED_TOKENS_KEPT
from afs.runtime.audit import audited
from afs.runtime.current_caller import current_caller
from afs.runtime.interceptors import Context, Continuation, Handler, rebuilt
from afs.runtime.listening import UNIX_PREFIX
from afs.runtime.tls import uris_of, used_tls

AUTHORIZATION_METADATA: Final = "authorization"
_BEARER: Final = "bearer "


class Refusals(Protocol):
    """Hears of calls that were refused."""

    def __call__(self, method: str, peer: str, error: AfsError) -> None: ...


def token_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The token in a call's metadata; None if there is none.

    Raises:
        AfsError: RXKADBADTICKET for anything but one bearer token.
    """
    token: str | None = None
    for key, value in metadata or ():
        if key != AUTHORIZATION_METADATA:
            continue
        text = value if isinstance(value, str) else value.decode("ascii", "replace")
        if token is not None or not text[: len(_BEARER)].lower() == _BEARER:
            raise AfsError(
                AfsCode.RXKADBADTICKET,
                f"metadata {AUTHORIZATION_METADATA}: expected one `Bearer TOKEN`",
            )
        token = text[len(_BEARER) :].strip()
    return token


class _Recent(NamedTuple):
    """Whom what was shown stood for, until (steady seconds) it is looked at anew."""

    caller: Caller
    until: float


class CallerInterceptor(grpc.aio.ServerInterceptor):
    """Finds out who calls (`current_caller`), and refuses those for whom a method is not.

    Args:
        callers: tells who shows a token.
        refused: told of every refusal of ours.
        cell: whose daemons are known by their certificates.
    """

    def __init__(self, callers: Callers, refused: Refusals, cell: str = "") -> None:
        self._callers = callers
        self._daemons = f"afs://{cell}/daemon/"
        self._refused = refused
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        # By what was shown: looked at anew so often that nobody notices that it was not each time.
        self._recent: dict[str | bytes, _Recent] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, or one that refuses it.

        A call is one task from here to its servicer, so who calls is set here, for its token; only
        who shows none is looked at more closely, when the call's context is there.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        try:
            caller = await self._by_token(handler_call_details)
            if caller is None:
                return self._without_token(method, handler)
            requirement = self._let_in(method, caller)
        except AfsError as error:
            return prepared(handler, self._refusal(method, error))
        if requirement.changes and caller is not DAEMON:
            return audited(handler, method, caller)
        return handler

    async def _by_token(self, details: grpc.HandlerCallDetails) -> Caller | None:
        """Who shows the token of a call; None for a call without one."""
        metadata = details.invocation_metadata or ()
        shown = [value for key, value in metadata if key == AUTHORIZATION_METADATA]
        if not shown:
            return None
        now = time.monotonic()
        if len(shown) == 1:
            recent = self._recent.get(shown[0])
            if recent is not None and now < recent.until:
                return recent.caller
        token = token_of(metadata)
        caller = await self._callers.of(token)
        if len(self._recent) >= VERIFIED_TOKENS_KEPT:
            self._recent.clear()
        self._recent[shown[0]] = _Recent(caller, now + CALLER_LIFETIME_S)
        return caller

    def _without_token(self, method: str, handler: Handler) -> Handler:
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, prepared(handler, self._door(method))
        return known[1]

    def _door(self, method: str) -> Callable[[Context], Awaitable[None]]:
        """Lets in, or refuses, who shows no token."""

        async def door(context: Context) -> None:
            caller = DAEMON if self._is_daemon(context) else await self._callers.of(None)
            try:
                self._let_in(method, caller)
            except AfsError as error:
                await self._refusal(method, error)(context)

        return door

    def _refusal(self, method: str, error: AfsError) -> Callable[[Context], Awaitable[None]]:
        async def refuse(context: Context) -> None:
            self._refused(method, context.peer(), error)
            raise error

        return refuse

    @staticmethod
    def _let_in(method: str, caller: Caller) -> Requirement:
        requirement = REQUIREMENTS.get(method)
        if requirement is None:
            raise AfsError(AfsCode.EPERM, f"{method} is not in the table of rights")
        requirement.check(caller, method)
        current_caller.set(caller)
        return requirement

    def _is_daemon(self, context: Context) -> bool:
        """Whoever calls through a socket of mode 0600, or has a certificate of a daemon's."""
        if context.peer().startswith(UNIX_PREFIX):
            return True
        return used_tls() is not None and any(
            uri.startswith(self._daemons) for uri in uris_of(context)
        )


def prepared(handler: Handler, prepare: Callable[[Context], Awaitable[None]]) -> Handler:
    """The handler with something before it: what `prepare` raises is the call's answer."""
    behavior: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    wrapper: Any
    if inspect.isasyncgenfunction(behavior):

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            await prepare(context)
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

        wrapper = stream
    elif inspect.iscoroutinefunction(behavior):

        async def call(request: Any, context: Context) -> Any:
            await prepare(context)
            return await behavior(request, context)

        wrapper = call
    else:
        # A generated method that stands for what is not implemented.
        return handler
    return rebuilt(handler, wrapper)
