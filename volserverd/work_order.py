"""What an operation is about, and what it works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from afs.limits import DUMP_PIECES_BUFFERED
from afs.v1 import fssync_pb2, vol_transfer_pb2
from afs.volume.partition import Partition
from afs.volume.volume import SetVolumeFields
from volserverd.checkouts import Checkouts
from volserverd.core.step import Role
from volserverd.disk import Disk
from volserverd.locations import Locations
from volserverd.piece_queue import PieceQueue
from volserverd.vldb.entry import Entry, Site


@dataclass(frozen=True, slots=True)
class VolumeServices:
    """What work on volumes needs.

    `identity` tells our locks in the location database from those of others; `file_server` and
    `vol_server` are the addresses under which it tells of our volumes.
    """

    disk: Disk
    checkouts: Checkouts
    locations: Locations
    identity: str
    file_server: str
    vol_server: str

    def lock_text(self, operation: str) -> str:
        """What an entry is locked for by an operation of ours."""
        return f"{operation} by volserver {self.identity}"

    def is_ours(self, lock_text: str) -> bool:
        """True for a lock of ours, or of our predecessor."""
        return lock_text.endswith(f" by volserver {self.identity}")

    def is_our_site(self, site: Site) -> bool:
        """True for a site on a partition of ours, by our present address."""
        return site.vol_server == self.vol_server and site.partition in self.disk.partitions

    def site(self, partition: str) -> Site:
        """Our site on a partition."""
        return Site(self.file_server, self.vol_server, partition)


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """Where a volume is sent, and as what.

    Args:
        purpose: move or copy.
        server: "host:port" of the target's VolServer.
        partition: its name there; empty: the first one.
        new_name: of a copy.
        dry_run: nothing is sent or changed.
    """

    purpose: vol_transfer_pb2.TransferPurpose.ValueType
    server: str
    partition: str
    new_name: str = ""
    dry_run: bool = False


@dataclass(slots=True)
class WorkOrder:
    """What an operation is about, as far as it is known when it begins.

    Args:
        partition: where.
        reason: what the fileserver is told the volumes are taken for.
        ids: the volumes by their roles; 0 for one that is to be created and may have any id.
        asked_id: the id that somebody asked to be deleted.
        name: of the volume.
        max_quota_kib: of a volume to create.
        entry: the location entry, if there is one.
        fields: what to set in the header.
        since: a dump holds only what changed after this change counter; 0: everything.
        site: the site that is to go from the entry.
        transfer: where the volume goes.
        pieces: a dump's bytes, to the client (SEND) or from it (RECEIVE).
    """

    partition: Partition
    reason: fssync_pb2.FsyncReason.ValueType
    ids: dict[Role, int]
    name: str = ""
    max_quota_kib: int = 0
    asked_id: int = 0
    entry: Entry | None = None
    fields: SetVolumeFields | None = None
    since: int = 0
    site: Site | None = None
    transfer: TransferOrder | None = None
    pieces: PieceQueue = field(default_factory=lambda: PieceQueue(DUMP_PIECES_BUFFERED))
