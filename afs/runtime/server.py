"""A gRPC server with our options, health, reflection, and a drain that leaves nobody hanging."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from afs.errors import AfsCode, AfsError
from afs.limits import (
    KEEPALIVE_TIME_S,
    KEEPALIVE_TIMEOUT_S,
    MAX_CONCURRENT_STREAMS,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
)
from afs.runtime.interceptors import ErrorInterceptor
from afs.runtime.listening import (
    UNIX_PREFIX,
    UnixSocketClaim,
    check_tcp_address,
    claim_unix_socket,
    is_private,
    split_tcp_address,
)
from afs.runtime.tls import server_credentials, used_tls

_log = structlog.get_logger(__name__)

_SERVER_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    # On by default: a second server would bind the same port silently and take half of the
    # connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_TIME_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    # Without this one a stopped peer goes unnoticed for a minute, whatever keepalive_timeout_ms
    # says.
    ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
    # Our clients ping as often as we do; by default the server would hang up on them. Without
    # strikes, pings by which grpc measures a bulk transfer are not held against a client either.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)

_HEALTH_WATCH: Final = "/grpc.health.v1.Health/Watch"
_REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
_REFLECTION_METHOD: Final = "ServerReflectionInfo"


class DaemonServer:
    """One gRPC server of a daemon: add services, listen, start, stop.

    Also serves `grpc.health.v1.Health` (overall and for each service) and server reflection
    (v1alpha, and v1 whose messages are the same).

    Args:
        interceptors: inside of our own `ErrorInterceptor`, outermost first.
        options: gRPC channel arguments that override ours.
    """

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._errors = ErrorInterceptor()
        self._server = grpc.aio.server(
            interceptors=[self._errors, *interceptors],
            options=list((dict(_SERVER_OPTIONS) | dict(options)).items()),
        )
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []
        self._claims: list[UnixSocketClaim] = []

    def add(
        self,
        add_to_server: Callable[[Any, grpc.aio.Server], None],
        servicer: Any,
        full_service_name: str,
        endless: Collection[str] = ("Attach", "Watch"),
    ) -> None:
        """Adds a service; before `start`.

        Args:
            add_to_server: the generated `add_…Servicer_to_server`.
            servicer: its implementation; all methods asynchronous.
            full_service_name: "afs.v1.FileServer".
            endless: its methods whose streams last until somebody hangs up; a drain does not wait
                for them, it cancels them in the servicer (which cleans up as for any cancellation)
                and answers VRESTARTING.
        """
        add_to_server(servicer, self._server)
        self._services.append(full_service_name)
        for method in endless:
            self._errors.add_endless(f"/{full_service_name}/{method}")

    async def listen(self, addresses: Sequence[str]) -> list[str]:
        """Binds the addresses; before `start`.

        Args:
            addresses: "host:port" (port 0: any free one) or "unix:PATH" (mode 0600; a stale socket
                is replaced). TCP ports speak mutual TLS if the process has a certificate
                (`afs.runtime.tls`).

        Returns:
            The same addresses with the real ports.

        Raises:
            AfsError: VBUSY for an address somebody listens on, EINVAL for one that is none,
                VNOSERVICE for one that the machine refuses; one line each.
        """
        return [
            await self._listen_unix(Path(address.removeprefix(UNIX_PREFIX)))
            if address.startswith(UNIX_PREFIX)
            else self._listen_tcp(address)
            for address in addresses
        ]

    async def _listen_unix(self, path: Path) -> str:
        self._claims.append(await asyncio.to_thread(claim_unix_socket, path))
        # The socket must never be there with a wider mode, not even for a moment.
        umask = os.umask(0o177)
        try:
            self._bind(f"{UNIX_PREFIX}{path}")
        finally:
            os.umask(umask)
        return f"{UNIX_PREFIX}{path}"

    def _listen_tcp(self, address: str) -> str:
        check_tcp_address(address)
        host, _ = split_tcp_address(address)
        if used_tls() is None and not is_private(address):
            _log.warning("port.in_plain_text", address=address, reason="no certificate is given")
        port = self._bind(address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _bind(self, address: str) -> int:
        """Binds in grpc; returns the port."""
        try:
            if used_tls() is None or address.startswith(UNIX_PREFIX):
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, server_credentials())
        except RuntimeError as error:
            raise AfsError(AfsCode.VNOSERVICE, f"cannot listen on {address}: {error}") from None
        if port == 0:
            raise AfsError(AfsCode.VNOSERVICE, f"cannot listen on {address}")
        return port

    async def start(self) -> None:
        """Begins to answer; every service is SERVING."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._errors.add_endless(_HEALTH_WATCH)
        self._add_reflection()
        for service in self._services:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    def _add_reflection(self) -> None:
        names = [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        servicer = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, self._server)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    _REFLECTION_V1,
                    {
                        _REFLECTION_METHOD: grpc.stream_stream_rpc_method_handler(
                            servicer.ServerReflectionInfo,
                            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
                        )
                    },
                ),
            )
        )
        for service in (reflection.SERVICE_NAME, _REFLECTION_V1):
            self._errors.add_endless(f"/{service}/{_REFLECTION_METHOD}")

    async def set_serving(self, full_service_name: str, *, serving: bool) -> None:
        """Sets the health of one service; "" is the server as a whole."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(full_service_name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Drains: health says NOT_SERVING, new calls are refused, running ones may finish.

        Endless streams are ended at once.

        Args:
            grace_s: seconds after which calls that still run are cancelled.
        """
        await self._health.enter_graceful_shutdown()
        self._errors.end_streams()
        await self._server.stop(grace_s)
        for claim in self._claims:
            await asyncio.to_thread(claim.release)
        self._claims.clear()
