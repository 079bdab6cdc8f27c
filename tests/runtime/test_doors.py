"""Tests of the door before every servicer: who calls, and who is sent away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afs.access.caller import ANYUSER_ID, AUTHUSER_ID, DAEMON_NAME
from afs.errors import AfsCode, AfsError
from afs.identity.callers import Callers
from afs.identity.keys import jwks, save_signing_key
from afs.identity.memberships import Membership, Memberships
from afs.identity.tokens import issue_token, own_issuer
from afs.identity.trust import Trust
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.current_caller import current_caller
from afs.runtime.doors import CallerInterceptor, prepared, token_of
from afs.runtime.listening import is_private
from afs.runtime.outgoing import FileToken, KeyTokens, client_interceptors, show_tokens
from afs.v1 import file_server_pb2, file_server_pb2_grpc
from afsctl.ports import free_ports
from tests.fakes import FakeClock
from tests.runtime.services import Scripted, serving

CELL = "example.org"
KEY = Ed25519PrivateKey.generate()


class Names(Scripted):
    """Answers with the name of its caller."""

    async def GetTime(self, request: Any, context: Any) -> Any:
        caller = current_caller.get()
        assert caller is not None
        return file_server_pb2.GetTimeResponse(time_ns=caller.user_id)

    async def ReadLink(self, request: Any, context: Any) -> Any:
        caller = current_caller.get()
        assert caller is not None
        return file_server_pb2.ReadLinkResponse(target=caller.name)

    async def FetchData(self, request: Any, context: Any) -> AsyncIterator[Any]:
        caller = current_caller.get()
        assert caller is not None
        for _ in range(2):
            yield file_server_pb2.FetchDataResponse(data=caller.name.encode())

    async def StoreACL(self, request: Any, context: Any) -> Any:
        raise AfsError(AfsCode.EACCES, "no a right")

    async def SetVolumeStatus(self, request: Any, context: Any) -> Any:
        return file_server_pb2.SetVolumeStatusResponse()


async def _membership(name: str) -> Membership:
    return Membership(len(name), frozenset({len(name), ANYUSER_ID, AUTHUSER_ID}))


class Door:
    """A server behind a door, and calls to it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.files: Any = file_server_pb2_grpc.FileServerStub(channel)
        self.refused: list[tuple[str, AfsCode]] = []

    async def call(self, method: str, request: Any, **further: Any) -> Any:
        """What a unary call answers; AfsError for a failure."""
        try:
            return await getattr(self.files, method)(request, timeout=20, **further)
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    async def name(self, **further: Any) -> str:
        """What the servicer takes its caller for."""
        answer = await self.call("ReadLink", file_server_pb2.ReadLinkRequest(), **further)
        return str(answer.target)


def write_files(folder: Path) -> None:
    """What a cell that issues its tokens itself has on disk."""
    (folder / "cell.json").write_text(jwks(KEY.public_key()))
    (folder / "issuers.toml").write_text(
        f'[[issuer]]\nissuer = "{own_issuer(CELL)}"\nkeys = "cell.json"\nown = true\n'
    )
    save_signing_key(folder / "key.pem", KEY)


@asynccontextmanager
async def door(folder: Path, address: str = "127.0.0.1:0") -> AsyncIterator[Door]:
    """A server whose callers show tokens of the cell."""
    await asyncio.to_thread(write_files, folder)
    trust = await Trust.open(folder / "issuers.toml", None, CELL)
    callers = Callers(trust, Memberships(_membership, FakeClock().now), ["root"])
    refused: list[tuple[str, AfsCode]] = []

    def told(method: str, peer: str, error: AfsError) -> None:
        assert peer
        refused.append((method.rpartition("/")[2], error.code))

    try:
        async with serving(
            files=Names(), addresses=[address], interceptors=[CallerInterceptor(callers, told)]
        ) as (_, channel):
            opened = Door(channel)
            opened.refused = refused
            yield opened
    finally:
        await trust.close()


def shown(name: str) -> dict[str, Any]:
    """The metadata of a user's call."""
    made = issue_token(KEY, cell=CELL, name=name, now_s=time.time(), lifetime_s=60)
    return {"metadata": (("authorization", f"Bearer {made}"),)}


async def test_servicers_are_told_who_calls(tmp_path: Path) -> None:
    """Nobody in particular without a token, the user with one; in streams too."""
    async with door(tmp_path) as opened:
        assert await opened.name() == "system:anyuser"
        assert await opened.name(**shown("alice")) == "alice"
        request = file_server_pb2.FetchDataRequest()
        pieces = [each.data async for each in opened.files.FetchData(request, **shown("bob"))]
        assert pieces == [b"bob", b"bob"]
        answer = await opened.call("GetTime", file_server_pb2.GetTimeRequest(), **shown("carol"))
        assert answer.time_ns == 5


async def test_bad_token_is_not_taken_for_nobodys(tmp_path: Path) -> None:
    """Who shows a token that is not valid is told so, also where none is needed."""
    async with door(tmp_path) as opened:
        for metadata in (
            [("authorization", "Bearer nonsense")],
            [("authorization", "Basic YWxpY2U6")],
            [("authorization", "")],
            [*shown("alice")["metadata"], *shown("bob")["metadata"]],
        ):
            with pytest.raises(AfsError) as caught:
                await opened.name(metadata=tuple(metadata))
            assert caught.value.code is AfsCode.RXKADBADTICKET
        assert [code for _, code in opened.refused] == [AfsCode.RXKADBADTICKET] * 4


