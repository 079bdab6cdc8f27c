"""A small real fileserver for the client's tests: gRPC on loopback, files in memory, scriptable.

It is a fake, not a mock: it keeps promises and breaks them as the protocol says, and can be told to
hold replies back, to say nothing on the callback channel, to lose channels, to restart.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio

from afs.errors import AfsCode, AfsError
from afs.runtime.request_stream import whole_stream
from afs.runtime.server import DaemonServer
from afs.types import BreakReason, DirectoryEntry, Fid, Vnode, VnodeType, root_fid
from afs.v1 import (
    callback_channel_pb2,
    callback_channel_pb2_grpc,
    file_server_pb2,
    file_server_pb2_grpc,
    types_pb2,
    vol_server_pb2,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afs.wire import entries_to_wire, fid_from_wire, fid_to_wire, status_to_wire

VOLUME = 536870913
PATIENCE_S = 10.0
PIECE = 1024 * 1024


@dataclass
class Node:
    """One vnode."""

    vnode: Vnode
    data: bytes = b""
    target: str = ""
    names: dict[str, Fid] = field(default_factory=dict)


@dataclass
class Stored:
    """One StoreData that was done."""

    opening: file_server_pb2.StoreDataOpen
    data: bytes


class Gate:
    """Holds the replies of one method back until opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        """Waits for the gate to be opened."""
        self.reached.set()
        await self.opened.wait()


# The stubs declare every method abstract; what is missing here answers UNIMPLEMENTED.
_FileServer: Any = file_server_pb2_grpc.FileServerServicer
_CallBackChannel: Any = callback_channel_pb2_grpc.CallBackChannelServicer
_VolumeLocation: Any = volume_location_pb2_grpc.VolumeLocationServicer


