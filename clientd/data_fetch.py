"""One FetchData under way: a run of pieces of one file at one DataVersion. See `file_data`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES, MAX_FILE_BYTES
from afs.types import Fid, Vnode
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire
from clientd.core.piece import PieceKey, piece_count, piece_length
from clientd.core.rotation import RECOVERABLE
from clientd.disk_cache import DiskCache
from clientd.journal import Journal
from clientd.statuses import callback_of
from clientd.volume_calls import VolumeCalls

_log = structlog.get_logger(__name__)

# How far a fetch runs ahead of its foremost reader: enough to hide the network from it.
RUN_AHEAD_PIECES: Final = 16
# A fetch that nobody follows ends after this long, and lets go of the fileserver's stream.
PAUSE_S: Final = 2.0
# Failures after which the rest of a run is not tried again without any progress in between.
MAX_RESTARTS: Final = 3


class DataFetch:
    """Brings pieces `first` to `end` (exclusive).

    Args:
        volume: the one the file is in.
        fid: the file.
        vnode: the file as the reader knows it, of another DataVersion nothing is delivered; None to
            take what comes (see `opened`).
        first: number of the first piece; 0 without a `vnode`.
        end: number after the last piece; may be beyond the end of the file without a `vnode`.
        disk: where pieces are kept.
        slots: bounds the fetches under way.
        journal: counts and tells.
    """

    def __init__(
        self,
        volume: VolumeCalls,
        fid: Fid,
        vnode: Vnode | None,
        first: int,
        end: int,
        *,
        disk: DiskCache,
        slots: asyncio.Semaphore,
        journal: Journal,
    ) -> None:
        self.fid = fid
        self._volume = volume
        self._rotation = volume.rotation()
        self._vnode = vnode
        self._next = first
        self._end = end
        self._disk = disk
        self._slots = slots
        self._journal = journal
        self.readers = 0
        self._wanted = first
        # Readers of pieces to come, and the event that one of them came or went.
        self._waiting: dict[int, list[asyncio.Future[bytes | None]]] = {}
        self._moved = asyncio.Event()
        self._in_hand: tuple[int, bytes] | None = None
        self._ended = False
        self._failure: AfsError | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[Vnode] = asyncio.get_running_loop().create_future()
        # The reader for whom it was begun has not come for the data yet.
        self._held: asyncio.TimerHandle | None = None

    def start(self, on_end: Callable[[DataFetch], None]) -> None:
        """Begins; `on_end` is called once, when it brings nothing more."""
        self._task = asyncio.create_task(self._run())
        # Not a part of `_run`, which does not run at all if it is cancelled at once.
        self._task.add_done_callback(lambda _: self._finish(on_end))

    async def stop(self) -> None:
        """Ends it now."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def opened(self) -> Vnode:
        """The file's status as it came with the data; its reader is expected within PAUSE_S.

        Raises:
            AfsError: as FetchData.
        """
        self.readers += 1
        try:
            vnode = await asyncio.shield(self._opened)
        except BaseException:
            self.leave()
            raise
        self._held = asyncio.get_running_loop().call_later(PAUSE_S, self._let_go)
        return vnode

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self.leave()

    # --- readers ---

    def brings(self, data_version: int, number: int, distance: int) -> bool:
        """True if it will bring the piece before long."""
        at = self._in_hand[0] if self._in_hand is not None else self._next
        return (
            not self._ended
            and self._vnode is not None
            and data_version == self._vnode.data_version
            and at <= number < min(self._end, at + distance)
        )

    def has_in_hand(self, data_version: int, number: int) -> bool:
        """True if the piece has come and is being kept."""
        return (
            self._in_hand is not None
            and self._vnode is not None
            and data_version == self._vnode.data_version
            and number == self._in_hand[0]
        )

    def join(self) -> None:
        """One more reader."""
        self.readers += 1
        self._let_go()

    def leave(self) -> None:
        """One reader less; the last one's leaving ends the fetch, wherever it hangs."""
        self.readers -= 1
        self._moved.set()
        # A piece in hand is kept first; then it sees for itself that nobody is left.
        if self.readers == 0 and self._in_hand is None and self._task is not None:
            self._ended = True
            self._task.cancel()

    def follow(self, number: int) -> None:
        """A reader has come as far as this piece."""
        self._wanted = max(self._wanted, number)
        self._moved.set()

    async def piece(self, number: int) -> bytes | None:
        """The piece, when it comes; None if this fetch does not bring it (any more).

        Raises:
            AfsError: why the fetch failed.
        """
        self.follow(number)
        if self._in_hand is not None and self._in_hand[0] == number:
            return self._in_hand[1]
        if self._failure is not None:
            raise self._failure
        if self._ended or number < self._next or number >= self._end:
            return None
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(number, []).append(future)
        return await future

    # --- the fetch ---

    async def _run(self) -> None:
        try:
            async with self._slots:
                await self._bring_all()
        except AfsError as error:
            self._failure = error
        except Exception as error:
            _log.exception("data_fetch.failed")
            self._failure = AfsError(AfsCode.VNOSERVICE, f"internal error: {type(error).__name__}")

    def _finish(self, on_end: Callable[[DataFetch], None]) -> None:
        """Tells everyone who still waits."""
        self._ended = True
        self._in_hand = None
        on_end(self)
        if not self._opened.done():
            self._opened.set_exception(
                self._failure or AfsError(AfsCode.RX_CALL_DEAD, "the client is stopping")
            )
            # Whoever waited for it may have gone.
            self._opened.exception()
        for future in [future for futures in self._waiting.values() for future in futures]:
            if future.done():
                continue
            if self._failure is not None:
                future.set_exception(self._failure)
            else:
                future.set_result(None)

    async def _bring_all(self) -> None:
        """Fetches the run; goes on where it broke off, also at another fileserver."""
        restarts = 0
        while self._next < self._end and self.readers:
            before = self._next
            try:
                await self._bring()
                return
            except AfsError as error:
                restarts = 0 if self._next > before else restarts + 1
                if error.code not in RECOVERABLE or restarts > MAX_RESTARTS:
                    raise
                if not restarts:
                    self._rotation = self._volume.rotation()

    async def _bring(self) -> None:
        """One FetchData, from the next piece on."""
        self._journal.count("fetch_data_calls")
        offset = self._next * DATA_PIECE_BYTES
        end = min(
            self._end * DATA_PIECE_BYTES, self._vnode.length if self._vnode else MAX_FILE_BYTES
        )
        request = pb.FetchDataRequest(fid=fid_to_wire(self.fid), offset=offset, length=end - offset)
        vnode: Vnode | None = None
        piece = bytearray()
        stream = self._volume.stream(lambda stub: stub.FetchData, request, self._rotation)
        async with aclosing(stream) as messages:
            async for message, ticket in messages:
                if vnode is None:
                    vnode, _ = self._volume.take_in(message.status, callback_of(message), ticket)
                    self._journal.tell("data.fetched", server=ticket.server, fids=(self.fid,))
                    self._open(vnode)
                rest = memoryview(message.data)
                while rest:
                    size = piece_length(vnode.length, self._next)
                    if self._next >= self._end or not size:
                        raise self._misfit("more data than was asked for")
                    taken = rest[: size - len(piece)]
                    # Pieces mostly come whole; then they are not copied.
                    if len(taken) == size == len(message.data):
                        data = message.data
                    else:
                        piece += taken
                        data = bytes(piece) if len(piece) == size else b""
                    rest = rest[len(taken) :]
                    if data:
                        piece.clear()
                        if not await self._deliver(data):
                            return
        if self._next < self._end:
            raise self._misfit("less data than the file has")

    def _open(self, vnode: Vnode) -> None:
        """The first message came."""
        if self._vnode is None:
            self._vnode = vnode
            self._end = min(self._end, piece_count(vnode.length))
            self._opened.set_result(vnode)
        elif vnode.data_version != self._vnode.data_version:
            raise AfsError(
                AfsCode.EAGAIN,
                f"{self.fid} changed while it was read: read it again from the start",
            )

    def _misfit(self, what: str) -> AfsError:
        return AfsError(AfsCode.VIO, f"fileserver {self._volume.in_use} sent {what} for {self.fid}")

    async def _deliver(self, data: bytes) -> bool:
        """Hands the next piece to those who wait for it and keeps it; False to end here."""
        assert self._vnode is not None
        number = self._next
        self._journal.count("bytes_fetched", len(data))
        self._in_hand = (number, data)
        taken = self._hand_out(number, data)
        kept = await self._disk.put(PieceKey(self.fid, self._vnode.data_version, number), data)
        if not kept:
            taken = self._hand_out(number, data) or taken or await self._is_taken(number, data)
        self._next = number + 1
        self._in_hand = None
        if not kept and not taken:
            # Nobody came for it, and it cannot be kept: whoever wants it fetches it again.
            return False
        return await self._is_followed()

    def _hand_out(self, number: int, data: bytes) -> bool:
        futures = [future for future in self._waiting.pop(number, []) if not future.done()]
        for future in futures:
            future.set_result(data)
        return bool(futures)

    async def _is_taken(self, number: int, data: bytes) -> bool:
        """Waits until somebody asks for the piece in hand; False if nobody does."""
        return await self._wait_for(lambda: self._wanted >= number) and (
            self._hand_out(number, data) or True
        )

    async def _is_followed(self) -> bool:
        """Waits until a reader is near; False if none is."""
        return await self._wait_for(lambda: self._next - self._wanted <= RUN_AHEAD_PIECES)

    async def _wait_for(self, condition: Callable[[], bool]) -> bool:
        """True as soon as the condition holds; False when all readers left, or after PAUSE_S."""
        try:
            async with asyncio.timeout(PAUSE_S):
                while self.readers:
                    if condition():
                        return True
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        return False
