"""Asks a daemon whether it serves (grpc.health.v1.Health)."""

from __future__ import annotations

import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afs.runtime.tls import TlsFiles, read_certificates

# A probe that waits longer than this has its answer.
PROBE_TIMEOUT_S: Final = 3.0


class Health(StrEnum):
    """What a daemon says of itself."""

    SERVING = "serving"
    # Starting, or draining before it stops.
    NOT_SERVING = "not serving"
    # Nobody answers at the address, or not in time.
    SILENT = "silent"


def check_health(address: str, timeout_s: float, tls: TlsFiles | None = None) -> Health:
    """The health of the daemon at "host:port" or "unix:PATH"; waits `timeout_s` at most.

    `tls` is what to show a daemon that speaks TLS there.
    """
    # A plain connect first: gRPC backs off for a second after a refused one, and this is asked
    # while a daemon starts.
    if not _listens(address, timeout_s):
        return Health.SILENT
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.insecure_channel(address, options=options)
        if tls is None
        else grpc.secure_channel(address, read_certificates(tls).as_client, options=options)
    )
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return Health.SILENT
    return (
        Health.SERVING
        if answer.status == health_pb2.HealthCheckResponse.SERVING
        else Health.NOT_SERVING
    )


def _listens(address: str, timeout_s: float) -> bool:
    if address.startswith("unix:"):
        path = str(Path(address.removeprefix("unix:")))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix:
            unix.settimeout(timeout_s)
            try:
                unix.connect(path)
            except OSError:
                return False
            return True
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def main() -> int:
    """`python -m afsctl.health ADDRESS`, for probes: 0 if the daemon there serves, else 1."""
    if len(sys.argv) != 2:
        print("usage: python -m afsctl.health ADDRESS", file=sys.stderr)
        return 2
    health = check_health(sys.argv[1], PROBE_TIMEOUT_S)
    print(health.value)
    return 0 if health is Health.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
