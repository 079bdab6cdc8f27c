"""Calls about one volume, to whichever fileserver serves it.

Everything that asks about a volume goes through here, so that a volume may move, or one of its
read-only sites go away, in the middle of whatever is done with it: the call goes to the right
fileserver by itself (`core.rotation` says which, and after what wait), a stream of data that is
being written is begun again there from what was kept of it.

Invariant: of a volume, only promises of the fileserver in use are held. With another fileserver in
use those of the one before end: it may show another state of the volume (a release that did not
reach it), and nobody is to see a mixture. Data, names and statuses stay, and need only be asked
about: DataVersions are the volume's, not the fileserver's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeAlias, TypeVar

import grpc.aio
from google.protobuf.message import Message

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.types import Vnode, VolumeType, whole_volume_fid
from afs.v1 import file_server_pb2_grpc, types_pb2
from afs.wire import status_from_wire
from clientd.core.cache import VnodeCache
from clientd.core.promise import PromiseOffer, Ticket
from clientd.core.rotation import GiveUp, LookUp, Rotation, Try
from clientd.core.validation import Verdict
from clientd.fileserver_client import (
    ATTACH_PATIENCE_S,
    CALL_TIMEOUT_S,
    AnswerLostError,
    FileServerClient,
)
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.outage import OutagePolicy
from clientd.volume_identity import VolumeIdentity
from clientd.volume_location import Located, VolumeGoneError, VolumeLocation

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
T = TypeVar("T")
# Exists in the type stubs only.
Stub: TypeAlias = "file_server_pb2_grpc.FileServerAsyncStub"


class VolumeCalls:
    """One volume: where it is served, and the calls that concern it.

    Args:
        located: what is known of its location.
        cache: takes in statuses and promises.
        location: where it is looked up again.
        servers: fileservers by address.
        identity: tells it from others of the same id.
        outage: how long to wait for a fileserver that is away.
        clock: steady time.
        journal: counts and tells.
    """

    def __init__(
        self,
        located: Located,
        *,
        cache: VnodeCache,
        location: VolumeLocation,
        servers: FileServers,
        identity: VolumeIdentity,
        outage: OutagePolicy,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._located = located
        self._cache = cache
        self._location = location
        self._servers = servers
        self._identity = identity
        self._outage = outage
        self._clock = clock
        self._journal = journal
        self._in_use = ""

    @property
    def name(self) -> str:
        """Its name, with `.readonly` or `.backup` for such a volume."""
        return self._located.name

    @property
    def volume_id(self) -> int:
        """Its number."""
        return self._located.volume_id

    @property
    def type(self) -> VolumeType:
        """Read-write, read-only or backup."""
        return self._located.type

    @property
    def file_servers(self) -> tuple[str, ...]:
        """Addresses of the fileservers that serve it as far as is known."""
        return self._located.file_servers

    @property
    def in_use(self) -> str:
        """Address of the fileserver that was asked last; "" if none was yet."""
        return self._in_use

    def note(self, located: Located) -> None:
        """What is known of its location now; a fileserver that is no site any more is left."""
        self._located = located
        if self._in_use and self._in_use not in located.file_servers:
            self._leave()

    # --- calls ---

    async def call(
        self,
        method: Callable[[Stub], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        repeatable: bool = True,
    ) -> tuple[Response, Ticket]:
        """Calls, again and elsewhere if need be.

        Args:
            method: which one of a FileServer's.
            request: what to send.
            repeatable: False for a change that done twice is not the same as done once: it is
                tried again only if a fileserver refused it, not if the answer was lost.

        Raises:
            AfsError: what the fileserver answered; RX_CALL_DEAD if it cannot be reached;
                VolumeGoneError if the volume is not there any more.
        """
        patience_s = ATTACH_PATIENCE_S if repeatable else CALL_TIMEOUT_S
        return await self._until_done(
            lambda server: server.call(method(server.stub), request, attach_patience_s=patience_s),
            may_repeat=lambda error: repeatable or not isinstance(error, AnswerLostError),
        )

    async def stream(
        self,
        method: Callable[[Stub], grpc.aio.UnaryStreamMultiCallable[Request, Response]],
        request: Request,
        rotation: Rotation | None = None,
    ) -> AsyncGenerator[tuple[Response, Ticket], None]:
        """Yields the messages of a stream; tried again until the first one came, not after.

        To be closed by who uses it (`aclosing`).

        Args:
            method: which one of a FileServer's.
            request: what to send.
            rotation: of whoever begins the rest of a stream that broke off; it knows where.

        Raises:
            AfsError: as `call`.
        """
        rotation = rotation or self.rotation()
        while True:
            server = await self._next(rotation)
            begun = False
            try:
                await self._identity.check(server, self.volume_id)
                async with aclosing(server.stream(method(server.stub), request)) as messages:
                    async for message, ticket in messages:
                        begun = True
                        yield message, ticket
            except AfsError as error:
                if not rotation.failed(server.address, error) or begun:
                    raise
            else:
                return

    async def store(
        self,
        method: Callable[[Stub], grpc.aio.StreamUnaryMultiCallable[Request, Response]],
        messages: Callable[[], AsyncGenerator[Request, None]],
        *,
        may_repeat: Callable[[], bool],
        progress: Callable[[], int],
    ) -> tuple[Response, Ticket]:
        """Sends a stream and returns its answer; begins it again, and elsewhere, if need be.

        Args:
            method: which one of a FileServer's.
            messages: begins the stream; called once for each attempt.
            may_repeat: whether `messages` can be begun again, asked after a failed attempt.
            progress: grows as long as the stream goes on; with it patience begins anew.

        Raises:
            AfsError: as `call`.
        """
        return await self._until_done(
            lambda server: server.store(method(server.stub), messages),
            may_repeat=lambda _: may_repeat(),
            progress=progress,
        )

    def rotation(self) -> Rotation:
        """A new operation's way between the sites."""
        return Rotation(self._clock.now(), self._outage.patience_left_s(self.away_for_s))

    @property
    def away_for_s(self) -> float:
        """For how long all of its fileservers have been away; 0 if one of them is not."""
        return min(map(self._servers.away_for_s, self.file_servers))

    # --- replies ---

    def take_in(
        self, status: types_pb2.FileStatus, callback: types_pb2.CallBack | None, ticket: Ticket
    ) -> tuple[Vnode, Verdict]:
        """Applies a status that was asked for."""
        vnode = _vnode(status, ticket)
        offer = self._offer(callback, ticket)
        verdict = self._cache.apply_fetched(ticket, vnode, offer, self._clock.now())
        if verdict is Verdict.BROKEN_ON_THE_WAY:
            self._journal.count("replies_overtaken_by_breaks")
        return vnode, verdict

    def take_in_changed(
        self, status: types_pb2.FileStatus, callback: types_pb2.CallBack | None, ticket: Ticket
    ) -> Vnode:
        """Applies the status after a change of our own."""
        vnode = _vnode(status, ticket)
        self._cache.apply_changed(ticket, vnode, self._offer(callback, ticket), self._clock.now())
        return vnode

    def _offer(self, callback: types_pb2.CallBack | None, ticket: Ticket) -> PromiseOffer | None:
        """The promise in a reply; None if it is absent, or given by a fileserver left meanwhile."""
        if callback is None or callback.expires_in_s == 0 or ticket.server != self._in_use:
            return None
        return PromiseOffer(callback.expires_in_s, callback.sequence, callback.epoch)

    # --- within ---

    async def _until_done(
        self,
        attempt: Callable[[FileServerClient], Awaitable[T]],
        *,
        may_repeat: Callable[[AfsError], bool],
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """What an attempt returns.

        Raises:
            AfsError: what the last one ended with; AnswerLostError if any one may have been done.
        """
        lost: list[AnswerLostError] = []
        try:
            return await self._until_answered(attempt, lost, may_repeat, progress)
        except (AnswerLostError, VolumeGoneError):
            raise
        except AfsError as error:
            if lost:
                raise AnswerLostError(error.code, error.detail) from None
            raise

    async def _until_answered(
        self,
        attempt: Callable[[FileServerClient], Awaitable[T]],
        lost: list[AnswerLostError],
        may_repeat: Callable[[AfsError], bool],
        progress: Callable[[], int],
    ) -> T:
        rotation = self.rotation()
        while True:
            server = await self._next(rotation)
            before = progress()
            asked = False
            try:
                await self._identity.check(server, self.volume_id)
                asked = True
                return await attempt(server)
            except AfsError as error:
                if asked and isinstance(error, AnswerLostError):
                    lost.append(error)
                if progress() > before:
                    rotation = self.rotation()
                if not rotation.failed(server.address, error) or (asked and not may_repeat(error)):
                    raise

    async def _next(self, rotation: Rotation) -> FileServerClient:
        """The fileserver to ask now; raises the last error when there is none left."""
        while True:
            self.note(await self._location.at(self.volume_id))
            match rotation.next(self._in_order(self.file_servers), self._clock.now()):
                case Try(address, wait_s):
                    if rotation.begun:
                        self._journal.count("retries")
                    if wait_s:
                        await asyncio.sleep(wait_s)
                    self._use(address)
                    return self._servers.at(address)
                case LookUp():
                    await self._location.look_again(self.volume_id)
                case GiveUp(error):
                    raise error

    def _in_order(self, sites: Sequence[str]) -> Sequence[str]:
        """The preferred site first: the one in use, unless its channel is lost; then any other."""
        if len(sites) == 1:
            return sites
        return sorted(
            sites,
            key=lambda site: (
                self._servers.is_lost(site),
                site != self._in_use,
                self._servers.rank(site),
            ),
        )

    def _use(self, address: str) -> None:
        if self._in_use == address:
            return
        if self._in_use:
            self._leave()
        self._in_use = address
        self._journal.tell(
            "volume.located", server=address, fids=(whole_volume_fid(self.volume_id),)
        )

    def _leave(self) -> None:
        """The fileserver in use is not asked any more; its promises end."""
        self._journal.count("sites_left")
        self._cache.end_volume(self._in_use, self.volume_id)
        self._in_use = ""


def _vnode(status: types_pb2.FileStatus, ticket: Ticket) -> Vnode:
    try:
        return status_from_wire(status)
    except AfsError as error:
        raise AfsError(
            AfsCode.VIO, f"fileserver {ticket.server} sent a status that is none: {error.detail}"
        ) from None
