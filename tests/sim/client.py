"""A client machine: the real cores of clientd, with simulated shells.

Each method does what its namesake under `clientd/` does, in the same order and with awaits in the
same places: `CallBackChannel`, `FileServerClient`, `Statuses`, `Directories`, `Changes`, `Writing`,
`SingleFlight`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar

from afs.errors import AfsCode, AfsError
from afs.types import DirectoryEntry, Fid, Vnode, VnodeType
from afsd.core.hosts import SessionName
from clientd.callback_channel import REATTACH_FIRST_S, REATTACH_MAX_S
from clientd.core.cache import VnodeCache
from clientd.core.channel import Instruction, Reattach, SendAck, SendRenewLease
from clientd.core.entry import CacheEntry
from clientd.core.listing import AddName, Edit, Listing, RemoveName
from clientd.core.marks import BreakMarks
from clientd.core.patience import Patience
from clientd.core.promise import Promise, PromiseOffer, Ticket
from clientd.core.stall import TURN_S, StallDetector
from clientd.fileserver_client import ATTACH_PATIENCE_S, CALL_TIMEOUT_S, OUTCOME_UNKNOWN_S
from tests.sim.checker import Checker, ensure
from tests.sim.disk import GONE, Disk
from tests.sim.file_server import (
    Ack,
    Answer,
    Break,
    Cancel,
    Hello,
    Init,
    Offer,
    Probe,
    RenewLease,
    Reply,
    Request,
)
from tests.sim.kernel import Future, Level, Process, Task, sleep, within
from tests.sim.network import Connection

ADDRESS = "fileserver:7000"

K = TypeVar("K")
V = TypeVar("V")


class CallFailedError(AfsError):
    """A call failed; `refused` if the fileserver itself said no: then surely nothing was done."""

    def __init__(self, code: AfsCode, detail: str, *, refused: bool) -> None:
        super().__init__(code, detail)
        self.refused = refused


class Connecting(Protocol):
    """Opens a connection to the fileserver, if there is a way."""

    def __call__(
        self,
        kind: str,
        receive: Callable[[object], None],
        on_lost: Callable[[], None],
    ) -> Connection | None:
        """The connection; None if it cannot be had now."""


class _Flight(Generic[V]):
    def __init__(self) -> None:
        self.task: Task[V] | None = None
        self.begun = False


class SingleFlight(Generic[K, V]):
    """One fetch for many who want the same, as `clientd.single_flight`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._flights: dict[K, _Flight[V]] = {}

    async def run(self, key: K, fetch: Callable[[], Awaitable[V]]) -> tuple[V, bool]:
        """What the flight brought, and whether the caller asked before it began."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = self._process.spawn(self._fly(key, flight, fetch))
        assert flight.task is not None
        asked_before = not flight.begun
        return await flight.task, asked_before

    async def _fly(self, key: K, flight: _Flight[V], fetch: Callable[[], Awaitable[V]]) -> V:
        flight.begun = True
        try:
            return await fetch()
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]


class Known(NamedTuple):
    """A status, and whether it was under a promise when it was told."""

    vnode: Vnode
    from_cache: bool


class Client:
    """One life of a client.

    Args:
        process: its process; a new one for every life.
        uuid: its host UUID, which outlives it.
        connect: opens connections.
        disk: of the fileserver; for the checker's eyes only.
        checker: told of everything that matters.
        rng: for delays.
        tell: notes one line of the history.
        max_vnodes: statuses that it remembers.
        max_marks: breaks that it remembers.
    """

    def __init__(
        self,
        process: Process,
        uuid: str,
        connect: Connecting,
        disk: Disk,
        checker: Checker,
        rng: random.Random,
        tell: Callable[..., None],
        *,
        max_vnodes: int,
        max_marks: int,
    ) -> None:
        self.process = process
        self.uuid = uuid
        self.cache = VnodeCache(max_vnodes=max_vnodes)
        server = self.cache.server(ADDRESS)
        server.marks = BreakMarks(max_marks)
        self.state = server.channel
        self.attached = Level()
        self.never_acks = False
        self.is_eager = False
        self.files: list[Fid] = []
        self.waiting = 0
        self._disk = disk
        self._checker = checker
        self._rng = rng
        self._tell = tell
        self._connect = connect
        self._stall = StallDetector(process.now())
        self._turned_at = process.now()
        self._frozen_since_turn = False
        self._attachable = True
        self._changing_names = 0
        # What was promised in an earlier life of the fileserver, and kept.
        self._kept: dict[Fid, Promise | None] = {}
        self._retry_s = REATTACH_FIRST_S
        self._leave: Future[str] = Future()
        self._stream: Connection | None = None
        self._armed: float | None = None
        self._calls: Connection | None = None
        self._pending: dict[int, Future[Answer]] = {}
        self._numbers = count(1)
        self._status_flights: SingleFlight[Fid, Known] = SingleFlight(process)
        self._list_flights: SingleFlight[Fid, tuple[Listing, Vnode]] = SingleFlight(process)
        process.start(self._keep_attached())

    # --- standing still ---------------------------------------------------------------------------

    def _virtual_turns(self) -> None:
        """The timer that the loop turns every TURN_S, made up for when somebody looks."""
        now = self.process.now()
        turns = int((now - self._turned_at) / TURN_S)
        if turns and not self._frozen_since_turn:
            self._turned_at += turns * TURN_S
            self._stall.turn(self._turned_at)

    def freeze(self) -> None:
        """SIGSTOP."""
        self._virtual_turns()
        self._frozen_since_turn = True
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT; the timer is overdue and comes round among everything else."""
        if self.process.frozen:
            self.process.backlog.append((self._turn, ()))
            self.process.thaw(self._rng)

    def _turn(self) -> None:
        self._frozen_since_turn = False
        self._turned_at = self.process.now()
        if self._stall.turn(self._turned_at):
            self._stalled()

    def _stalled(self) -> None:
        self._do(self.state.on_stall(self.process.now()))

    def trusted(self, fid: Fid) -> CacheEntry | None:
        """The cached entry, if it may be answered from now; looks first whether we stood still."""
        self._virtual_turns()
        now = self.process.now()
        if self._stall.look(now):
            self._stalled()
        return self.cache.trusted(fid, now)

    # --- the callback channel ---------------------------------------------------------------------

    async def _keep_attached(self) -> None:
        while True:
            await self._attach_once()
            await sleep(self.process, self._retry_s)
            self._retry_s = min(self._retry_s * 2, REATTACH_MAX_S)

    async def _attach_once(self) -> None:
        leave = self._leave = Future()
        self.state.on_opened(self.process.now())
        self._poke()
        while not leave.done:
            stream = self._connect(
                "breaks", self._take_in, lambda: leave.set("the connection is gone")
            )
            if stream is not None:
                self._stream = stream
                held = self.state.held
                resumes = None if held is None else SessionName(held.epoch, held.sequence)
                stream.up.send(Hello(self.uuid, resumes))
                break
            await within(self.process, leave, self._rng.uniform(0.1, 1.0))
        why = await leave
        self._lost()
        self._tell(self.uuid, "channel lost", why=why)
        if self._stream is not None:
            self._stream.close_at_client()
            self._stream = None

    def _lost(self) -> None:
        self.attached.clear()
        self.cache.on_lost(ADDRESS)
        self._poke()

    def _take_in(self, message: object) -> None:
        if self._leave.done:
            return
        now = self.process.now()
        match message:
            case Init():
                self._init(message)
                self._retry_s = REATTACH_FIRST_S
                self.attached.set()
            case Break():
                self._break(message)
            case Probe(renews):
                self._do(self.state.on_probe(0, renews, now))
            case _:
                self._leave.set("closed by the fileserver")

    def _init(self, message: Init) -> None:
        goes_on = self.state.goes_on(kept=message.kept)
        instructions = self.cache.on_init(
            ADDRESS,
            sequence=message.sequence,
            epoch=message.epoch,
            lease_s=message.lease_s,
            now=self.process.now(),
            kept=message.kept,
        )
        self._tell(self.uuid, "takes in InitCallBackState", sequence=message.sequence, kept=goes_on)
        if goes_on:
            self._checker.kept_taken_in(self.uuid, message.epoch)
            self._kept = {
                fid: entry.promise
                for entries in self.cache.server(ADDRESS).promised.values()
                for fid, entry in entries.items()
            }
            self.process.start(self._read_kept())
        else:
            self._checker.reset_taken_in(self.uuid, self._committed())
        self._do(instructions)

    async def _read_kept(self) -> None:
        """Somebody comes to see what was kept, at about the time of the first renewal's answer."""
        await sleep(self.process, self._rng.uniform(0.0, 0.5))
        for fid in sorted(self._kept):
            if fid in self.files:
                self.process.start(self.read(fid, data=False))

    def _break(self, message: Break) -> None:
        self.cache.on_break(
            ADDRESS,
            targets=message.targets,
            through=message.through,
            reason=message.reason,
        )
        self._tell(
            self.uuid,
            "takes in Break",
            targets=[*map(str, message.targets)],
            through=message.through,
        )
        self._checker.break_taken_in(self.uuid, message.epoch, message.targets, message.through)
        self._do(self.state.on_break(message.sequence))
        if self.is_eager:
            for target in message.targets:
                for fid in self.files:
                    if fid == target or (target.is_whole_volume and fid.volume == target.volume):
                        self.process.start(self.read(fid, data=False))

    def _committed(self) -> dict[Fid, int]:
        return {
            fid: version
            for volume in self._disk.volumes.values()
            if volume.holder == "fileserver"
            for fid, version in volume.versions.items()
        }

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SendAck(sequence):
                    if not self.never_acks:
                        self._put(Ack(sequence))
                case SendRenewLease(number):
                    self._put(RenewLease(number))
                case Reattach(reason):
                    self._lost()
                    self._leave.set(reason.value)
        self._poke()

    def _put(self, message: Ack | RenewLease) -> None:
        if self._stream is not None and not self._stream.lost_at_client:
            self._stream.up.send(message)

    def _poke(self) -> None:
        due = self.state.deadline()
        if due is not None and due != float("inf") and (self._armed is None or due < self._armed):
            self._armed = due
            real = self.process.clock.real(due) + 1e-9
            self.process.kernel.at(real, self.process, self._tick, due)

    def _tick(self, due: float) -> None:
        if self._armed != due:
            return
        self._armed = None
        deadline = self.state.deadline()
        if deadline is not None and deadline <= self.process.now():
            self._do(self.state.on_tick(self.process.now()))
        self._poke()

    # --- calls ------------------------------------------------------------------------------------

    async def call(
        self, method: str, fid: Fid, name: str = "", *, repeatable: bool = True
    ) -> tuple[Reply, Ticket]:
        """Calls, again if need be; raises AfsError."""
        patience = Patience(self.process.now())
        lost = False
        while True:
            await self._wait_attached(ATTACH_PATIENCE_S if repeatable else CALL_TIMEOUT_S)
            ticket = self.cache.ticket(ADDRESS, self.process.now())
            try:
                return await self._rpc(method, fid, name), ticket
            except CallFailedError as error:
                if error.refused and error.code is AfsCode.RX_CALL_DEAD:
                    self._do(self.state.on_held_down())
                lost = lost or not error.refused
                repeat = repeatable or error.refused
                wait_s = patience.wait_s(error, self.process.now()) if repeat else None
                if wait_s is None:
                    # An earlier attempt may have been done.
                    raise CallFailedError(error.code, error.detail, refused=not lost) from None
                await sleep(self.process, wait_s)

    async def _wait_attached(self, patience_s: float) -> None:
        if self.attached.is_set:
            self._attachable = True
        elif self._attachable:
            self._attachable = await self.attached.wait(self.process, patience_s)

    async def _rpc(self, method: str, fid: Fid, name: str) -> Reply:
        if self._calls is None or self._calls.lost_at_client:
            self._calls = self._connect("calls", self._take_answer, self._calls_lost)
        if self._calls is None:
            # gRPC fails a call fast while it cannot connect; nothing reached the fileserver, but
            # clientd cannot tell.
            await sleep(self.process, self._rng.uniform(0.0, 0.2))
            raise CallFailedError(AfsCode.RX_CALL_DEAD, "no connection", refused=False)
        number = next(self._numbers)
        answered: Future[Answer] = Future()
        self._pending[number] = answered
        connection = self._calls
        connection.up.send(Request(number, self.uuid, method, fid, name))
        if not await within(self.process, answered, CALL_TIMEOUT_S):
            self._pending.pop(number, None)
            if not connection.lost_at_client:
                connection.up.send(Cancel(number))
            raise CallFailedError(AfsCode.RX_CALL_DEAD, "no answer", refused=False)
        answer = answered.result()
        if answer.error is not None:
            code = AfsCode.RX_CALL_DEAD if answer.outcome_unknown else answer.error.code
            refused = not answer.outcome_unknown
            raise CallFailedError(code, answer.error.detail, refused=refused)
        self._do(self.state.on_epoch_seen(answer.epoch))
        assert answer.reply is not None
        return answer.reply

    def _take_answer(self, message: object) -> None:
        if isinstance(message, Answer):
            pending = self._pending.pop(message.number, None)
            if pending is not None:
                pending.set(message)
        else:
            self._calls_lost()

    def _calls_lost(self) -> None:
        self._calls = None
        pending, self._pending = self._pending, {}
        for answered in pending.values():
            answered.fail(CallFailedError(AfsCode.RX_CALL_DEAD, "answer lost", refused=False))

    def _take_in_status(self, vnode: Vnode, offer: Offer | None, ticket: Ticket) -> None:
        self.cache.apply_fetched(ticket, vnode, _offer(offer), self.process.now())

    # --- what local programs do -------------------------------------------------------------------

    async def read(self, fid: Fid, *, data: bool) -> None:
        """A local program asks for a file's status, or for its data."""
        floor = self._checker.floor(self.uuid, fid)
        called_at = self.process.kernel.now
        self.waiting += 1
        try:
            known = await self._status(fid, "FetchData" if data else "FetchStatus")
            version, from_cache = known.vnode.data_version, known.from_cache
        except AfsError as error:
            self.waiting -= 1
            if error.code is not AfsCode.VNOVNODE:
                return
            version, from_cache = GONE, False
        else:
            self.waiting -= 1
        self._told(fid, version, floor, called_at, from_cache=from_cache)

    async def list_names(self, directory: Fid) -> None:
        """A local program lists a directory."""
        floor = self._checker.floor(self.uuid, directory)
        called_at = self.process.kernel.now
        self.waiting += 1
        try:
            listing, known, was_kept = await self._list_all(directory)
        except AfsError:
            self.waiting -= 1
            return
        self.waiting -= 1
        vnode = known.vnode
        # What is kept may have a change of our own in it already whose answer is under way.
        if was_kept and not self._changing_names:
            names = frozenset(entry.name for entry in listing.in_order())
            volume = self._disk.volumes[directory.volume]
            ensure(
                names == volume.listings[vnode.data_version],
                "listing",
                f"{self.uuid} has {sorted(names)} for version {vnode.data_version} of {directory}",
            )
        self._told(directory, vnode.data_version, floor, called_at, from_cache=known.from_cache)

    def _told(
        self, fid: Fid, version: int, floor: int, called_at: float, *, from_cache: bool
    ) -> None:
        now = self.process.kernel.now
        self._tell(
            self.uuid,
            f"reads {fid}: version {version} {'from its cache' if from_cache else 'fetched'}",
            asked=round(called_at, 3),
        )
        self._checker.read(
            self.uuid,
            fid,
            version,
            floor=floor,
            called_at=called_at,
            answered_at=now,
            from_cache=from_cache,
        )

    async def write(self, fid: Fid) -> None:
        """A local program writes a file."""
        self.waiting += 1
        try:
            reply, ticket = await self.call("StoreData", fid)
        except CallFailedError as error:
            if not error.refused:
                self.cache.distrust([fid], self.process.now() + OUTCOME_UNKNOWN_S)
                self._distrusts([fid])
            self.waiting -= 1
            return
        self._changed(reply, ticket)
        self.waiting -= 1

    async def create(self, directory: Fid, name: str) -> None:
        """A local program makes a file."""
        await self._change_name("CreateFile", directory, name, [])

    async def remove(self, directory: Fid, name: str) -> None:
        """A local program removes a file."""
        self.waiting += 1
        try:
            listing, _, _ = await self._list_all(directory)
        except AfsError:
            return
        finally:
            self.waiting -= 1
        found = listing.find(name)
        if isinstance(found, DirectoryEntry):
            await self._change_name("RemoveFile", directory, name, [found.fid])

    async def _change_name(self, method: str, directory: Fid, name: str, fids: list[Fid]) -> None:
        self.waiting += 1
        self._changing_names += 1
        try:
            reply, ticket = await self.call(method, directory, name, repeatable=False)
        except CallFailedError as error:
            self._changing_names -= 1
            if not error.refused:
                self.cache.distrust([directory, *fids], self.process.now() + OUTCOME_UNKNOWN_S)
                self._distrusts([directory, *fids])
            self.waiting -= 1
            return
        self._changing_names -= 1
        assert reply.directory is not None
        edits: list[Edit]
        if method == "CreateFile":
            self._changed(reply, ticket)
            edits = [AddName(DirectoryEntry(name, reply.vnode.fid, VnodeType.FILE))]
            self.cache.apply_directory_changed(reply.directory, edits, self.process.now())
        else:
            edits = [RemoveName(name)]
            self.cache.apply_directory_changed(reply.directory, edits, self.process.now())
            self.cache.forget(fids[0])
            self._checker.own_change(self.uuid, {reply.vnode.fid: GONE})
        self._checker.own_change(self.uuid, {directory: reply.directory.data_version})
        self.waiting -= 1

    def _distrusts(self, fids: list[Fid]) -> None:
        """What may have happened already must be seen from now on."""
        committed = self._committed()
        self._checker.own_change(
            self.uuid, {fid: committed[fid] for fid in fids if fid in committed}
        )

    def _changed(self, reply: Reply, ticket: Ticket) -> None:
        vnode = reply.vnode
        self.cache.apply_changed(ticket, vnode, _offer(reply.offer), self.process.now())
        self._checker.own_change(self.uuid, {vnode.fid: vnode.data_version})
        self._tell(self.uuid, f"wrote {vnode.fid}: version {vnode.data_version}")

    async def give_up_all(self) -> None:
        """The client is stopping: it returns its promises, as far as the fileserver listens."""
        root = Fid(next(iter(self._disk.volumes)), 1, 1)
        try:
            await self._rpc("GiveUpAllCallBacks", root, "")
        except AfsError:
            return

    # --- statuses and directories -----------------------------------------------------------------

    async def _status(self, fid: Fid, method: str = "FetchStatus") -> Known:
        while True:
            entry = self.trusted(fid)
            if entry is not None:
                self._checker.reads_kept += entry.promise is self._kept.get(fid)
                return Known(entry.status, from_cache=True)
            known, asked_before = await self._status_flights.run(
                fid, lambda: self._fetch(fid, method)
            )
            if asked_before:
                return known

    async def _fetch(self, fid: Fid, method: str) -> Known:
        self.cache.get(fid)
        try:
            reply, ticket = await self.call(method, fid)
        except AfsError as error:
            if error.code is AfsCode.VNOVNODE:
                self.cache.forget(fid)
            raise
        self._take_in_status(reply.vnode, reply.offer, ticket)
        return Known(reply.vnode, from_cache=False)

    async def _list_all(self, directory: Fid) -> tuple[Listing, Known, bool]:
        while True:
            known = await self._status(directory)
            listing = self._current(directory, known.vnode)
            if listing is not None and listing.complete:
                return listing, known, True
            (listing, vnode), asked_before = await self._list_flights.run(
                directory, lambda: self._read_dir(directory)
            )
            if asked_before:
                return listing, Known(vnode, from_cache=False), False

    def _current(self, directory: Fid, vnode: Vnode) -> Listing | None:
        entry = self.cache.get(directory)
        if entry is None or entry.early:
            return None
        listing = entry.current_listing()
        if listing is None or listing.data_version != vnode.data_version:
            return None
        self.cache.touch_listing(entry)
        return listing

    async def _read_dir(self, directory: Fid) -> tuple[Listing, Vnode]:
        reply, ticket = await self.call("ReadDir", directory)
        assert reply.names is not None
        self._take_in_status(reply.vnode, reply.offer, ticket)
        entries = [DirectoryEntry(name, fid, VnodeType.FILE) for name, fid in reply.names.items()]
        listing = Listing(entries, reply.vnode.data_version, complete=True)
        self.cache.keep_listing(ticket, directory, listing, self.process.now())
        return listing, reply.vnode


def _offer(offer: Offer | None) -> PromiseOffer | None:
    if offer is None or offer.expires_in_s == 0:
        return None
    return PromiseOffer(offer.expires_in_s, offer.sequence, offer.epoch)
