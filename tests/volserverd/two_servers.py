"""Two servers as real processes, and everything they say to each other passed through this process.

The location database is here, and relays of FSSync and of what volservers say to each other. So a
test sees every step of an operation from outside, and can hold it there: see `Boundaries`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from afs.runtime.channel import open_channel
from afs.runtime.server import DaemonServer
from afs.types import VolumeHeader
from afs.v1 import fssync_pb2, vol_transfer_pb2, volume_location_pb2_grpc
from afs.v1 import volume_location_pb2 as location_pb
from afs.v1.fssync_pb2_grpc import add_FSSyncServicer_to_server
from afs.volume import sqlite_tables
from tests.volserverd.processes import Process, Relay
from tests.volserverd.running import VolServerCalls
from volserverd.locations import OwnLocations
from volserverd.volume_location import VolumeLocationServicer

PATIENCE_S = 30.0


class Boundaries:
    """Where operations are: each has a key, and passes its boundaries one after the other.

    Attributes:
        passed: the boundaries of each operation, in order.
        held: the operations that stand at the boundary that a test asked for with `hold`.
    """

    def __init__(self) -> None:
        self.passed: dict[str, list[str]] = {}
        self.held: set[str] = set()
        self._keys: dict[int, str] = {}
        self._hold: dict[str, int | str] = {}
        self._go_on = asyncio.Event()
        self._changed = asyncio.Condition()

    def name(self, volume_id: int, key: str) -> None:
        """From now on, what is said of this volume or its clones belongs to an operation."""
        for offset in range(3):
            self._keys[volume_id + offset] = key

    def hold(self, key: str, boundary: int | str) -> None:
        """The operation is to stop at this boundary: its number, from 0, or its name."""
        self.passed.pop(key, None)
        self._hold[key] = boundary
        self._go_on.clear()

    def let_go(self) -> None:
        """All go on, and nothing is held any more."""
        self._hold.clear()
        self.held.clear()
        self._go_on.set()

    async def until_held(self, keys: set[str], ended: Callable[[], set[str]]) -> None:
        """Returns when each operation is held, or has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while not keys <= self.held | ended():
                await asyncio.sleep(0.005)

    async def reached(self, of: int | str, what: str) -> None:
        """An operation is at a boundary."""
        key = self._keys.get(of, "") if isinstance(of, int) else of.removesuffix("-copy")
        if not key:
            return
        passed = self.passed.setdefault(key, [])
        passed.append(what)
        if self._hold.get(key) in (len(passed) - 1, what):
            self.held.add(key)
            await self._go_on.wait()


class WatchedLocations(VolumeLocationServicer):
    """The location database; whatever changes it is a boundary before and after.

    Attributes:
        lost: methods whose next answer is lost, with True for one that is carried out.
        away_after_loss: from then on nothing is answered, until it is reset.
        away: nothing is answered.
    """

    def __init__(self, locations: OwnLocations, boundaries: Boundaries) -> None:
        super().__init__(locations)
        self._boundaries = boundaries
        self.lost: dict[str, bool] = {}
        self.away_after_loss = False
        self.away = False

    async def GetEntry(self, request: location_pb.GetEntryRequest, context: Any) -> Any:
        """As the original."""
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "directed by the test")
        return await super().GetEntry(request, context)

    async def _watched(self, of: int | str, what: str, answer: Awaitable[Any]) -> Any:
        try:
            await self._boundaries.reached(of, f"before {what}")
        except BaseException:
            # Who asked is dead.
            answer.close()  # type: ignore[attr-defined]
            raise
        result = await answer
        await self._boundaries.reached(of, f"after {what}")
        return result

    async def CreateEntry(self, request: location_pb.CreateEntryRequest, context: Any) -> Any:
        """As the original."""
        of = request.entry.name
        answer = await self._watched(of, "CreateEntry", super().CreateEntry(request, context))
        self._boundaries.name(answer.entry.read_write_id, of.removesuffix("-copy"))
        return answer

    async def ReplaceEntry(self, request: location_pb.ReplaceEntryRequest, context: Any) -> Any:
        """As the original."""
        of = request.entry.read_write_id
        lost = self.lost.pop("ReplaceEntry", None)
        self.away = self.away or (lost is not None and self.away_after_loss)
        if lost is False or (self.away and lost is None):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "directed by the test")
        answer = await self._watched(of, "ReplaceEntry", super().ReplaceEntry(request, context))
        if lost:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "directed by the test")
        return answer

    async def DeleteEntry(self, request: location_pb.DeleteEntryRequest, context: Any) -> Any:
        """As the original."""
        of = request.read_write_id
        return await self._watched(of, "DeleteEntry", super().DeleteEntry(request, context))

    async def Lock(self, request: location_pb.LockRequest, context: Any) -> Any:
        """As the original."""
        return await self._watched(request.read_write_id, "Lock", super().Lock(request, context))

    async def Unlock(self, request: location_pb.UnlockRequest, context: Any) -> Any:
        """As the original."""
        of = request.read_write_id
        return await self._watched(of, "Unlock", super().Unlock(request, context))


