"""Where volumes are: our own location database or another volserver's, behind one interface."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import grpc.aio

from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.v1 import volume_location_pb2 as pb
from afs.v1 import volume_location_pb2_grpc
from volserverd.vldb.entry import Entry, entry_from_wire, entry_to_wire
from volserverd.vldb.names import VolumeReference
from volserverd.vldb.store import VolumeLocationStore

T = TypeVar("T")

# Seconds that a call to another volserver's location database may take.
_REMOTE_DEADLINE_S = 10.0


class Locations(Protocol):
    """The location database; methods and errors as those of `VolumeLocationStore`."""

    async def get(self, reference: VolumeReference) -> Entry: ...
    async def entries(self, after: str, limit: int) -> list[Entry]: ...
    async def create(self, entry: Entry) -> Entry: ...
    async def replace(self, entry: Entry) -> Entry: ...
    async def delete(self, read_write_id: int, locked_for: str) -> None: ...
    async def lock(self, read_write_id: int, operation: str) -> Entry: ...
    async def unlock(self, read_write_id: int) -> None: ...
    async def close(self) -> None: ...


class OwnLocations:
    """Our own database, in one thread.

    A call that was cancelled is carried out all the same: what began in the thread ends there.
    """

    def __init__(self, store: VolumeLocationStore, executor: ThreadPoolExecutor) -> None:
        self._store = store
        self._executor = executor

    @classmethod
    async def open(cls, path: Path) -> OwnLocations:
        """Opens the database; errors as `VolumeLocationStore.open`."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="vldb")
        try:
            store = await asyncio.get_running_loop().run_in_executor(
                executor, VolumeLocationStore.open, path
            )
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(store, executor)

    async def get(self, reference: VolumeReference) -> Entry:
        return await self._run(self._store.get, reference)

    async def entries(self, after: str, limit: int) -> list[Entry]:
        return await self._run(self._store.entries, after, limit)

    async def create(self, entry: Entry) -> Entry:
        return await self._run(self._store.create, entry)

    async def replace(self, entry: Entry) -> Entry:
        return await self._run(self._store.replace, entry)

    async def delete(self, read_write_id: int, locked_for: str) -> None:
        await self._run(self._store.delete, read_write_id, locked_for)

    async def lock(self, read_write_id: int, operation: str) -> Entry:
        return await self._run(self._store.lock, read_write_id, operation)

    async def unlock(self, read_write_id: int) -> None:
        await self._run(self._store.unlock, read_write_id)

    async def close(self) -> None:
        await self._run(self._store.close)
        self._executor.shutdown(wait=False)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        return await asyncio.shield(future)


class RemoteLocations:
    """The database of another volserver. A call that gets no answer is RX_CALL_DEAD."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub: volume_location_pb2_grpc.VolumeLocationAsyncStub = (
            volume_location_pb2_grpc.VolumeLocationStub(self._channel)
        )

    async def get(self, reference: VolumeReference) -> Entry:
        request = pb.GetEntryRequest(name=reference.text)
        if reference.volume_id:
            request = pb.GetEntryRequest(volume_id=reference.volume_id)
        return entry_from_wire((await _call(self._stub.GetEntry, request)).entry)

    async def entries(self, after: str, limit: int) -> list[Entry]:
        request = pb.ListEntriesRequest(after=after, limit=limit)
        answer = await _call(self._stub.ListEntries, request)
        return [entry_from_wire(entry) for entry in answer.entries]

    async def create(self, entry: Entry) -> Entry:
        request = pb.CreateEntryRequest(entry=entry_to_wire(entry))
        return entry_from_wire((await _call(self._stub.CreateEntry, request)).entry)

    async def replace(self, entry: Entry) -> Entry:
        request = pb.ReplaceEntryRequest(entry=entry_to_wire(entry))
        return entry_from_wire((await _call(self._stub.ReplaceEntry, request)).entry)

    async def delete(self, read_write_id: int, locked_for: str) -> None:
        request = pb.DeleteEntryRequest(read_write_id=read_write_id, locked_for=locked_for)
        await _call(self._stub.DeleteEntry, request)

    async def lock(self, read_write_id: int, operation: str) -> Entry:
        request = pb.LockRequest(read_write_id=read_write_id, operation=operation)
        return entry_from_wire((await _call(self._stub.Lock, request)).entry)

    async def unlock(self, read_write_id: int) -> None:
        await _call(self._stub.Unlock, pb.UnlockRequest(read_write_id=read_write_id))

    async def close(self) -> None:
        await self._channel.close()


Request = TypeVar("Request")


async def _call(method: Callable[..., Awaitable[T]], request: object) -> T:
    try:
        return await method(request, timeout=_REMOTE_DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        raise afs_error_from_rpc(error) from None
