"""Addresses a daemon listens on.

What grpc would do silently is checked first and refused with a clear line.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import stat
from pathlib import Path

from afs.errors import AfsCode, AfsError

UNIX_PREFIX = "unix:"
# Source: unix(7), sun_path less its NUL.
MAX_UNIX_PATH_BYTES = 107


class UnixSocketClaim:
    """The right to listen on a path; held until `release`, or the end of the process.

    Two daemons that start at the same moment would each see a stale socket and remove the other's;
    the lock file beside the socket lets one of them win.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Removes the socket and lets others have the path."""
        self.path.unlink(missing_ok=True)
        os.close(self._lock)


def claim_unix_socket(path: Path) -> UnixSocketClaim:
    """Makes way for a unix socket: makes its directory, removes a stale socket.

    Raises:
        AfsError: VBUSY if somebody listens there; EINVAL if the path is too long or is something
            else than a socket.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise AfsError(
            AfsCode.EINVAL,
            f"unix socket path {path} is too long: expected at most {MAX_UNIX_PATH_BYTES} bytes",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(
        path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(f"{UNIX_PREFIX}{path}") from None
        _remove_stale(path)
    except BaseException:
        os.close(lock)
        raise
    return UnixSocketClaim(path, lock)


def _remove_stale(path: Path) -> None:
    """Removes a socket nobody listens on."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AfsError(
            AfsCode.EINVAL, f"cannot listen on {UNIX_PREFIX}{path}: the path is not a socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise _taken(f"{UNIX_PREFIX}{path}")


def check_tcp_address(address: str) -> None:
    """Finds out whether "host:port" can be listened on.

    grpc is content when it can bind one of a host's addresses; we want all or a refusal.

    Raises:
        AfsError: EINVAL for an address that is none; VBUSY for a taken port; VNOSERVICE for what
            the machine refuses.
    """
    host, port = split_tcp_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AfsError(AfsCode.EINVAL, f"cannot listen on {address}: {error.strerror}") from None
    for family, kind, protocol, _, target in found:
        with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
            # As grpc does it: a port whose last connections are still in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(target)
            except OSError as error:
                if error.errno == 98:
                    raise _taken(address) from None
                raise AfsError(
                    AfsCode.VNOSERVICE, f"cannot listen on {address}: {error.strerror}"
                ) from None


def split_tcp_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" ("[::1]:7000" for IPv6); AfsError EINVAL if it is none."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AfsError(
            AfsCode.EINVAL,
            f"address {address!r} is none: expected host:port (0 to 65535) or {UNIX_PREFIX}PATH",
        )
    return host, int(port)


def is_private(address: str) -> bool:
    """Whether nobody on the network can read what is sent to this address in plain text."""
    if address.startswith(UNIX_PREFIX):
        return True
    try:
        host, _ = split_tcp_address(address)
    except AfsError as error:
        assert error.code is AfsCode.EINVAL
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _taken(address: str) -> AfsError:
    return AfsError(AfsCode.VBUSY, f"cannot listen on {address}: it is in use by another process")