class WatchedFssync(Relay):
    """Passes FSSync on to a fileserver; whatever changes something is a boundary."""

    def __init__(self, upstream: str, boundaries: Boundaries, name: str) -> None:
        super().__init__(upstream)
        self._boundaries = boundaries
        self._name = name

    async def VolumeOp(self, request: fssync_pb2.VolumeOpRequest, context: Any) -> Any:
        """Passes one command on."""
        looks = request.command in (fssync_pb2.FSYNC_VOL_QUERY, fssync_pb2.FSYNC_VOL_LISTVOLUMES)
        command = fssync_pb2.FsyncCommand.Name(request.command).removeprefix("FSYNC_")
        if not looks:
            await self._boundaries.reached(request.volume_id, f"before {self._name} {command}")
        answer = await super().VolumeOp(request, context)
        if not looks:
            await self._boundaries.reached(request.volume_id, f"after {self._name} {command}")
        return answer


class VolServerRelay(grpc.GenericRpcHandler):
    """Passes everything on to a volserver; each message of a transfer is a boundary."""

    def __init__(self, upstream: str, boundaries: Boundaries) -> None:
        self._upstream = upstream
        self._channel = open_channel(upstream)
        self._boundaries = boundaries

    async def hang_up(self) -> None:
        """A connection to a volserver that was killed is not found alive again at once."""
        await self._channel.close()
        self._channel = open_channel(self._upstream)

    def service(self, details: Any) -> Any:
        """A handler of any method: on the wire they are all alike."""
        method = details.method

        async def forward(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            of = [0]
            watched = method.endswith("/Receive")

            async def passing() -> AsyncIterator[bytes]:
                async for request in requests:
                    if watched:
                        message = vol_transfer_pb2.ReceiveRequest.FromString(request)
                        of[0] = message.open.volume_id or of[0]
                        kind = message.WhichOneof("kind")
                        await self._boundaries.reached(of[0], f"before message {kind}")
                    yield request

            forwarding: Any = self._channel.stream_stream(method)
            call = forwarding(passing())
            try:
                async for response in call:
                    if watched:
                        answer = vol_transfer_pb2.ReceiveResponse.FromString(response)
                        kind = answer.WhichOneof("kind")
                        await self._boundaries.reached(of[0], f"after answer {kind}")
                    yield response
            except grpc.aio.AioRpcError as error:
                trailers = tuple(error.trailing_metadata() or ())
                await context.abort(error.code(), error.details(), trailers)
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close()


class Server:
    """One of the two: its daemons, and where they are."""

    def __init__(self, root: Path, name: str, location: str, boundaries: Boundaries) -> None:
        self.root = root / name
        self.root.mkdir()
        self.file_server = f"unix:{self.root}/f.sock"
        self.real_vol_server = f"unix:{self.root}/v.sock"
        # As others are told: the relay.
        self.vol_server = f"unix:{self.root}/w.sock"
        self.partitions = [self.root / "vicepa", self.root / "vicepb"]
        self.fssync = WatchedFssync(f"unix:{self.root}/run/fssync.sock", boundaries, name)
        self.relay = VolServerRelay(self.real_vol_server, boundaries)
        shared = ["--run-dir", f"{self.root}/run"]
        for partition in self.partitions:
            shared += ["--partitions", str(partition)]
        self.afsd = Process("afsd", self.file_server, "--listen", self.file_server, *shared)
        self.volserverd = Process(
            "volserverd",
            self.real_vol_server,
            *("--listen", self.real_vol_server, "--location", location),
            *("--vol-server", self.vol_server, "--file-server", self.file_server),
            *("--fssync", f"unix:{self.root}/relay.sock"),
            *shared,
        )
        self.vos = VolServerCalls(self.real_vol_server, location)

    async def hang_up(self) -> None:
        """A connection to a volserver that was killed is not found alive again at once."""
        location = self.vos.location_address
        await self.vos.close()
        self.vos = VolServerCalls(self.real_vol_server, location)
        await self.relay.hang_up()

    async def close(self) -> None:
        """Hangs up."""
        await self.vos.close()

    def databases(self) -> Iterator[Path]:
        """Everything on the partitions that is a database."""
        for partition in self.partitions:
            yield from partition.glob("groups/*/*.db")


class TwoServers:
    """Both servers, the location database, and the boundaries between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boundaries = Boundaries()
        self.location = f"unix:{root}/l.sock"
        self.locations: WatchedLocations
        self.servers = [
            Server(root, name, self.location, self.boundaries) for name in ("one", "two")
        ]

    def copies(self, volume_id: int) -> list[tuple[str, str]]:
        """Server's and partition's name of each copy of a volume on disk."""
        return [
            (server.root.name, path.parents[2].name)
            for server in self.servers
            for path in server.databases()
            if path.stem == str(volume_id)
        ]


@asynccontextmanager
async def two_servers(root: Path) -> AsyncIterator[TwoServers]:
    """Both servers, running."""
    cell = TwoServers(root)
    async with AsyncExitStack() as stack:
        locations = await OwnLocations.open(root / "vldb.sqlite3")
        stack.push_async_callback(locations.close)
        cell.locations = WatchedLocations(locations, cell.boundaries)
        server = DaemonServer()
        await server.listen([cell.location])
        server.add(
            volume_location_pb2_grpc.add_VolumeLocationServicer_to_server,
            cell.locations,
            "afs.v1.VolumeLocation",
        )
        await server.start()
        stack.push_async_callback(server.stop, 0)
        for each in cell.servers:
            relays = grpc.aio.server()
            add_FSSyncServicer_to_server(each.fssync, relays)
            relays.add_insecure_port(f"unix:{each.root}/relay.sock")
            relays.add_generic_rpc_handlers([each.relay])
            relays.add_insecure_port(each.vol_server)
            await relays.start()
            stack.push_async_callback(each.fssync.close)
            stack.push_async_callback(each.relay.close)
            stack.push_async_callback(relays.stop, None)
            for process in (each.afsd, each.volserverd):
                stack.push_async_callback(process.kill)
        daemons = [process for each in cell.servers for process in (each.afsd, each.volserverd)]
        await asyncio.gather(*(process.start() for process in daemons))
        for each in cell.servers:
            stack.push_async_callback(each.close)
        # Whatever is still held must not keep the servers from stopping.
        stack.callback(cell.boundaries.let_go)
        yield cell


def header_of(path: Path) -> VolumeHeader:
    """The header in a database."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return sqlite_tables.read_state(connection).header
