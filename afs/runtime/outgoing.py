"""The token that this process shows the daemons it calls.

One for the whole process, as its log is: every channel made by `open_channel` shows it. A token is
shown on channels that nobody else can read: unix sockets, loopback, and encrypted ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import grpc.aio
import structlog

from afs.access.caller import DAEMON_NAME
from afs.limits import DAEMON_TOKEN_LIFETIME_S, TRUST_POLL_S
from afs.runtime.config import DaemonConfig
from afs.runtime.listening import UNIX_PREFIX, is_private
from afs.runtime.tls import used_tls

AUTHORIZATION: Final = "authorization"

_log = structlog.get_logger(__name__)


class TokenSource(Protocol):
    """Gives the token to show."""

    async def token(self) -> str | None:
        """The token of now; None if there is none."""
        ...


class KeyTokens:
    """Short-lived tokens of a daemon that has the cell's signing key.

    Args:
        key: file of the key.
        cell: name of the cell.

    Raises:
        AfsError: the key cannot be used.
    """

    def __init__(self, key: Path, cell: str) -> None:
        from afs.identity.keys import load_signing_key

        self._key = load_signing_key(key)
        self._cell = cell
        self._token = ""
        self._renew_at = 0.0

    async def token(self) -> str:
        """A token that is good for half of DAEMON_TOKEN_LIFETIME_S at least."""
        now_s = time.time()
        if now_s >= self._renew_at or self._renew_at - now_s > DAEMON_TOKEN_LIFETIME_S:
            from afs.identity.tokens import issue_token

            self._token = issue_token(
                self._key,
                cell=self._cell,
                name=DAEMON_NAME,
                now_s=now_s,
                lifetime_s=DAEMON_TOKEN_LIFETIME_S,
            )
            self._renew_at = now_s + DAEMON_TOKEN_LIFETIME_S / 2
        return self._token


class OneToken:
    """One token, as long as it is good.

    Args:
        text: the token.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    async def token(self) -> str:
        """The token."""
        return self._text


class FileToken:
    """The token in a file that others renew.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token: str | None = None
        self._read_at = float("-inf")

    async def token(self) -> str | None:
        """What the file holds, read again every TRUST_POLL_S."""
        now = time.monotonic()
        if now - self._read_at >= TRUST_POLL_S:
            self._read_at = now
            self._token = await asyncio.to_thread(self._read)
        return self._token

    def _read(self) -> str | None:
        try:
            return self._path.read_text(encoding="ascii").strip() or None
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("token.not_read", path=str(self._path), reason=str(error))
            return None


def token_source(config: DaemonConfig) -> TokenSource | None:
    """What a daemon shows by its configuration; AfsError if its key cannot be used."""
    if config.signing_key is not None:
        return KeyTokens(config.signing_key, config.cell)
    return None if config.token_file is None else FileToken(config.token_file)


class _Shown:
    """What this process shows."""

    source: TokenSource | None = None


def show_tokens(source: TokenSource | None) -> None:
    """Has every channel made from now on show these tokens; None: none."""
    _Shown.source = source


def client_interceptors(address: str) -> list[grpc.aio.ClientInterceptor]:
    """What a new channel to this address needs, so that its calls show our token."""
    if _Shown.source is None:
        return []
    encrypted = used_tls() is not None and not address.startswith(UNIX_PREFIX)
    if not (encrypted or is_private(address)):
        _log.warning("token.not_shown", address=address, reason="others can read this channel")
        return []
    source = _Shown.source
    return [kind(source) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]


class _Shows:
    """Adds the token to a call's metadata, unless the call has one of its own."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def _with_token(self, details: Any) -> Any:
        metadata = list(details.metadata or ())
        if any(key == AUTHORIZATION for key, _ in metadata):
            return details
        token = await self._source.token()
        if token is None:
            return details
        metadata.append((AUTHORIZATION, f"Bearer {token}"))
        return details._replace(metadata=grpc.aio.Metadata(*metadata))

    async def _call(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(await self._with_token(details), request)


class _UnaryUnary(_Shows, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request)


class _UnaryStream(_Shows, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request)


class _StreamUnary(_Shows, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


class _StreamStream(_Shows, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)
