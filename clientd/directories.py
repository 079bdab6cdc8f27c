"""Names in directories: from a cached listing under the directory's promise, or asked for."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import aclosing
from typing import Final, NamedTuple

from afs.errors import AfsCode, AfsError
from afs.types import DirectoryEntry, Fid, Vnode, VnodeType
from afs.v1 import file_server_pb2 as pb
from afs.wire import entry_from_wire, fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.core.listing import UNKNOWN, Listing
from clientd.core.promise import Ticket
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.single_flight import SingleFlight
from clientd.statuses import Source, Statuses
from clientd.volume_calls import VolumeCalls

# A directory with at most so many names is read whole when one of them is looked up: that is one
# call, and the next look-ups in it cost none. In a larger one names are looked up one by one.
READ_WHOLE_NAMES: Final = 5000
# Until that has cost as much as reading it: a look-up does as much as so many names of a listing.
NAMES_PER_LOOK_UP: Final = 300
# Large directories in which look-ups are counted; those longest untouched begin anew.
MAX_COUNTED: Final = 1000
# Largest listing that is kept; a larger directory can be listed, but is read each time.
KEEP_NAMES: Final = 100_000


class Listed(NamedTuple):
    """A directory's names, its status, and where they came from."""

    listing: Listing
    vnode: Vnode
    source: Source


class Found(NamedTuple):
    """The entry of a name, None if there is none, and where that came from."""

    entry: DirectoryEntry | None
    source: Source


class Directories:
    """Tells what is in directories.

    Args:
        cache: what is remembered.
        servers: whom to ask.
        statuses: tells directories' statuses.
        journal: counts.
    """

    def __init__(
        self, cache: VnodeCache, servers: FileServers, statuses: Statuses, journal: Journal
    ) -> None:
        self._cache = cache
        self._servers = servers
        self._statuses = statuses
        self._journal = journal
        self._flights: SingleFlight[Fid, Listed] = SingleFlight()
        self._looked_up: OrderedDict[Fid, int] = OrderedDict()

    async def find(self, volume: VolumeCalls, directory: Fid, name: str) -> Found:
        """The entry that `name` stands for.

        Raises:
            AfsError: ENOTDIR if the Fid is no directory's; else as the fileserver says.
        """
        entry = self._cache.get(directory)
        if entry is not None and entry.early:
            # Changes of our own are coming in out of order: one name is cheaper than all of them.
            return Found(await self._look_up(volume, directory, name), Source.FILE_SERVER)
        known = await self._statuses.status(volume, directory)
        _check_directory(known.vnode)
        listing = self._current(directory, known.vnode)
        found = listing.find(name) if listing is not None else UNKNOWN
        if found is not UNKNOWN:
            return Found(found, known.source)
        if known.vnode.length > READ_WHOLE_NAMES and self._is_rather_looked_up(known.vnode):
            return Found(await self._look_up(volume, directory, name), Source.FILE_SERVER)
        listed = await self.list_all(volume, directory)
        found = listed.listing.find(name)
        assert found is not UNKNOWN
        return Found(found, listed.source)

    def _is_rather_looked_up(self, directory: Vnode) -> bool:
        """True while looking names up one by one has been the cheaper way; counts this one."""
        looked_up = self._looked_up.pop(directory.fid, 0) + 1
        if looked_up * NAMES_PER_LOOK_UP > directory.length and directory.length <= KEEP_NAMES:
            return False
        self._looked_up[directory.fid] = looked_up
        if len(self._looked_up) > MAX_COUNTED:
            self._looked_up.popitem(last=False)
        return True

    async def list_all(self, volume: VolumeCalls, directory: Fid) -> Listed:
        """All names of a directory.

        Raises:
            AfsError: ENOTDIR if the Fid is no directory's; else as the fileserver says.
        """
        source = Source.CACHE
        while True:
            known = await self._statuses.status(volume, directory)
            source = max(source, known.source)
            _check_directory(known.vnode)
            listing = self._current(directory, known.vnode)
            if listing is not None and listing.complete:
                return Listed(listing, known.vnode, source)
            landed = await self._flights.run(directory, lambda: self._read(volume, directory))
            source = Source.FILE_SERVER
            if landed.asked_before:
                return landed.value

    def _current(self, directory: Fid, vnode: Vnode) -> Listing | None:
        """The cached listing, if it is of the very DataVersion that was just told."""
        entry = self._cache.get(directory)
        if entry is None or entry.early:
            return None
        listing = entry.current_listing()
        if listing is None or listing.data_version != vnode.data_version:
            return None
        self._cache.touch_listing(entry)
        return listing

    async def _read(self, volume: VolumeCalls, directory: Fid) -> Listed:
        """Reads a directory, and keeps its listing if nothing changed meanwhile."""
        self._journal.count("read_dir_calls")
        request = pb.ReadDirRequest(directory=fid_to_wire(directory))
        vnode: Vnode | None = None
        ticket: Ticket | None = None
        entries: list[DirectoryEntry] = []
        async with aclosing(volume.stream(lambda stub: stub.ReadDir, request)) as messages:
            async for message, ticket in messages:
                if vnode is None:
                    callback = (
                        message.directory_callback
                        if message.HasField("directory_callback")
                        else None
                    )
                    vnode, _ = volume.take_in(message.directory_status, callback, ticket)
                entries += [entry_from_wire(entry) for entry in message.entries]
        if vnode is None or ticket is None:
            raise AfsError(
                AfsCode.VIO, f"volume {volume.name}: a fileserver answered ReadDir with nothing"
            )
        self._journal.tell("directory.fetched", server=ticket.server, fids=(directory,))
        listing = Listing(entries, vnode.data_version, complete=True)
        if len(listing) <= KEEP_NAMES:
            self._cache.keep_listing(ticket, directory, listing, self._servers.now())
        return Listed(listing, vnode, Source.FILE_SERVER)

    async def _look_up(
        self, volume: VolumeCalls, directory: Fid, name: str
    ) -> DirectoryEntry | None:
        """Asks for one name, and notes it under the directory's promise."""
        self._journal.count("lookup_calls")
        request = pb.LookupRequest(directory=fid_to_wire(directory), name=name)
        try:
            response, ticket = await volume.call(lambda stub: stub.Lookup, request)
        except AfsError as error:
            if error.code is AfsCode.ENOENT:
                return None
            raise
        callback = response.callback if response.HasField("callback") else None
        vnode, _ = volume.take_in(response.status, callback, ticket)
        callback = response.directory_callback if response.HasField("directory_callback") else None
        above, _ = volume.take_in(response.directory_status, callback, ticket)
        found = DirectoryEntry(name, vnode.fid, vnode.type)
        self._cache.keep_name(ticket, above, found, self._servers.now())
        return found


def _check_directory(vnode: Vnode) -> None:
    if vnode.type is not VnodeType.DIRECTORY:
        raise AfsError(AfsCode.ENOTDIR, f"{vnode.fid} is not a directory")
