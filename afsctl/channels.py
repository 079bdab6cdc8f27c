"""Channels for commands that ask one thing at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc

from afs.limits import KEEPALIVE_TIME_S, KEEPALIVE_TIMEOUT_S, MAX_MESSAGE_BYTES
from afs.runtime.listening import UNIX_PREFIX, is_private
from afs.runtime.outgoing import AUTHORIZATION
from afs.runtime.tls import certificates, used_tls
from afsctl.token_store import shown_token

_OPTIONS: Final[Sequence[tuple[str, Any]]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # So that a command ends, with a clear line, when the daemon it waits for is frozen or cut off.
    ("grpc.keepalive_time_ms", int(KEEPALIVE_TIME_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
]


@contextmanager
def channel_to(address: str, options: Sequence[tuple[str, Any]] = ()) -> Iterator[grpc.Channel]:
    """A channel to "host:port" or "unix:PATH", closed at the end; connects with the first call.

    Its calls show the user's token, where nobody else can read it.
    """
    chosen = list((dict(_OPTIONS) | dict(options)).items())
    encrypted = used_tls() is not None and not address.startswith(UNIX_PREFIX)
    opened = (
        grpc.secure_channel(address, certificates().as_client, options=chosen)
        if encrypted
        else grpc.insecure_channel(address, options=chosen)
    )
    with opened as channel:
        token = shown_token()
        if token is None or not (encrypted or is_private(address)):
            yield channel
        else:
            yield grpc.intercept_channel(channel, _ShowsToken(token))


class _ShowsToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the user's token to the metadata of every call that has none of its own."""

    def __init__(self, token: str) -> None:
        self._metadata = (AUTHORIZATION, f"Bearer {token}")

    # The library has one signature a kind of call; to us they are all the same.
    def _call(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = list(details.metadata or ())
        if not any(key == AUTHORIZATION for key, _ in metadata):
            metadata.append(self._metadata)
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_unary: Any = _call
    intercept_unary_stream: Any = _call
    intercept_stream_unary: Any = _call
    intercept_stream_stream: Any = _call
