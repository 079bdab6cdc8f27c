"""What all methods of VolServer rest on: claims, and operations that outlive their call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.v1 import vol_server_pb2
from afs.volume.partition import Partition
from volserverd.core.step import Step
from volserverd.finding import FoundVolume, describe, find_volume
from volserverd.fssync_client import FssyncClient
from volserverd.operations import Operation, Operations
from volserverd.recovery import Recovery
from volserverd.vldb.entry import Entry, kept_backup_id, kept_read_only_id
from volserverd.volume_work import VolumeWork
from volserverd.work_order import VolumeServices

# How long a volume is out of service, at the least: taking it, swapping a database, giving it back.
EXCLUSIVE_BASE_S: Final = 0.05
# Finds out what there is to do: who does it, and in which steps.
Prepare = Callable[[Operation], Awaitable[tuple[VolumeWork, Sequence[Step]]]]


class VolServerParts:
    """Shared by the servicer's methods, which are grouped by kind in classes that inherit this."""

    def __init__(
        self,
        services: VolumeServices,
        fssync: FssyncClient,
        operations: Operations,
        recovery: Recovery,
    ) -> None:
        self.services = services
        self.fssync = fssync
        self.operations = operations
        self.recovery = recovery

    def begin(
        self, name: str, prepare: Prepare, *, streams: bool = False
    ) -> tuple[Operation, asyncio.Task[VolumeWork]]:
        """Starts an operation; its task's result is the worker that did it."""

        async def run(operation: Operation) -> VolumeWork:
            await self.recovery.ready()
            worker, steps = await prepare(operation)
            await operation.work(worker, steps)
            return worker

        return self.operations.start(name, run, streams=streams)

    async def operate(self, name: str, prepare: Prepare) -> VolumeWork:
        """Runs an operation to its end. If the client hangs up before, it is undone."""
        operation, task = self.begin(name, prepare)
        return await self.outcome(operation, task)

    async def outcome(self, operation: Operation, task: asyncio.Task[VolumeWork]) -> VolumeWork:
        """Waits for an operation; a client that hangs up meanwhile has it undone."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            operation.ask_to_end(hung_up())
            raise

    async def claim(
        self, operation: Operation, text: str, *, whole_group: bool = False
    ) -> FoundVolume:
        """Finds a volume and claims it; with `whole_group` also those that are clones of it."""
        found = await find_volume(self.services, text)
        volume_ids = {found.volume_id}
        if whole_group:
            read_write_id = found.read_write_id
            volume_ids |= {
                read_write_id,
                kept_read_only_id(read_write_id),
                kept_backup_id(read_write_id),
            }
        operation.claim(volume_ids, found.name)
        # It may have been deleted or moved before the claim.
        again = await find_volume(self.services, text)
        if again.volume_id != found.volume_id:
            raise AfsError(AfsCode.EAGAIN, f"volume {text} has just changed: try again")
        return again

    async def detail(self, partition: Partition, volume_id: int) -> vol_server_pb2.VolumeDetail:
        """Everything about one volume."""
        return await describe(self.services.disk, self.fssync, partition, volume_id)


def hung_up() -> AfsError:
    """What an operation is told when nobody waits for it any more."""
    return AfsError(AfsCode.RX_CALL_DEAD, "the client hung up")


def check_is_here(found: FoundVolume) -> None:
    """VNOVOL for a volume that only the location database knows."""
    if not found.on_disk:
        raise AfsError(
            AfsCode.VNOVOL,
            f"volume {found.name} is in the location database, but not on partition"
            f" {found.partition.name}",
        )


def check_read_write(found: FoundVolume, what: str) -> None:
    """EROFS for a volume that is not read-write, so that it cannot be `what`."""
    if found.type is not VolumeType.READ_WRITE:
        raise AfsError(
            AfsCode.EROFS, f"volume {found.name} is not read-write, so it cannot be {what}"
        )


def check_entry(found: FoundVolume) -> Entry:
    """The volume's location entry; VNOVOL if it has none."""
    if found.entry is None:
        raise AfsError(AfsCode.VNOVOL, f"volume {found.name} is not in the location database")
    return found.entry
