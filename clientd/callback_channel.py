"""Keeps the callback channel to one fileserver open, and does what comes down it.

The rules are in `core.channel` and `core.cache`; here are the stream, the timer and the order of
things: a message is taken in in memory first, in one step without an await, and only then is its
acknowledgement queued. Where there is a mount, the kernel is told before that what is stale; if it
takes a while, the acknowledgement, and every later one, is held back so long (`kernel_door`; that
is bounded). Renewals of the lease are not held back. Nothing here waits for a fetch, a disk or a
local program, so breaks are handled however stuck those are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from afs.runtime.channel import afs_error_from_rpc
from afs.runtime.clock import Clock
from afs.runtime.driver import Driver
from afs.types import BreakReason, Fid
from afs.v1 import callback_channel_pb2 as pb
from afs.v1 import callback_channel_pb2_grpc, types_pb2
from clientd.core.cache import VnodeCache
from clientd.core.channel import Instruction, Reattach, SendAck, SendRenewLease
from clientd.journal import Journal
from clientd.kernel_door import KernelDoor

# After a lost channel: at once, then slower; a fileserver that restarts is back within seconds.
REATTACH_FIRST_S: Final = 0.05
REATTACH_MAX_S: Final = 1.0
# A fileserver that sends and does not read our acks: beyond this many unsent ones it is left.
MAX_UNSENT: Final = 10_000

_GONE_REASONS: Final = (BreakReason.VOLUME_MOVED, BreakReason.VOLUME_DELETED)

_log = structlog.get_logger(__name__)


class CallBackChannel:
    """The channel to one fileserver. `run` keeps it open until cancelled.

    Args:
        address: the fileserver's.
        stub: of the service, on a connection of its own or shared with the calls.
        host_uuid: who we are.
        cache: takes in what comes.
        kernel: knows what is stale before it is acknowledged.
        clock: steady time.
        journal: counts and tells.
        on_volume_gone: told the id of a volume that moved or was deleted.
    """

    def __init__(
        self,
        address: str,
        stub: callback_channel_pb2_grpc.CallBackChannelAsyncStub,
        *,
        host_uuid: str,
        cache: VnodeCache,
        kernel: KernelDoor,
        clock: Clock,
        journal: Journal,
        on_volume_gone: Callable[[int], None],
    ) -> None:
        self._address = address
        self._stub = stub
        self._metadata = (("afs-host-uuid", host_uuid),)
        self._cache = cache
        self._kernel = kernel
        self._clock = clock
        self._journal = journal
        self._on_volume_gone = on_volume_gone
        self._state = cache.server(address).channel
        self._driver = Driver(deadline=self._state.deadline, tick=self._tick, clock=clock)
        self._outgoing: asyncio.Queue[pb.AttachRequest] = asyncio.Queue()
        # What the kernel is being told, and the sequences to be acknowledged after that, in order.
        self._held: deque[tuple[asyncio.Future[None], int]] = deque()
        self._leave = asyncio.Event()
        self._retry_s = REATTACH_FIRST_S
        self.attached = asyncio.Event()
        self._away_since = clock.now()

    @property
    def away_for_s(self) -> float:
        """For how long there has been no channel."""
        return 0.0 if self.attached.is_set() else self._clock.now() - self._away_since

    async def run(self) -> None:
        """Attaches, and attaches anew whenever the channel is lost."""
        try:
            while True:
                why = await self._attach_once()
                _log.debug("attachment.ended", server=self._address, why=why)
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(self._retry_s * 2, REATTACH_MAX_S)
        finally:
            self._driver.close()

    # --- what the rest of the client notices ---

    def on_stall(self) -> None:
        """The process stood still."""
        self._do(self._state.on_stall(self._clock.now()))

    def on_epoch_seen(self, epoch: int) -> None:
        """A reply named the fileserver's epoch."""
        self._do(self._state.on_epoch_seen(epoch))

    def on_held_down(self) -> None:
        """The fileserver refused a call because it holds this host to be down."""
        self._do(self._state.on_held_down())

    # --- one attachment ---

    async def _attach_once(self) -> str:
        """Opens the stream and stays with it; returns why it ended."""
        call = self._stub.Attach(metadata=self._metadata, wait_for_ready=True)
        self._outgoing = asyncio.Queue()
        self._held.clear()
        self._leave.clear()
        self._outgoing.put_nowait(pb.AttachRequest(hello=self._hello()))
        self._state.on_opened(self._clock.now())
        self._driver.poke()
        tasks = [
            asyncio.create_task(self._receive(call)),
            asyncio.create_task(self._send(call, self._outgoing)),
            asyncio.create_task(self._leave.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # First of all, before anything is awaited: no promise is trusted without its channel.
            self._lost()
            for task in tasks:
                task.cancel()
            call.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, grpc.aio.AioRpcError):
                return str(afs_error_from_rpc(end))
            if isinstance(end, Exception):
                raise end
        return "left" if self._leave.is_set() else "closed by the fileserver"

    def _hello(self) -> pb.Hello:
        held = self._state.held
        if held is None:
            return pb.Hello(client="clientd")
        resumes = pb.CallBackSession(epoch=held.epoch, sequence=held.sequence)
        return pb.Hello(client="clientd", resumes=resumes)

    async def _receive(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._take_in(message)

    async def _send(self, call: Any, outgoing: asyncio.Queue[pb.AttachRequest]) -> None:
        while True:
            await call.write(await outgoing.get())

    def _lost(self) -> None:
        if self.attached.is_set():
            self.attached.clear()
            self._away_since = self._clock.now()
            _log.info("channel.lost", server=self._address)
            self._journal.count("channels_lost")
            self._journal.tell("channel.lost", server=self._address)
        self._cache.on_lost(self._address)
        self._driver.poke()

    # --- messages ---

    def _take_in(self, message: pb.AttachResponse) -> None:
        """Does what a message says, all in memory, then queues the acknowledgement."""
        if self._leave.is_set():
            # We have left already; what this channel says binds nobody any more.
            return
        match message.WhichOneof("message"):
            case "init_callback_state":
                self._reset(message.init_callback_state)
            case "break":
                # `break` is a word of Python's.
                self._break(getattr(message, "break"))
            case "probe":
                probe = message.probe
                if probe.renews:
                    self._journal.count("lease_renewals")
                self._do(self._state.on_probe(probe.sequence, probe.renews, self._clock.now()))
            case _:
                pass

    def _reset(self, init: pb.InitCallBackState) -> None:
        goes_on = self._state.goes_on(kept=init.kept)
        instructions = self._cache.on_init(
            self._address,
            sequence=init.sequence,
            epoch=init.epoch,
            lease_s=init.channel_lease_s,
            now=self._clock.now(),
            kept=init.kept,
        )
        if goes_on:
            kept = self._cache.server(self._address).standing(self._clock.now())
            self._journal.count("resumptions")
            self._journal.tell(
                "callbacks.kept", server=self._address, sequence=init.sequence, count=kept
            )
            _log.info("callbacks.kept", server=self._address, promises=kept)
        else:
            self._journal.count("resets_received")
            self._journal.tell("callbacks.reset", server=self._address, sequence=init.sequence)
        self._do(instructions)
        if not self.attached.is_set():
            self._retry_s = REATTACH_FIRST_S
            self.attached.set()
            _log.info("channel.attached", server=self._address, epoch=init.epoch)
            self._journal.tell("channel.attached", server=self._address)

    def _break(self, message: pb.Break) -> None:
        targets = [_target(fid) for fid in message.targets]
        reason = _reason(message.reason)
        ended = self._cache.on_break(
            self._address, targets=targets, through=message.through, reason=reason
        )
        if reason in _GONE_REASONS:
            for target in targets:
                self._on_volume_gone(target.volume)
        self._journal.count("breaks_received")
        self._journal.count("promises_broken", ended)
        self._do(self._state.on_break(message.sequence))
        self._journal.tell(
            "callbacks.broken",
            server=self._address,
            fids=targets,
            reason=reason,
            sequence=message.sequence,
            count=ended,
        )

    def _tick(self, now: float) -> None:
        self._do(self._state.on_tick(now))

    def _do(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SendAck(sequence):
                    self._acknowledge(sequence)
                case SendRenewLease(number):
                    self._put(pb.AttachRequest(renew_lease=pb.RenewLease(number=number)))
                case Reattach(reason):
                    _log.debug("channel.left", server=self._address, reason=reason.value)
                    self._leave.set()
                    self._lost()
        self._driver.poke()

    def _acknowledge(self, sequence: int) -> None:
        """Acknowledges as soon as the kernel knows what is stale by now."""
        settling = self._kernel.settle()
        if settling is None and not self._held:
            self._put(pb.AttachRequest(ack=pb.Ack(sequence=sequence)))
            return
        if settling is None:
            settling = self._held[-1][0]
        self._held.append((settling, sequence))
        settling.add_done_callback(self._release)

    def _release(self, _: asyncio.Future[None]) -> None:
        while self._held and self._held[0][0].done():
            _, sequence = self._held.popleft()
            self._put(pb.AttachRequest(ack=pb.Ack(sequence=sequence)))

    def _put(self, message: pb.AttachRequest) -> None:
        if self._outgoing.qsize() >= MAX_UNSENT:
            self._leave.set()
            return
        self._outgoing.put_nowait(message)


def _target(fid: types_pb2.Fid) -> Fid:
    return Fid(fid.volume, fid.vnode, fid.uniquifier)


def _reason(number: int) -> BreakReason | None:
    """The reason, None for one that a newer fileserver may know."""
    try:
        return BreakReason(number)
    except ValueError:
        return None
