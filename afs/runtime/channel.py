"""Client channels with our options, and what a failed call means in AFS codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError
from afs.limits import (
    KEEPALIVE_TIME_S,
    KEEPALIVE_TIMEOUT_S,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    RECONNECT_FIRST_S,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
)
from afs.runtime.listening import UNIX_PREFIX
from afs.runtime.outgoing import client_interceptors
from afs.runtime.renewing_channel import RenewingChannel
from afs.runtime.tls import used_tls

# What a status means when no AFS code came with it: it was made by gRPC itself, or by someone
# else's server.
_CODE_BY_STATUS: Final[dict[grpc.StatusCode, AfsCode]] = {
    grpc.StatusCode.UNAVAILABLE: AfsCode.RX_CALL_DEAD,
    grpc.StatusCode.DEADLINE_EXCEEDED: AfsCode.RX_CALL_DEAD,
    grpc.StatusCode.CANCELLED: AfsCode.RX_CALL_DEAD,
    grpc.StatusCode.UNIMPLEMENTED: AfsCode.RXGEN_OPCODE,
    grpc.StatusCode.NOT_FOUND: AfsCode.ENOENT,
    grpc.StatusCode.ALREADY_EXISTS: AfsCode.EEXIST,
    grpc.StatusCode.PERMISSION_DENIED: AfsCode.EACCES,
    grpc.StatusCode.UNAUTHENTICATED: AfsCode.RXKADNOAUTH,
    grpc.StatusCode.INVALID_ARGUMENT: AfsCode.EINVAL,
    grpc.StatusCode.OUT_OF_RANGE: AfsCode.EFBIG,
    grpc.StatusCode.RESOURCE_EXHAUSTED: AfsCode.VLIMIT,
    grpc.StatusCode.ABORTED: AfsCode.EAGAIN,
    grpc.StatusCode.DATA_LOSS: AfsCode.EIO,
}


def open_channel(
    address: str,
    *,
    options: Sequence[tuple[str, Any]] = (),
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> grpc.aio.Channel:
    """A channel to one daemon; connects with the first call, and again by itself after an outage.

    A peer that stopped answering (frozen, unplugged) is noticed within KEEPALIVE_TIME_S +
    KEEPALIVE_TIMEOUT_S while a call or stream is open; its calls then end with UNAVAILABLE.
    They show the process's token, if it has one (`afs.runtime.outgoing`), and speak mutual TLS over
    TCP if it has a certificate (`afs.runtime.tls`).

    Args:
        address: "host:port" or "unix:PATH".
        options: gRPC channel arguments that override ours.
        interceptors: client interceptors, outermost first.
    """
    chosen = list((dict(_channel_options()) | dict(options)).items())
    inner = [*(interceptors or ()), *client_interceptors(address)]
    if used_tls() is None or address.startswith(UNIX_PREFIX):
        return grpc.aio.insecure_channel(address, options=chosen, interceptors=inner)
    return RenewingChannel(
        lambda credentials: grpc.aio.secure_channel(
            address, credentials, options=chosen, interceptors=inner
        )
    )


def _channel_options() -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_TIME_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        # Without this one a stopped peer goes unnoticed for a minute, whatever keepalive_timeout_ms
        # says.
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", int(RECONNECT_FIRST_S * 1000)),
        ("grpc.min_reconnect_backoff_ms", int(RECONNECT_MIN_S * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(RECONNECT_MAX_S * 1000)),
        # One channel, one connection: by default all channels of a process to one address share a
        # connection and its fate, and a bulk transfer on one would delay callbacks on another.
        ("grpc.use_local_subchannel_pool", 1),
        # A proxy in the environment is for web pages, not for a file service.
        ("grpc.enable_http_proxy", 0),
    ]


def afs_error_from_rpc(error: grpc.aio.AioRpcError) -> AfsError:
    """What a failed call means: the AFS code its server sent, or the nearest one to its status.

    A peer that cannot be reached, or did not answer in time, is RX_CALL_DEAD; a server's own bug is
    VNOSERVICE.
    """
    detail = error.details() or error.code().name
    for key, value in error.trailing_metadata() or ():
        if key == ABORT_CODE_TRAILER:
            try:
                return AfsError(AfsCode(int(value)), detail)
            except ValueError:
                # A newer server's code; its gRPC status still tells the kind.
                break
    return AfsError(_CODE_BY_STATUS.get(error.code(), AfsCode.VNOSERVICE), detail)
