"""Several real fileservers in this process, a location service to be told, and volumes moved.

What the volserver does to volumes is done here by hand, step by step, so that a test can look at
what clients see between any two steps.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc

from afs.errors import AfsCode, AfsError
from afs.mount_points import MOUNT_POINT_MODE
from afs.runtime.server import DaemonServer
from afs.types import VolumeType
from afs.v1 import (
    cache_manager_pb2,
    types_pb2,
    vol_server_pb2,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afs.volume.partition import Partition
from tests.afsd.running import RunningFileServer, fileserver
from tests.clientd.local_program import LocalProgram, running_client

# The stubs declare every method abstract; what is missing here answers UNIMPLEMENTED.
_VolumeLocation: Any = volume_location_pb2_grpc.VolumeLocationServicer

FIRST_VOLUME = 536870913


class FakeLocation(_VolumeLocation):  # type: ignore[misc]
    """A VolumeLocation that says what it is told to say.

    Attributes:
        entries: by name.
        asked: GetEntry calls.
        answers: whether it answers at all.
        answers_lost: of so many calls from now on the connection is lost.
    """

    def __init__(self) -> None:
        self.address = ""
        self.entries: dict[str, vol_server_pb2.VolumeEntry] = {}
        self.asked = 0
        self.answers = True
        self.answers_lost = 0
        self._server: DaemonServer | None = None

    async def start(self) -> FakeLocation:
        """Serves."""
        self._server = DaemonServer()
        self._server.add(
            volume_location_pb2_grpc.add_VolumeLocationServicer_to_server,
            self,
            "afs.v1.VolumeLocation",
        )
        (self.address,) = await self._server.listen(["127.0.0.1:0"])
        await self._server.start()
        return self

    async def stop(self) -> None:
        """Stops at once."""
        assert self._server is not None
        await self._server.stop(0)

    async def GetEntry(self, request: Any, context: Any) -> Any:
        self.asked += 1
        if self.answers_lost:
            self.answers_lost -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Stream removed")
        if not self.answers:
            raise AfsError(AfsCode.VRESTARTING, "not now")
        for entry in self.entries.values():
            ids = (entry.read_write_id, entry.read_only_id, entry.backup_id)
            if request.name == entry.name or (request.volume_id and request.volume_id in ids):
                return volume_location_pb2.GetEntryResponse(entry=entry)
        raise AfsError(AfsCode.VNOVOL, f"there is no volume {request.name or request.volume_id}")

    async def ListEntries(self, request: Any, context: Any) -> Any:
        names = [name for name in sorted(self.entries) if name > request.after]
        return volume_location_pb2.ListEntriesResponse(
            entries=[self.entries[name] for name in names]
        )


class Servers:
    """The fileservers, and what is done to their volumes.

    Attributes:
        location: where clients look volumes up.
        running: the fileservers.
    """

    _holders = count()

    def __init__(
        self, folders: list[Path], location: FakeLocation, running: list[RunningFileServer]
    ) -> None:
        self.folders = folders
        self.location = location
        self.running = running
        self._ids = count(FIRST_VOLUME, 3)

    def address(self, index: int) -> str:
        """Of a fileserver."""
        return self.running[index].daemon.addresses[0]

    def entry(self, name: str) -> vol_server_pb2.VolumeEntry:
        """The entry of a volume, to be changed as a test likes."""
        return self.location.entries[name]

    async def create(self, name: str, server: int = 0) -> int:
        """A new volume; returns its id."""
        volume = next(self._ids)

        def create() -> None:
            partition = self._partition(server)
            partition.create_volume(volume_id=volume, name=name).close()
            partition.close()

        await asyncio.to_thread(create)
        await self.running[server].fssync("VOL_ATTACH", volume, partition="vicepa")
        self.location.entries[name] = vol_server_pb2.VolumeEntry(
            name=name, read_write_id=volume, sites=[self._site(server, VolumeType.READ_WRITE)]
        )
        return volume

    # --- a move, in its steps ---

    async def move(self, name: str, source: int, target: int) -> None:
        """All steps of a move."""
        await self.copy_over(name, source, target)
        self.switch(name, target)
        await self.put_on(name, target)
        await self.tell(name, source)

    async def copy_over(self, name: str, source: int, target: int) -> None:
        """The volume is taken from the source, and lies at the target, which knows nothing yet."""
        volume = self.entry(name).read_write_id
        await self.running[source].fssync("NEEDVOLUME", volume, reason="FSYNC_FOR_MOVE")
        await asyncio.to_thread(self._copy, volume, volume, source, target)

    def switch(self, name: str, target: int) -> None:
        """The entry says the target."""
        entry = self.entry(name)
        others = [site for site in entry.sites if site.type != types_pb2.VOLUME_TYPE_READ_WRITE]
        del entry.sites[:]
        entry.sites.extend([self._site(target, VolumeType.READ_WRITE), *others])

    async def put_on(self, name: str, target: int) -> None:
        """The target serves it."""
        volume = self.entry(name).read_write_id
        await self.running[target].fssync("VOL_ATTACH", volume, partition="vicepa")

    async def tell(self, name: str, source: int) -> None:
        """The source breaks its promises and answers VMOVED."""
        await self.running[source].fssync("VOL_MOVE", self.entry(name).read_write_id)

    # --- a release ---

    async def release(self, name: str, source: int, *sites: int) -> None:
        """The read-only volume shows the state of now at these sites; the source may be one."""
        entry = self.entry(name)
        volume = entry.read_write_id
        await self.running[source].fssync("NEEDVOLUME", volume, reason="FSYNC_FOR_CLONE")
        await self._take_read_only(volume + 1, *{source, *sites})
        counter = await asyncio.to_thread(self._clone, volume, name, source)
        for site in sites:
            if site != source:
                await asyncio.to_thread(self._copy, volume, volume + 1, source, site)
            command = "VOL_ON" if await self._has(volume + 1, site) else "VOL_ATTACH"
            await self.running[site].fssync(
                command, volume + 1, partition="vicepa", reason="FSYNC_FOR_RELEASE"
            )
        await self.running[source].fssync("VOL_ON", volume)
        entry.read_only_id = volume + 1
        released = {self.address(site) for site in sites}
        others = [
            site
            for site in entry.sites
            if site.type != types_pb2.VOLUME_TYPE_READ_ONLY or site.file_server not in released
        ]
        del entry.sites[:]
        entry.sites.extend(others)
        entry.sites.extend(self._site(site, VolumeType.READ_ONLY, counter) for site in sites)

    async def _take_read_only(self, volume: int, *sites: int) -> None:
        for site in sites:
            if await self._has(volume, site):
                await self.running[site].fssync("NEEDVOLUME", volume, reason="FSYNC_FOR_RELEASE")

    async def _has(self, volume: int, site: int) -> bool:
        answer = await self.running[site].fssync("VOL_LISTVOLUMES", 0)
        return volume in {each.volume_id for each in answer.volumes}

    def _clone(self, volume: int, name: str, source: int) -> int:
        partition = self._partition(source)
        opened = partition.open_volume(volume)
        partition.clone_volume(
            opened, volume_id=volume + 1, name=f"{name}.readonly", type=VolumeType.READ_ONLY
        )
        counter = opened.header().change_counter
        opened.close()
        partition.close()
        return counter

    # --- on disk ---

    def _partition(self, server: int) -> Partition:
        return Partition.open(
            self.folders[server] / "vicepa", holder=f"volserver{next(self._holders)}"
        )

    def _copy(self, group: int, volume: int, source: int, target: int) -> None:
        """The volume's files of the group, and all chunks."""
        here = self.folders[source] / "vicepa" / "groups" / str(group)
        there = self.folders[target] / "vicepa" / "groups" / str(group)
        there.mkdir(parents=True, exist_ok=True)
        for old in there.glob(f"{volume}.*"):
            old.unlink()
        for file in here.glob(f"{volume}.*"):
            shutil.copy2(file, there)
        for part in ("chunks", "staging"):
            shutil.copytree(here / part, there / part, dirs_exist_ok=True)

    def _site(self, server: int, kind: VolumeType, release: int = 0) -> vol_server_pb2.Site:
        return vol_server_pb2.Site(
            file_server=self.address(server),
            partition="vicepa",
            type=types_pb2.VolumeType.ValueType(kind),
            release=release,
        )


