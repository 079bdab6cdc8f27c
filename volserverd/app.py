"""The volserver's parts put together: started in order, stopped in the opposite one.

Start: whatever can be refused comes first (addresses, partitions, the location database), then
recovery in the background, for which the fileserver need not be there yet, and the servers last.

Stop: the servers take no new calls; operations that run are asked to end and give their volumes
back; then the rest is let go.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final, Self

import grpc.aio
import structlog

from afs.identity.memberships import Membership
from afs.identity.protection_client import ProtectionClient
from afs.limits import DRAIN_S, MEMBERSHIP_LIFETIME_S
from afs.runtime.clock import Clock, SystemClock
from afs.runtime.guarded import open_doors
from afs.runtime.server import DaemonServer
from afs.v1 import (
    protection_pb2_grpc,
    vol_server_pb2_grpc,
    vol_transfer_pb2_grpc,
    volume_location_pb2_grpc,
)
from volserverd.checkouts import Checkouts
from volserverd.config import VolserverdConfig
from volserverd.demand_salvage import DemandSalvage
from volserverd.disk import Disk
from volserverd.fssync_client import FssyncClient, program_name
from volserverd.halves import Halves
from volserverd.identity import read_identity
from volserverd.locations import Locations, OwnLocations, RemoteLocations
from volserverd.operations import Operations
from volserverd.protection import ProtectionDatabase, ProtectionServicer
from volserverd.recovery import Recovery
from volserverd.remnants import Remnants
from volserverd.transfer_server import VolTransferServicer
from volserverd.vol_server import VolServerServicer
from volserverd.volume_location import VolumeLocationServicer
from volserverd.work_order import VolumeServices

_log = structlog.get_logger(__name__)

VOL_SERVER: Final = "afs.v1.VolServer"
VOL_TRANSFER: Final = "afs.v1.VolTransfer"
VOLUME_LOCATION: Final = "afs.v1.VolumeLocation"
PROTECTION: Final = "afs.v1.Protection"


class VolserverDaemon:
    """A running volserver.

    Attributes:
        addresses: where VolServer is served, with real ports; empty if locations alone are.
        location_addresses: where VolumeLocation is served; empty if another's is used.
        operations: what is running.
        checkouts: the volumes we have taken.
    """

    def __init__(self, config: VolserverdConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._resources = AsyncExitStack()
        self._servers: list[DaemonServer] = []
        self._doors: list[grpc.aio.ServerInterceptor] = []
        self._protection: ProtectionDatabase | ProtectionClient | None = None
        self.addresses: list[str] = []
        self.location_addresses: list[str] = []
        self.operations = Operations(clock, config.transaction_idle_s)
        self.fssync = FssyncClient(
            config.fssync_address, program_name(str(config.run_dir.absolute()))
        )
        self.checkouts = Checkouts(self.fssync, clock.now)

    @classmethod
    async def start(cls, config: VolserverdConfig, clock: Clock | None = None) -> Self:
        """Starts a volserver; it serves when this returns.

        Raises:
            AfsError: VBUSY for an address, a partition or a location database that another process
                has; EINVAL, VNOSERVICE, VSALVAGE … for one that cannot be used.
        """
        daemon = cls(config, SystemClock() if clock is None else clock)
        try:
            await daemon._start()
        except BaseException:
            await daemon._resources.aclose()
            raise
        return daemon

    async def stop(self) -> None:
        """Drains, has operations give their volumes back, lets go of all locks."""
        await self._resources.aclose()

    async def _start(self) -> None:
        config, later = self._config, self._resources.push_async_callback
        self._doors = await open_doors(
            config,
            self._ask,
            self._clock.now,
            self._resources,
            # Whoever has the database asks it: an administrator's change counts at once.
            remember_s=-1.0 if config.location is None else MEMBERSHIP_LIFETIME_S,
        )
        if config.location_only:
            later((await self._open_locations()).close)
        else:
            await self._start_vol_server()
        # Stopped before anything that they work with.
        later(self._drain)
        await asyncio.gather(*(each.start() for each in self._servers))
        _log.info(
            "volserver.started",
            addresses=self.addresses,
            location=self.location_addresses or config.location,
            program=self.fssync.program,
        )

    async def _start_vol_server(self) -> None:
        config, later = self._config, self._resources.push_async_callback
        server = self._new_server()
        self.addresses = await server.listen(config.listen)
        disk = await Disk.open(config.partitions)
        later(disk.close)
        locations = await self._open_locations()
        later(locations.close)
        later(self.fssync.close)
        later(self.checkouts.close)
        services = VolumeServices(
            disk,
            self.checkouts,
            locations,
            identity=await disk.run(read_identity, config.partitions[0]),
            file_server=config.file_server,
            vol_server=config.vol_server or self.addresses[0],
        )
        remnants = Remnants(disk, self.operations, config.remnant_lifetime_s)
        later(remnants.stop)
        self.halves = Halves(services, self.fssync, self.operations)
        later(self.halves.stop)
        recovery = Recovery(services, self.fssync, self.halves)
        later(recovery.stop)
        servicer = VolServerServicer(services, self.fssync, self.operations, recovery)
        recovery.release_again = servicer.release_again
        server.add(vol_server_pb2_grpc.add_VolServerServicer_to_server, servicer, VOL_SERVER)
        server.add(
            vol_transfer_pb2_grpc.add_VolTransferServicer_to_server,
            VolTransferServicer(services, self.operations, recovery, self.halves),
            VOL_TRANSFER,
        )
        self.demand_salvage = DemandSalvage(
            services,
            self.fssync,
            recovery.ready,
            servicer.salvage_by_itself,
            config.salvage_poll_s,
        )
        later(self.demand_salvage.stop)
        recovery.start()
        self.demand_salvage.start()
        self.halves.start()
        remnants.start()

    def _new_server(self) -> DaemonServer:
        server = DaemonServer(self._doors)
        # For a start that fails: to be stopped again later does nothing.
        self._resources.push_async_callback(server.stop, 0)
        self._servers.append(server)
        return server

    async def _open_locations(self) -> Locations:
        config = self._config
        if config.location is not None:
            self._protection = protection = ProtectionClient(config.location)
            self._resources.push_async_callback(protection.close)
            return RemoteLocations(config.location)
        server = self._new_server()
        self.location_addresses = await server.listen(config.location_listen)
        locations = await OwnLocations.open(config.vldb)
        server.add(
            volume_location_pb2_grpc.add_VolumeLocationServicer_to_server,
            VolumeLocationServicer(locations),
            VOLUME_LOCATION,
        )
        self._protection = database = await ProtectionDatabase.open(config.ptdb_path)
        self._resources.push_async_callback(database.close)
        server.add(
            protection_pb2_grpc.add_ProtectionServicer_to_server,
            ProtectionServicer(database, self._clock),
            PROTECTION,
        )
        return locations

    async def _ask(self, name: str) -> Membership:
        """What the protection database says of a caller."""
        assert self._protection is not None, "opened before the servers start"
        return await self._protection.membership(name)

    async def _drain(self) -> None:
        """Ends calls and operations together: calls wait for operations that are asked to end."""
        await asyncio.gather(
            self.operations.stop(), *(server.stop(DRAIN_S) for server in self._servers)
        )