class FakeFileServer(_FileServer, _CallBackChannel, _VolumeLocation):  # type: ignore[misc]
    """FileServer, CallBackChannel and VolumeLocation of one volume, `home`."""

    def __init__(self) -> None:
        self.address = ""
        self.epoch = 7
        self.incarnation = "first"
        self.has_clones = False
        self.location_fails: list[AfsError] = []
        self.lease_s = 10.0
        self.lifetime_s = 3600
        self.gives_promises = True
        self.answers_renewals = True
        # An older fileserver has no BulkFetch; and how many files each one asked for.
        self.fetches_in_bulk = True
        self.bulk_sizes: list[int] = []
        self.message_bytes = PIECE
        # Pieces of FetchData that may be sent before the stream waits for `data_gate`.
        self.pieces_before_gate: int | None = None
        self.data_gate = Gate()
        self.fails: dict[str, list[AfsError]] = {}
        self.volumes: dict[str, int] = {"home": VOLUME}
        self.calls: Counter[str] = Counter()
        self.hosts: set[str] = set()
        # What was stored, in order.
        self.stores: list[Stored] = []
        self.sequence = 1
        self.acked: asyncio.Queue[int] = asyncio.Queue()
        self._gates: dict[str, Gate] = {}
        self._numbers = itertools.count(2)
        self._messages = itertools.count(1)
        self._channels: list[asyncio.Queue[callback_channel_pb2.AttachResponse | None]] = []
        self._server: DaemonServer | None = None
        root = root_fid(VOLUME)
        self.nodes: dict[Fid, Node] = {root: Node(self._vnode(root, VnodeType.DIRECTORY, root))}
        self.root = root

    # --- life ---

    async def start(self, address: str = "127.0.0.1:0") -> FakeFileServer:
        """Serves."""
        self._server = server = DaemonServer()
        server.add(file_server_pb2_grpc.add_FileServerServicer_to_server, self, "afs.v1.FileServer")
        server.add(
            callback_channel_pb2_grpc.add_CallBackChannelServicer_to_server,
            self,
            "afs.v1.CallBackChannel",
        )
        server.add(
            volume_location_pb2_grpc.add_VolumeLocationServicer_to_server,
            self,
            "afs.v1.VolumeLocation",
        )
        (self.address,) = await server.listen([address])
        await server.start()
        return self

    async def stop(self) -> None:
        """Stops at once."""
        assert self._server is not None
        await self._server.stop(0)
        for gate in (*self._gates.values(), self.data_gate):
            gate.opened.set()
        self._channels.clear()

    async def restart(self) -> None:
        """Is another incarnation, at the same address, that knows of no promise."""
        await self.stop()
        self.epoch += 1
        self.sequence = 1
        await self.start(self.address)

    # --- files ---

    def add(
        self, name: str, data: bytes = b"", *, parent: Fid | None = None, target: str = ""
    ) -> Fid:
        """Puts a file (or with `target` a symbolic link) there, without breaking anything."""
        kind = VnodeType.SYMLINK if target else VnodeType.FILE
        fid = self._new(parent or self.root, name, kind)
        node = self.nodes[fid]
        node.data, node.target = data, target
        node.vnode = replace(node.vnode, length=len(data) or len(target))
        return fid

    def add_dir(self, name: str, parent: Fid | None = None) -> Fid:
        """Puts a directory there, without breaking anything."""
        return self._new(parent or self.root, name, VnodeType.DIRECTORY)

    def change(self, fid: Fid, data: bytes) -> None:
        """Changes a file's data without telling anybody."""
        node = self.nodes[fid]
        node.data = data
        node.vnode = replace(node.vnode, length=len(data), data_version=node.vnode.data_version + 1)

    def remove(self, name: str, parent: Fid | None = None) -> None:
        """Takes a name away without telling anybody."""
        directory = self.nodes[parent or self.root]
        del self.nodes[directory.names.pop(name)]
        self._touch(directory)

    # --- callbacks ---

    def send_break(
        self,
        targets: Iterable[Fid],
        reason: BreakReason = BreakReason.DATA_CHANGED,
        through: int | None = None,
    ) -> int:
        """Breaks the promises given up to now; returns the sequence to be acknowledged."""
        if through is None:
            through = self.sequence
            self.sequence += 1
        sequence = next(self._messages)
        message = callback_channel_pb2.AttachResponse()
        # The field's name is a word of Python's.
        getattr(message, "break").CopyFrom(
            callback_channel_pb2.Break(
                sequence=sequence,
                targets=[fid_to_wire(fid) for fid in targets],
                reason=types_pb2.BreakReason.ValueType(reason),
                through=through,
            )
        )
        for channel in self._channels:
            channel.put_nowait(message)
        return sequence

    async def break_and_wait(
        self, targets: Iterable[Fid], reason: BreakReason = BreakReason.DATA_CHANGED
    ) -> None:
        """Breaks, and returns when that was acknowledged."""
        sequence = self.send_break(targets, reason)
        await self.until_acked(sequence)

    async def until_acked(self, sequence: int) -> None:
        """Waits for an acknowledgement."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.acked.get() != sequence:
                pass

    def close_channels(self) -> None:
        """Ends every callback channel."""
        for channel in self._channels:
            channel.put_nowait(None)

    @property
    def channel_count(self) -> int:
        """Callback channels that are open."""
        return len(self._channels)

    def hold(self, method: str) -> Gate:
        """Holds the replies of a method back, made as they are, until the gate is opened."""
        gate = self._gates[method] = Gate()
        return gate

    def let_go(self, method: str) -> None:
        """Opens the gate of a method, for what waits and what comes."""
        self._gates.pop(method).opened.set()

    async def Attach(self, request_iterator: Any, context: Any) -> None:
        self.calls["Attach"] += 1
        self.hosts.add(_host(context))
        outgoing: asyncio.Queue[callback_channel_pb2.AttachResponse | None] = asyncio.Queue()
        hello = await context.read()
        assert hello.HasField("hello")
        init = callback_channel_pb2.InitCallBackState(
            sequence=next(self._messages), epoch=self.epoch, channel_lease_s=self.lease_s
        )
        outgoing.put_nowait(callback_channel_pb2.AttachResponse(init_callback_state=init))
        self._channels.append(outgoing)
        reader = asyncio.create_task(self._read(context, outgoing))
        try:
            while (message := await outgoing.get()) is not None:
                await context.write(message)
        finally:
            reader.cancel()
            if outgoing in self._channels:
                self._channels.remove(outgoing)
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, context: Any, outgoing: asyncio.Queue[Any]) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.HasField("ack"):
                self.acked.put_nowait(message.ack.sequence)
            if message.HasField("renew_lease") and self.answers_renewals:
                probe = callback_channel_pb2.Probe(renews=message.renew_lease.number)
                outgoing.put_nowait(callback_channel_pb2.AttachResponse(probe=probe))
        outgoing.put_nowait(None)

    # --- what clients ask ---

    async def FetchStatus(self, request: Any, context: Any) -> Any:
        await self._begin("FetchStatus", context)
        node = self._node(request.fid)
        return await self._end(
            "FetchStatus",
            file_server_pb2.FetchStatusResponse(
                status=status_to_wire(node.vnode), callback=self._promise()
            ),
        )

    async def BulkStatus(self, request: Any, context: Any) -> Any:
        await self._begin("BulkStatus", context)
        results = []
        for message in request.fids:
            node = self.nodes.get(fid_from_wire(message))
            results.append(
                file_server_pb2.BulkStatusResult(abort_code=AfsCode.VNOVNODE)
                if node is None
                else file_server_pb2.BulkStatusResult(
                    status=status_to_wire(node.vnode), callback=self._promise()
                )
            )
        return await self._end("BulkStatus", file_server_pb2.BulkStatusResponse(results=results))

    async def FetchData(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._begin("FetchData", context)
        node = self._node(request.fid)
        data = node.data
        first = file_server_pb2.FetchDataResponse(
            status=status_to_wire(node.vnode), callback=self._promise()
        )
        yield await self._end("FetchData", first)
        end = len(data)
        if request.length:
            end = min(end, request.offset + request.length)
        step = self.message_bytes
        for number, at in enumerate(range(request.offset, end, step)):
            if self.pieces_before_gate is not None and number >= self.pieces_before_gate:
                await self.data_gate.pass_through()
            yield file_server_pb2.FetchDataResponse(data=data[at : min(at + step, end)])

    async def BulkFetch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if not self.fetches_in_bulk:
            raise AfsError(AfsCode.RXGEN_OPCODE, "an older fileserver")
        await self._begin("BulkFetch", context)
        self.bulk_sizes.append(len(request.fids))
        for at in range(0, len(request.fids), 32):
            results = []
            for message in request.fids[at : at + 32]:
                node = self.nodes.get(fid_from_wire(message))
                if node is None:
                    results.append(file_server_pb2.BulkFetchResult(abort_code=AfsCode.VNOVNODE))
                    continue
                large = len(node.data) > 64 * 1024
                results.append(
                    file_server_pb2.BulkFetchResult(
                        status=status_to_wire(node.vnode),
                        callback=self._promise(),
                        data=b"" if large else node.data,
                        too_large=large,
                    )
                )
            answer = file_server_pb2.BulkFetchResponse(results=results)
            yield await self._end("BulkFetch", answer)

    async def StoreData(self, request_iterator: Any, context: Any) -> Any:
        self._called("StoreData")
        opening = None
        stored = bytearray()
        async for request in whole_stream(request_iterator, context):
            opening = opening or request.open
            stored += request.data
        assert opening is not None
        node = self._node(opening.fid)
        if (
            opening.HasField("expected_data_version")
            and opening.expected_data_version != node.vnode.data_version
        ):
            raise AfsError(AfsCode.EAGAIN, f"{opening.fid} changed")
        self.stores.append(Stored(opening, bytes(stored)))
        data = bytearray(node.data)
        if opening.HasField("truncate_to"):
            del data[opening.truncate_to :]
            data += bytes(opening.truncate_to - len(data))
        if stored and len(data) < opening.offset:
            data += bytes(opening.offset - len(data))
        if stored:
            data[opening.offset : opening.offset + len(stored)] = stored
        self.change(node.vnode.fid, bytes(data))
        self._set(node, opening.set_status)
        return await self._end(
            "StoreData",
            file_server_pb2.StoreDataResponse(
                status=status_to_wire(node.vnode), callback=self._promise()
            ),
        )

    async def StoreStatus(self, request: Any, context: Any) -> Any:
        await self._begin("StoreStatus", context)
        node = self._node(request.fid)
        self._set(node, request.set_status)
        return await self._end(
            "StoreStatus",
            file_server_pb2.StoreStatusResponse(
                status=status_to_wire(node.vnode), callback=self._promise()
            ),
        )

    async def Lookup(self, request: Any, context: Any) -> Any:
        await self._begin("Lookup", context)
        directory = self._node(request.directory)
        if request.name not in directory.names:
            raise AfsError(AfsCode.ENOENT, request.name)
        node = self.nodes[directory.names[request.name]]
        return await self._end(
            "Lookup",
            file_server_pb2.LookupResponse(
                status=status_to_wire(node.vnode),
                callback=self._promise(),
                directory_status=status_to_wire(directory.vnode),
                directory_callback=self._promise(),
            ),
        )

    async def ReadDir(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._begin("ReadDir", context)
        node = self._node(request.directory)
        first = file_server_pb2.ReadDirResponse(
            directory_status=status_to_wire(node.vnode), directory_callback=self._promise()
        )
        entries = [
            DirectoryEntry(name, fid, self.nodes[fid].vnode.type)
            for name, fid in sorted(node.names.items())
        ]
        yield await self._end("ReadDir", first)
        for at in range(0, len(entries), 1000):
            yield file_server_pb2.ReadDirResponse(entries=entries_to_wire(entries[at : at + 1000]))

    async def ReadLink(self, request: Any, context: Any) -> Any:
        await self._begin("ReadLink", context)
        node = self._node(request.fid)
        return file_server_pb2.ReadLinkResponse(
            target=node.target, status=status_to_wire(node.vnode), callback=self._promise()
        )

    async def CreateFile(self, request: Any, context: Any) -> Any:
        await self._begin("CreateFile", context)
        node, directory = self._make(request, VnodeType.FILE)
        self._set(node, request.set_status)
        return await self._end(
            "CreateFile",
            file_server_pb2.CreateFileResponse(
                status=status_to_wire(node.vnode),
                callback=self._promise(),
                directory_status=status_to_wire(directory.vnode),
            ),
        )

    async def MakeDir(self, request: Any, context: Any) -> Any:
        await self._begin("MakeDir", context)
        node, directory = self._make(request, VnodeType.DIRECTORY)
        return await self._end(
            "MakeDir",
            file_server_pb2.MakeDirResponse(
                status=status_to_wire(node.vnode),
                callback=self._promise(),
                directory_status=status_to_wire(directory.vnode),
            ),
        )

    async def Symlink(self, request: Any, context: Any) -> Any:
        await self._begin("Symlink", context)
        node, directory = self._make(request, VnodeType.SYMLINK)
        node.target = request.target
        return await self._end(
            "Symlink",
            file_server_pb2.SymlinkResponse(
                status=status_to_wire(node.vnode),
                callback=self._promise(),
                directory_status=status_to_wire(directory.vnode),
            ),
        )

    async def RemoveFile(self, request: Any, context: Any) -> Any:
        await self._begin("RemoveFile", context)
        directory = self._node(request.directory)
        if request.name not in directory.names:
            raise AfsError(AfsCode.ENOENT, request.name)
        node = self.nodes[directory.names[request.name]]
        self.remove(request.name, directory.vnode.fid)
        return await self._end(
            "RemoveFile",
            file_server_pb2.RemoveFileResponse(
                directory_status=status_to_wire(directory.vnode),
                status=status_to_wire(replace(node.vnode, link_count=0)),
            ),
        )

    async def RemoveDir(self, request: Any, context: Any) -> Any:
        await self._begin("RemoveDir", context)
        directory = self._node(request.directory)
        if request.name not in directory.names:
            raise AfsError(AfsCode.ENOENT, request.name)
        if self.nodes[directory.names[request.name]].names:
            raise AfsError(AfsCode.ENOTEMPTY, request.name)
        self.remove(request.name, directory.vnode.fid)
        return file_server_pb2.RemoveDirResponse(directory_status=status_to_wire(directory.vnode))

    async def Rename(self, request: Any, context: Any) -> Any:
        await self._begin("Rename", context)
        old, new = self._node(request.old_directory), self._node(request.new_directory)
        fid = old.names.pop(request.old_name)
        replaced = new.names.get(request.new_name)
        new.names[request.new_name] = fid
        self._touch(old)
        if new is not old:
            self._touch(new)
        if replaced is not None:
            del self.nodes[replaced]
        return await self._end(
            "Rename",
            file_server_pb2.RenameResponse(
                old_directory_status=status_to_wire(old.vnode),
                new_directory_status=status_to_wire(new.vnode),
                status=status_to_wire(self.nodes[fid].vnode),
            ),
        )

    async def GetVolumeStatus(self, request: Any, context: Any) -> Any:
        await self._begin("GetVolumeStatus", context)
        if request.volume not in self.volumes.values():
            raise AfsError(AfsCode.VNOVOL, str(request.volume))
        return file_server_pb2.GetVolumeStatusResponse(
            status=file_server_pb2.VolumeStatus(volume=request.volume, incarnation=self.incarnation)
        )

    async def GetTime(self, request: Any, context: Any) -> Any:
        await self._begin("GetTime", context)
        return file_server_pb2.GetTimeResponse(time_ns=1)

    async def GiveUpAllCallBacks(self, request: Any, context: Any) -> Any:
        await self._begin("GiveUpAllCallBacks", context)
        return file_server_pb2.GiveUpAllCallBacksResponse(given_up=1)

    # --- VolumeLocation ---

    async def GetEntry(self, request: Any, context: Any) -> Any:
        self.calls["GetEntry"] += 1
        if self.location_fails:
            raise self.location_fails.pop(0)
        by_id = {volume + more: name for name, volume in self.volumes.items() for more in range(3)}
        name = by_id.get(request.volume_id, "") if request.volume_id else request.name
        name = name.removesuffix(".readonly").removesuffix(".backup")
        if name not in self.volumes:
            raise AfsError(AfsCode.VNOVOL, name)
        return volume_location_pb2.GetEntryResponse(entry=self._entry(name))

    async def ListEntries(self, request: Any, context: Any) -> Any:
        self.calls["ListEntries"] += 1
        return volume_location_pb2.ListEntriesResponse(
            entries=[self._entry(name) for name in sorted(self.volumes) if name > request.after]
        )

    def _entry(self, name: str) -> vol_server_pb2.VolumeEntry:
        site = vol_server_pb2.Site(
            file_server=self.address, type=types_pb2.VOLUME_TYPE_READ_WRITE, partition="vicepa"
        )
        read_only = vol_server_pb2.Site(
            file_server=self.address,
            type=types_pb2.VOLUME_TYPE_READ_ONLY,
            partition="vicepa",
            release=1 if self.has_clones else 0,
        )
        number = self.volumes[name]
        return vol_server_pb2.VolumeEntry(
            name=name,
            read_write_id=number,
            read_only_id=number + 1 if self.has_clones else 0,
            backup_id=number + 2 if self.has_clones else 0,
            sites=[site, read_only],
        )

    # --- within ---

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        if self.fails.get(method):
            raise self.fails[method].pop(0)

    async def _begin(self, method: str, context: Any) -> None:
        self._called(method)
        await context.send_initial_metadata((("afs-epoch", str(self.epoch)),))

    async def _end(self, method: str, response: Any) -> Any:
        gate = self._gates.get(method)
        if gate is not None:
            await gate.pass_through()
        return response

    def _promise(self) -> types_pb2.CallBack | None:
        if not self.gives_promises:
            return None
        return types_pb2.CallBack(
            expires_in_s=self.lifetime_s, sequence=self.sequence, epoch=self.epoch
        )

    def _node(self, fid: types_pb2.Fid) -> Node:
        wanted = fid_from_wire(fid)
        if wanted.volume not in self.volumes.values():
            raise AfsError(AfsCode.VNOVOL, str(wanted))
        if wanted not in self.nodes:
            raise AfsError(AfsCode.VNOVNODE, str(wanted))
        return self.nodes[wanted]

    def _make(self, request: Any, kind: VnodeType) -> tuple[Node, Node]:
        directory = self._node(request.directory)
        if request.name in directory.names:
            raise AfsError(AfsCode.EEXIST, request.name)
        fid = self._new(directory.vnode.fid, request.name, kind)
        return self.nodes[fid], directory

    def _new(self, parent: Fid, name: str, kind: VnodeType) -> Fid:
        number = next(self._numbers)
        vnode = number * 2 + (kind is VnodeType.DIRECTORY)
        fid = Fid(parent.volume, vnode, number)
        self.nodes[fid] = Node(self._vnode(fid, kind, parent))
        directory = self.nodes[parent]
        directory.names[name] = fid
        self._touch(directory)
        return fid

    @staticmethod
    def _set(node: Node, set_status: types_pb2.SetStatus) -> None:
        if set_status.HasField("mode"):
            node.vnode = replace(node.vnode, mode=set_status.mode)
        if set_status.HasField("client_mtime_ns"):
            node.vnode = replace(node.vnode, client_mtime_ns=set_status.client_mtime_ns)

    def _touch(self, directory: Node) -> None:
        directory.vnode = replace(
            directory.vnode,
            length=len(directory.names),
            data_version=directory.vnode.data_version + 1,
        )

    @staticmethod
    def _vnode(fid: Fid, kind: VnodeType, parent: Fid) -> Vnode:
        return Vnode(fid, kind, 0o644, 0, 0, 1, 0, 1, 0, 0, parent)


def _host(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("afs-host-uuid", ""))


@asynccontextmanager
async def fake_fileserver() -> AsyncIterator[FakeFileServer]:
    """A fake fileserver that serves."""
    server = await FakeFileServer().start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def lasting_location(server: FakeFileServer) -> AsyncIterator[str]:
    """Address of a location service for this fileserver that is there when that one is not."""
    async with fake_fileserver() as service:
        address, service.address = service.address, server.address
        yield address