async def test_administrators_methods_are_refused_to_others(tmp_path: Path) -> None:
    """Nobody is asked for a token, a user is told that it is not for them, and both are told of."""
    request = file_server_pb2.SetVolumeStatusRequest()
    async with door(tmp_path) as opened:
        for further, code in (({}, AfsCode.RXKADNOAUTH), (shown("alice"), AfsCode.EPERM)):
            with pytest.raises(AfsError) as caught:
                await opened.call("SetVolumeStatus", request, **further)
            assert caught.value.code is code
        await opened.call("SetVolumeStatus", request, **shown("root"))
        assert opened.refused == [
            ("SetVolumeStatus", AfsCode.RXKADNOAUTH),
            ("SetVolumeStatus", AfsCode.EPERM),
        ]


async def test_method_that_is_not_in_the_table_is_refused(tmp_path: Path) -> None:
    """A service that nobody decided about is closed, and health and reflection are open."""
    async with door(tmp_path) as opened:
        health: Any = health_pb2_grpc.HealthStub(opened.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def behavior(request: Any, context: Any) -> None:
        raise AssertionError("not reached")

    handler: Any = grpc.unary_unary_rpc_method_handler(behavior)

    async def continuation(details: Any) -> Any:
        return handler

    class Details:
        method = "/afs.v1.Unheard/Of"
        invocation_metadata = ()

    class Context:
        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ()

        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

    class Anybody:
        async def of(self, token: object) -> Any:
            return None

    callers: Any = Anybody()
    closed = CallerInterceptor(callers, lambda *_: None)
    details: Any = Details()
    wrapped = await closed.intercept_service(continuation, details)
    with pytest.raises(AfsError, match="not in the table"):
        await wrapped.unary_unary(None, Context())


async def test_unix_socket_is_its_owners(tmp_path: Path) -> None:
    """Who may open a socket of mode 0600 is the daemon's own user; a token shown there counts."""
    async with door(tmp_path, f"unix:{tmp_path / 'door.sock'}") as opened:
        assert await opened.name() == DAEMON_NAME
        assert await opened.name(**shown("alice")) == "alice"


async def test_channels_show_the_token_of_the_process(tmp_path: Path) -> None:
    """A daemon with the cell's key is known as one; a token in a file is its user's."""
    (port,) = free_ports(1)
    async with door(tmp_path, address := f"127.0.0.1:{port}"):
        try:
            show_tokens(await asyncio.to_thread(KeyTokens, tmp_path / "key.pem", CELL))
            async with open_channel(address) as channel:
                again = Door(channel)
                assert await again.name() == DAEMON_NAME
                assert await again.name(**shown("alice")) == "alice"
                pieces = again.files.FetchData(file_server_pb2.FetchDataRequest())
                assert [each.data async for each in pieces] == [DAEMON_NAME.encode()] * 2
            path = tmp_path / "token"
            path.write_text(shown("bob")["metadata"][0][1].removeprefix("Bearer "))
            show_tokens(FileToken(path))
            async with open_channel(address) as channel:
                assert await Door(channel).name() == "bob"
            show_tokens(FileToken(tmp_path / "missing"))
            async with open_channel(address) as channel:
                assert await Door(channel).name() == "system:anyuser"
        finally:
            show_tokens(None)


def test_token_is_not_shown_where_others_can_read_it() -> None:
    """Plain text beyond this machine carries no token."""
    assert all(map(is_private, ("127.0.0.1:7000", "[::1]:7000", "localhost:1", "unix:/run/x")))
    assert not any(map(is_private, ("10.0.0.1:7000", "afsd-1:7000", "0.0.0.0:1", "nonsense")))

    class Source:
        async def token(self) -> str:
            return "secret"

    try:
        show_tokens(Source())
        assert client_interceptors("10.0.0.1:7000") == []
        assert len(client_interceptors("127.0.0.1:7000")) == 4
    finally:
        show_tokens(None)


def test_method_that_is_not_implemented_stays_so() -> None:
    """A generated method stands for UNIMPLEMENTED, before and behind the door."""

    def missing(request: Any, context: Any) -> None:
        raise NotImplementedError

    async def prepare(context: Any) -> None:
        raise AssertionError("not reached")

    handler: Any = grpc.unary_unary_rpc_method_handler(missing)
    assert prepared(handler, prepare) is handler
    assert token_of(None) is None


async def test_changes_by_administrators_are_written_down(tmp_path: Path) -> None:
    """Who did what to what, from where, and how it ended; what changes nothing is not."""
    request = file_server_pb2.SetVolumeStatusRequest(volume=7)
    with structlog.testing.capture_logs() as events:
        async with door(tmp_path) as opened:
            await opened.call("SetVolumeStatus", request, **shown("root"))
            await opened.name(**shown("root"))
            with pytest.raises(AfsError):
                await opened.call(
                    "StoreACL", file_server_pb2.StoreACLRequest(acl="x"), **shown("alice")
                )
            await opened.call("SetVolumeStatus", request, **shown(DAEMON_NAME))
    audited = [event for event in events if event["event"] == "call.audited"]
    assert [(event["caller"], event["outcome"]) for event in audited] == [
        ("root", "done"),
        ("alice", "EACCES"),
    ]
    assert audited[0]["method"] == "afs.v1.FileServer/SetVolumeStatus"
    assert audited[0]["subject"] == "{'volume': 7}"
    assert audited[0]["peer"].startswith("ipv4:127.0.0.1:")
