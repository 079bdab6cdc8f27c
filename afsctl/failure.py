"""How a command ends when it fails: one line on standard error, and the exit status."""

from __future__ import annotations

import re
from typing import Final

import grpc

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError

FAILED: Final = 1
USAGE: Final = 2
# Source: the shell's convention, 128 + SIGINT.
INTERRUPTED: Final = 130

# Of what gRPC says when a connection fails, the parts that tell something: the address, and the
# system's words.
_CONNECT_FAILURE: Final = re.compile(
    r"(?:ipv[46]:|unix:)(?P<address>\S+?): .*?(?P<reason>Connection refused"
    r"|No such file or directory|Network is unreachable|No route to host|Connection timed out)"
)


class CommandError(Exception):
    """A command could not do what it was asked to; the text is one line for people."""


def one_line(text: str) -> str:
    """The text with every run of white space made one blank."""
    return " ".join(text.split())


def explain(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, grpc.RpcError):
        return _explain_rpc(error)
    if isinstance(error, AfsError):
        return one_line(f"{error.detail} ({error.code.name})")
    if isinstance(error, OSError) and error.strerror:
        return one_line(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return one_line(str(error)) or type(error).__name__


def abort_code(error: grpc.RpcError) -> int | None:
    """The AFS code that came with a failed call; None if none did."""
    for key, value in _trailers(error):
        if key == ABORT_CODE_TRAILER:
            try:
                return int(value)
            except ValueError:
                return None
    return None


def _explain_rpc(error: grpc.RpcError) -> str:
    # Both kinds of gRPC error (of grpc and of grpc.aio) are calls too; grpc.RpcError itself
    # declares nothing.
    code: grpc.StatusCode = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    detail = one_line(getattr(error, "details", lambda: "")() or "")
    number = abort_code(error)
    if number is not None:
        return f"{detail or 'no details'} ({_code_name(number)}, gRPC {code.name})"
    if code is grpc.StatusCode.UNAVAILABLE and (found := _CONNECT_FAILURE.search(detail)):
        return f"nothing answers at {found['address']}: {found['reason']} (gRPC {code.name})"
    return f"{detail or 'no details'} (gRPC {code.name})"


def _code_name(number: int) -> str:
    """`VNOVOL, afs-abort-code 103`, or only the number of a code we do not know."""
    try:
        return f"{AfsCode(number).name}, {ABORT_CODE_TRAILER} {number}"
    except ValueError:
        return f"{ABORT_CODE_TRAILER} {number}"


def _trailers(error: grpc.RpcError) -> list[tuple[str, str]]:
    metadata = getattr(error, "trailing_metadata", lambda: None)()
    return [
        (key, value if isinstance(value, str) else value.decode()) for key, value in metadata or ()
    ]
