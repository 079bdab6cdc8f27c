"""Steps that send and receive dumps of a client."""

from __future__ import annotations

from collections.abc import Iterator

from afs.errors import AfsCode, AfsError
from volserverd.core.step import Role, StepKind
from volserverd.deeds.fileserver_deeds import FileserverDeeds
from volserverd.deeds.work_state import Deeds


class DumpDeeds(FileserverDeeds):
    """Dumps and restores."""

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.SEND: self._send,
            StepKind.RECEIVE: self._receive,
            StepKind.DISCARD_RECEIVED: self._discard_received,
            StepKind.SWAP: self._swap,
        }

    async def _send(self, role: Role) -> None:
        disk = self._services.disk
        try:
            source = await disk.pieces(self._partition, self.ids[role])
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # As above: a fileserver that was restarted has it open.
            await self._take(role)
            source = await disk.pieces(self._partition, self.ids[role])
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
                self._operation.touch()
            await disk.run(restore.finish)
        except BaseException:
            await self._discard_received(role)
            raise

    async def _discard_received(self, _: Role) -> None:
        if self._restore is not None:
            await self._services.disk.run(self._restore.close)
            self._restore = None

    async def _swap(self, role: Role) -> None:
        assert self._restore is not None
        put_in_place = self._restore.put_in_place
        await self._verified([role], lambda: self._services.disk.run(put_in_place))


def _close(source: Iterator[bytes]) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()
