"""What a failed call tells of whether its work was done."""

from __future__ import annotations

import grpc
import grpc.aio

from afs.errors import ABORT_CODE_TRAILER


def was_refused(error: grpc.aio.AioRpcError) -> bool:
    """True if the server itself said no: then it surely did not do what was asked.

    Without the server's own code the call may have been done and its answer lost.
    """
    return any(key == ABORT_CODE_TRAILER for key, _ in error.trailing_metadata() or ())
