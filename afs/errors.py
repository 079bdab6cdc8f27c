"""What can go wrong in operation, by AFS code, and the one table from codes to gRPC status.

Assertions are for our own bugs; `AfsError` is for what can happen to a correct program. Source of
the V* codes: OpenAFS `afs/errors.h`, of the RXKAD* codes: `rxkad_errs.et`; the errno codes are the
system's own.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import grpc


class AfsCode(IntEnum):
    """AFS abort codes, as sent in the trailer `afs-abort-code`."""

    # Rx and fileserver life cycle.
    VRESTARTING = -100
    RX_CALL_DEAD = -1
    RXGEN_OPCODE = -455
    # errno.
    EPERM = 1
    ENOENT = 2
    EIO = 5
    EAGAIN = 11
    EACCES = 13
    EEXIST = 17
    EXDEV = 18
    ENOTDIR = 20
    EISDIR = 21
    EINVAL = 22
    EFBIG = 27
    EROFS = 30
    EMLINK = 31
    EDEADLK = 35
    ENAMETOOLONG = 36
    ENOLCK = 37
    ENOTEMPTY = 39
    ELOOP = 40
    # Volume package.
    VSALVAGE = 101
    VNOVNODE = 102
    VNOVOL = 103
    VVOLEXISTS = 104
    VNOSERVICE = 105
    VOFFLINE = 106
    VONLINE = 107
    VDISKFULL = 108
    VOVERQUOTA = 109
    VBUSY = 110
    VMOVED = 111
    VIO = 112
    # Doors.
    RXKADNOAUTH = 19270405
    RXKADBADTICKET = 19270407
    RXKADUNKNOWNKEY = 19270408
    RXKADEXPIRED = 19270409
    # Bounds of ours on a caller's use of the server.
    VLIMIT = 130


ABORT_CODE_TRAILER: Final = "afs-abort-code"

GRPC_STATUS: Final[dict[AfsCode, grpc.StatusCode]] = {
    AfsCode.VNOVOL: grpc.StatusCode.NOT_FOUND,
    AfsCode.VNOVNODE: grpc.StatusCode.NOT_FOUND,
    AfsCode.ENOENT: grpc.StatusCode.NOT_FOUND,
    AfsCode.VVOLEXISTS: grpc.StatusCode.ALREADY_EXISTS,
    AfsCode.EEXIST: grpc.StatusCode.ALREADY_EXISTS,
    AfsCode.VBUSY: grpc.StatusCode.UNAVAILABLE,
    AfsCode.VOFFLINE: grpc.StatusCode.UNAVAILABLE,
    AfsCode.VRESTARTING: grpc.StatusCode.UNAVAILABLE,
    AfsCode.VIO: grpc.StatusCode.UNAVAILABLE,
    AfsCode.RX_CALL_DEAD: grpc.StatusCode.UNAVAILABLE,
    AfsCode.VMOVED: grpc.StatusCode.ABORTED,
    AfsCode.EAGAIN: grpc.StatusCode.ABORTED,
    AfsCode.EDEADLK: grpc.StatusCode.ABORTED,
    AfsCode.VSALVAGE: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.VNOSERVICE: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.VONLINE: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.EROFS: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.ENOTDIR: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.EISDIR: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.ENOTEMPTY: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.EXDEV: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.EMLINK: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.ELOOP: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.ENOLCK: grpc.StatusCode.FAILED_PRECONDITION,
    AfsCode.VDISKFULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AfsCode.VOVERQUOTA: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AfsCode.VLIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AfsCode.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    AfsCode.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    AfsCode.RXKADNOAUTH: grpc.StatusCode.UNAUTHENTICATED,
    AfsCode.RXKADBADTICKET: grpc.StatusCode.UNAUTHENTICATED,
    AfsCode.RXKADUNKNOWNKEY: grpc.StatusCode.UNAUTHENTICATED,
    AfsCode.RXKADEXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    AfsCode.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    AfsCode.ENAMETOOLONG: grpc.StatusCode.INVALID_ARGUMENT,
    AfsCode.EFBIG: grpc.StatusCode.OUT_OF_RANGE,
    AfsCode.EIO: grpc.StatusCode.DATA_LOSS,
    AfsCode.RXGEN_OPCODE: grpc.StatusCode.UNIMPLEMENTED,
}


class AfsError(Exception):
    """An operation failed for a reason its caller must know.

    Args:
        code: the AFS code.
        detail: one line for people; names the offending value and what was expected.
    """

    def __init__(self, code: AfsCode, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code = code
        self.detail = detail

    @property
    def grpc_status(self) -> grpc.StatusCode:
        """The gRPC status that goes with the code."""
        return GRPC_STATUS[self.code]
