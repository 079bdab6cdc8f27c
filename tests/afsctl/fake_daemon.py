"""A stand-in daemon process: serves gRPC health on --listen, and misbehaves on request."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--fail", help="write this to standard error and exit with status 1")
    parser.add_argument("--never-serve", action="store_true")
    parser.add_argument("--ignore-sigterm", action="store_true")
    arguments, further = parser.parse_known_args()
    sys.stderr.write(f"pid {os.getpid()} flags {' '.join(further)}\n")
    sys.stderr.flush()
    if arguments.fail:
        sys.exit(f"fake daemon: {arguments.fail}")
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    if arguments.never_serve:
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(arguments.listen)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server.start()
    while True:
        signal.sigwait({signal.SIGTERM})
        if not arguments.ignore_sigterm:
            break
    server.stop(0).wait()


if __name__ == "__main__":
    main()
