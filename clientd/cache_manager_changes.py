"""CacheManager: Write, MakeDir, Remove, Rename and Symlink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.runtime.request_stream import whole_stream
from afs.v1 import cache_manager_pb2 as pb
from afs.wire import set_status_from_wire, status_to_wire
from clientd.services import Services

T = TypeVar("T")

# A refused writer may go on sending for so long before it is told.
READ_OFF_S: Final = 1.0


class ChangeMethods:
    """What changes files and directories; answered when it is durable at the fileserver."""

    _services: Services

    async def Write(
        self,
        request_iterator: AsyncIterator[pb.WriteRequest],
        context: Any,
    ) -> pb.WriteResponse:
        """Writes a file; all or nothing."""
        requests = whole_stream(request_iterator, context)
        first = await anext(requests, None)
        if first is None or not first.HasField("open"):
            raise AfsError(AfsCode.EINVAL, "the first message of Write: expected `open`")

        async def data() -> AsyncIterator[bytes]:
            if first.data:
                yield first.data
            async for request in requests:
                if request.HasField("open"):
                    raise AfsError(
                        AfsCode.EINVAL, "`open` in a later message of Write: expected data only"
                    )
                if request.data:
                    yield request.data

        try:
            vnode = await self._services.writing.write(first.open, data())
        except AfsError:
            await _read_off(request_iterator)
            raise
        return pb.WriteResponse(status=status_to_wire(vnode))

    async def MakeDir(
        self,
        request: pb.CacheMakeDirRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.CacheMakeDirResponse:
        """Makes an empty directory."""
        set_status = set_status_from_wire(request.set_status)
        vnode = await self._to_the_end(
            lambda: self._services.changes.make_dir(request.path, set_status)
        )
        return pb.CacheMakeDirResponse(status=status_to_wire(vnode))

    async def Remove(self, request: pb.RemoveRequest, context: Any) -> pb.RemoveResponse:  # noqa: ARG002
        """Removes what the path names."""
        if request.recursive:
            # May take long; ends with its caller.
            await self._services.changes.remove(request.path, recursive=True)
        else:
            await self._to_the_end(
                lambda: self._services.changes.remove(request.path, recursive=False)
            )
        return pb.RemoveResponse()

    async def Rename(self, request: pb.CacheRenameRequest, context: Any) -> pb.CacheRenameResponse:  # noqa: ARG002
        """Gives a vnode another name, in place of what had it."""
        vnode = await self._to_the_end(
            lambda: self._services.changes.rename(request.old_path, request.new_path)
        )
        return pb.CacheRenameResponse(status=status_to_wire(vnode))

    async def Symlink(
        self,
        request: pb.CacheSymlinkRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.CacheSymlinkResponse:
        """Makes a symbolic link, or with such a mode and target a mount point."""
        set_status = set_status_from_wire(request.set_status)
        vnode = await self._to_the_end(
            lambda: self._services.changes.make_symlink(request.path, request.target, set_status)
        )
        return pb.CacheSymlinkResponse(status=status_to_wire(vnode))

    async def _to_the_end(self, change: Callable[[], Awaitable[T]]) -> T:
        """Makes a change whose outcome is taken in even if its caller goes away meanwhile."""
        attempt = self._services.walk.attempt(change)
        return await self._services.vnode_changes.to_the_end(attempt)


async def _read_off(requests: AsyncIterator[Any]) -> None:
    """Reads what a refused writer still sends, for a while.

    Many clients' libraries lose an answer that comes while they write (see `upload`).
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(READ_OFF_S):
            async for _ in requests:
                pass
