"""The cell's volservers: the one that has a volume, one by its name, or all of them.

A volserver works on the volumes of its own partitions, so commands must go to the right one. The
location database says which that is: the read-write site's, or for a read-only volume one of its
sites. An operator who names a volserver gets that one, whatever the database says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from afs.errors import AfsCode
from afs.v1 import (
    types_pb2,
    vol_server_pb2,
    vol_server_pb2_grpc,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afsctl.addresses import Door, find_address
from afsctl.cell_state import load_state
from afsctl.channels import channel_to
from afsctl.failure import CommandError, abort_code

_READ_ONLY_SUFFIX = ".readonly"


@dataclass(frozen=True, slots=True)
class ServerAddresses:
    """A server's two addresses, and the names of its daemons if it is of the cell that runs here.

    `file_server` is empty if nobody told it.
    """

    vol_server: str
    file_server: str = ""
    names: tuple[str, ...] = ()


class VolServers:
    """The volservers of a cell. A context; holds a channel to each server met.

    Args:
        vol_server: address of the only one to use; None: whichever has the volume.
        location: address of the location database; None: the running cell's, or the default.
        cell_dir: directory of the cell that may run on this machine.
    """

    def __init__(self, vol_server: str | None, location: str | None, cell_dir: Path) -> None:
        self._given = vol_server
        self._location = find_address(Door.LOCATION, location, cell_dir)
        self._default = find_address(Door.VOL_SERVER, vol_server, cell_dir)
        self._cell_dir = cell_dir
        self._resources = ExitStack()
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()

    def at(self, address: str) -> vol_server_pb2_grpc.VolServerStub:
        """The volserver at an address."""
        return vol_server_pb2_grpc.VolServerStub(self._channel(address))

    def of(self, volume: str) -> vol_server_pb2_grpc.VolServerStub:
        """The volserver that works on a volume, given by name or id. Errors as `address_of`."""
        return self.at(self.address_of(volume))

    def address_of(self, volume: str) -> str:
        """The address of the volserver that works on a volume, given by name or id.

        Raises:
            CommandError: the location database does not know the volume, and there are several
                servers that might have it all the same.
        """
        if self._given:
            return self._given
        entry = self.entry(volume)
        if entry is None:
            # A volume can be on a disk and not in the database; vos verify tells of such.
            others = self.all()
            if len(others) == 1:
                return others[0].vol_server
            raise CommandError(
                f"the location database has no volume {volume!r}; if a server has it all the same,"
                " name that server with --vol-server"
            )
        if not entry.sites:
            raise CommandError(f"the location database knows no site of volume {volume!r}")
        return _site_for(entry, volume).vol_server

    def entry(self, volume: str) -> vol_server_pb2.VolumeEntry | None:
        """What the location database has of a volume, given by name or id; None if nothing."""
        request = (
            volume_location_pb2.GetEntryRequest(volume_id=int(volume))
            if volume.isdecimal() and int(volume) < 2**32
            else volume_location_pb2.GetEntryRequest(name=volume)
        )
        try:
            return self._locations().GetEntry(request).entry
        except grpc.RpcError as error:
            if abort_code(error) in (AfsCode.VNOVOL, AfsCode.ENOENT):
                return None
            raise

    def entries(self) -> Iterator[vol_server_pb2.VolumeEntry]:
        """Everything in the location database, by name."""
        after = ""
        while True:
            request = volume_location_pb2.ListEntriesRequest(after=after)
            answer = self._locations().ListEntries(request)
            if not answer.entries:
                return
            yield from answer.entries
            after = answer.entries[-1].name

    def named(self, server: str) -> str:
        """The address of the volserver of a server.

        Args:
            server: the address of its volserver or of its fileserver; or the name of one of its
                daemons, such as `afsd-1`, in a cell on this machine.

        Raises:
            CommandError: it is neither an address nor a daemon of the cell.
        """
        in_cell = self._in_cell()
        for known in in_cell:
            if server in (known.vol_server, known.file_server, *known.names):
                return known.vol_server
        if ":" not in server:
            names = ", ".join(name for known in in_cell for name in known.names)
            raise CommandError(
                f"there is no server {server!r}: expected an address"
                + (f", or one of {names}" if names else "")
            )
        for known in self._in_database():
            if server == known.file_server:
                return known.vol_server
        return server

    def default(self) -> str:
        """The volserver for work that concerns no volume yet: the given one, or the first."""
        return self._default

    def all(self) -> list[ServerAddresses]:
        """The given volserver only, or all that are known.

        Known are those of the cell on this machine and those the location database names; if
        neither tells of any, the one at the default address.
        """
        if self._given:
            return [ServerAddresses(self._given)]
        found = {server.vol_server: server for server in self._in_cell()}
        for server in self._in_database():
            found.setdefault(server.vol_server, server)
        return list(found.values()) or [ServerAddresses(self._default)]

    def _in_cell(self) -> list[ServerAddresses]:
        state = load_state(self._cell_dir)
        if state is None or not state.runs():
            return []
        names: dict[str, list[str]] = {}
        for record in state.daemons:
            names.setdefault(record.plan.address, []).append(record.plan.name)
        return [
            ServerAddresses(
                server.vol_server,
                server.file_server,
                (*names.get(server.file_server, ()), *names.get(server.vol_server, ())),
            )
            for server in state.servers
        ]

    def _in_database(self) -> Iterator[ServerAddresses]:
        for entry in self.entries():
            for site in entry.sites:
                yield ServerAddresses(site.vol_server, site.file_server)

    def _locations(self) -> volume_location_pb2_grpc.VolumeLocationStub:
        return volume_location_pb2_grpc.VolumeLocationStub(self._channel(self._location))

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = self._resources.enter_context(channel_to(address))
        return self._channels[address]


def roomiest_partition(stub: vol_server_pb2_grpc.VolServerStub, *, besides: str = "") -> str:
    """The partition of a volserver with most room, not `besides`; CommandError if there is none."""
    partitions = stub.ListPartitions(vol_server_pb2.ListPartitionsRequest()).partitions
    others = [partition for partition in partitions if partition.name != besides]
    if not others:
        raise CommandError(f"the volserver has no {'other ' if partitions else ''}partition")
    return max(others, key=lambda partition: partition.free_kib).name


def _site_for(entry: vol_server_pb2.VolumeEntry, volume: str) -> vol_server_pb2.Site:
    """The site whose volserver works on the volume."""
    read_only = volume.endswith(_READ_ONLY_SUFFIX) or volume == str(entry.read_only_id)
    wanted = types_pb2.VOLUME_TYPE_READ_ONLY if read_only else types_pb2.VOLUME_TYPE_READ_WRITE
    sites = [site for site in entry.sites if site.type == wanted] or list(entry.sites)
    # Of read-only sites one that shows what was released last.
    return max(sites, key=lambda site: site.release)
