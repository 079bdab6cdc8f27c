"""Steps that send and receive dumps of a client."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from afs.errors import AfsCode, AfsError
from afs.v1.dump_pb2 import DumpHeader
from afs.volume.partition import Partition
from volserverd.core.step import Role, StepKind
from volserverd.deeds.fileserver_deeds import FileserverDeeds
from volserverd.deeds.work_state import Deeds


class DumpDeeds(FileserverDeeds):
    """Dumps and restores.

    Attributes:
        received_bytes: of the dump that was received.
        received: what that dump says of itself, once it was found good.
    """

    received_bytes = 0
    received: DumpHeader | None = None

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.SEND: self._send,
            StepKind.RECEIVE: self._receive,
            StepKind.DISCARD_RECEIVED: self._discard_received,
            StepKind.SWAP: self._swap,
            StepKind.RESERVE_TEMPORARY_ID: self._reserve_temporary_id,
            StepKind.FREE_TEMPORARY_ID: self._free_temporary_id,
        }

    async def _send(self, role: Role) -> None:
        disk = self._services.disk
        opening = partial(disk.pieces, self._partition, self.ids[role], since=self._order.since)
        try:
            source = await opening()
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # A fileserver that was restarted meanwhile has it open, as it opens all there is.
            await self._take(role)
            source = await opening()
        try:
            while (piece := await disk.run(next, source, b"")) != b"":
                await self._order.pieces.put(piece)
                self._operation.touch()
            await self._order.pieces.end()
        finally:
            await disk.run(_close, source)

    async def _receive(self, role: Role) -> None:
        disk = self._services.disk
        restore = self._restore = await disk.restore(
            self._partition, self.ids[role], self._order.name
        )
        try:
            while (piece := await self._order.pieces.get()) is not None:
                await disk.run(restore.feed, piece)
                self.received_bytes += len(piece)
                self._operation.touch()
            await disk.run(restore.finish)
            self.received = restore.dump_header
        except BaseException:
            await self._discard_received(role)
            raise

    async def _discard_received(self, role: Role) -> None:
        if self._restore is not None:
            await self._services.disk.run(self._restore.close)
            self._restore = None
            await self._services.disk.run(_clear_group, self._partition, self.ids[role])

    async def _reserve_temporary_id(self, role: Role) -> None:
        """For a dump that is received as if for a volume that does not exist."""
        self.ids[role] = await self._services.disk.temporary_id()

    async def _free_temporary_id(self, role: Role) -> None:
        await self._services.disk.delete_temporary(self._partition, self.ids[role])

    async def _swap(self, role: Role) -> None:
        assert self._restore is not None
        put_in_place = self._restore.put_in_place
        await self._verified([role], lambda: self._services.disk.run(put_in_place))


def _clear_group(partition: Partition, volume_id: int) -> None:
    """Removes the folder that was made for a volume that did not come to be."""
    group = partition.group_for(volume_id)
    if group.path.is_dir():
        group.remove_if_empty()


def _close(source: Iterator[bytes]) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()