async def make_mount_point(program: LocalProgram, path: str, target: str) -> None:
    """A mount point, with a target such as `#home.`."""
    request = cache_manager_pb2.CacheSymlinkRequest(
        path=path, target=target, set_status=types_pb2.SetStatus(mode=MOUNT_POINT_MODE)
    )
    await program.call(program.stub.Symlink(request))


@asynccontextmanager
async def fake_location() -> AsyncIterator[FakeLocation]:
    """A location service without entries."""
    location = await FakeLocation().start()
    try:
        yield location
    finally:
        await location.stop()


@asynccontextmanager
async def several_servers(folder: Path, servers: int = 2) -> AsyncIterator[Servers]:
    """Fileservers without volumes, and a location service without entries."""
    async with AsyncExitStack() as stack:
        location = await stack.enter_async_context(fake_location())
        folders = [folder / f"server-{number}" for number in range(servers)]
        running = [await stack.enter_async_context(fileserver(each, ())) for each in folders]
        yield Servers(folders, location, running)


@asynccontextmanager
async def clients(
    folder: Path, servers: Servers, number: int = 1, **keys: Any
) -> AsyncIterator[list[LocalProgram]]:
    """Programs, each with a client of its own."""
    async with AsyncExitStack() as stack:
        programs = []
        for each in range(number):
            (folder / f"client-{each}").mkdir()
            client = running_client(folder / f"client-{each}", servers.location.address, **keys)
            programs.append(await stack.enter_async_context(client))
        yield programs
