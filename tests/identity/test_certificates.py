"""Tests of a cell's authority, its certificates, and mutual TLS with them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from afs.errors import AfsCode, AfsError
from afs.identity.certificates import AuthorityFiles, Role, expiry_of, utc_now
from afs.limits import CERTIFICATE_LIFETIME_S
from afs.runtime.channel import open_channel
from afs.runtime.renewing_channel import RenewingChannel
from afs.runtime.tls import (
    TlsFiles,
    certificates,
    read_certificates,
    renew_certificates,
    uris_of,
    use_tls,
)
from afs.v1 import file_server_pb2, file_server_pb2_grpc
from afsctl.ports import free_ports
from tests.runtime.services import Scripted, serving

CELL = "example.org"


@pytest.fixture
def authority(tmp_path: Path) -> AuthorityFiles:
    """The authority of a cell, with a daemon's certificate."""
    files = AuthorityFiles(tmp_path)
    files.make(CELL, utc_now())
    files.issue(CELL, Role.DAEMON, "afsd", utc_now())
    return files


def tls(authority: AuthorityFiles, name: str = "afsd") -> TlsFiles:
    """The files of one certificate."""
    return TlsFiles(authority.ca, authority.certificate(name))


@contextmanager
def using(files: TlsFiles) -> Iterator[None]:
    """This process shows these certificates in the block."""
    use_tls(files)
    try:
        yield
    finally:
        use_tls(None)


class Uris(Scripted):
    """Answers with what its caller's certificate says."""

    async def ReadLink(self, request: Any, context: Any) -> Any:
        return file_server_pb2.ReadLinkResponse(target=" ".join(uris_of(context)))


@asynccontextmanager
async def encrypted(authority: AuthorityFiles) -> AsyncIterator[str]:
    """A server that speaks TLS; this process shows a daemon's certificate."""
    (port,) = await asyncio.to_thread(free_ports, 1)
    await asyncio.to_thread(use_tls, tls(authority))
    try:
        async with serving(files=Uris(), addresses=[address := f"127.0.0.1:{port}"]):
            yield address
    finally:
        use_tls(None)


async def said(channel: grpc.aio.Channel) -> str:
    """What the server takes our certificate for; AioRpcError without an answer."""
    stub: Any = file_server_pb2_grpc.FileServerStub(channel)
    return str((await stub.ReadLink(file_server_pb2.ReadLinkRequest(), timeout=10)).target)


def test_keys_are_private_and_certificates_short_lived(authority: AuthorityFiles) -> None:
    """Keys have mode 600; a second authority does not replace the first."""
    for path in (authority.ca_key, authority.certificate("afsd")):
        assert path.stat().st_mode & 0o777 == 0o600
    lifetime = expiry_of(authority.certificate("afsd")) - utc_now()
    assert lifetime <= timedelta(seconds=CERTIFICATE_LIFETIME_S)
    with pytest.raises(AfsError, match="has its authority"):
        authority.make(CELL, utc_now())
    with pytest.raises(AfsError, match="cell init"):
        AuthorityFiles(authority.folder / "other").issue(CELL, Role.DAEMON, "afsd", utc_now())
    authority.ca_key.chmod(0o644)
    with pytest.raises(AfsError, match="0644"):
        authority.issue(CELL, Role.DAEMON, "afsd", utc_now())


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (Role.HOST, "afsd"),
        (Role.HOST, "A8A9F2A6-5B9E-4B6C-9D3C-3B1E5B1F4B11"),
        (Role.DAEMON, "a/b"),
    ],
)
def test_names_that_none_can_have(authority: AuthorityFiles, role: Role, name: str) -> None:
    """A host is a UUID as it is written, so that no two certificates are for one host."""
    with pytest.raises(AfsError):
        authority.issue(CELL, role, name, utc_now())


def test_files_that_cannot_be_used(authority: AuthorityFiles) -> None:
    """Without its key, readable by others, or none at all: told of in a line."""
    path = authority.certificate("afsd")
    good = path.read_bytes()
    for bad in (b"", good.partition(b"-----BEGIN PRIVATE KEY")[0], good + good):
        path.write_bytes(bad)
        with pytest.raises(AfsError) as caught:
            read_certificates(tls(authority))
        assert caught.value.code is AfsCode.EINVAL
    path.write_bytes(good)
    path.chmod(0o640)
    with pytest.raises(AfsError, match="0640"):
        read_certificates(tls(authority))
    with pytest.raises(AfsError, match="No such file"):
        use_tls(tls(authority, "nobody"))


async def test_both_sides_show_certificates(authority: AuthorityFiles) -> None:
    """The server knows its caller by the certificate; who has none of this cell gets no answer."""
    other = AuthorityFiles(authority.folder / "other")
    await asyncio.to_thread(other.make, "other.cell", utc_now())
    await asyncio.to_thread(other.issue, "other.cell", Role.DAEMON, "afsd", utc_now())
    stranger = await asyncio.to_thread(read_certificates, tls(other))
    ca = certificates_of(authority)
    async with encrypted(authority) as address:
        async with open_channel(address) as channel:
            assert await said(channel) == f"afs://{CELL}/daemon/afsd"
        for credentials in (
            grpc.ssl_channel_credentials(ca),
            grpc.ssl_channel_credentials(ca, stranger.key, stranger.chain),
            stranger.as_client,
        ):
            async with grpc.aio.secure_channel(address, credentials) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await said(channel)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await said(channel)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def certificates_of(authority: AuthorityFiles) -> bytes:
    """The authority's own certificate."""
    return authority.ca.read_bytes()


@pytest.mark.blocking_ok
async def test_renewed_certificates_count_without_a_restart(authority: AuthorityFiles) -> None:
    """Server and channel show a renewed one; what cannot be used leaves the old one in use."""
    async with encrypted(authority) as address:
        channels: list[grpc.aio.Channel] = []

        def make(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels.append(grpc.aio.secure_channel(address, credentials, options=options))
            return channels[-1]

        async with RenewingChannel(make, poll_s=0.01) as channel:
            stub: Any = file_server_pb2_grpc.FileServerStub(channel)
            request = file_server_pb2.ReadLinkRequest()
            assert (await stub.ReadLink(request)).target.endswith("/daemon/afsd")
            path = authority.certificate("afsd")
            path.write_bytes(b"half of a certificate")
            assert renew_certificates() is certificates()
            authority.issue(CELL, Role.DAEMON, "renewed", utc_now(), file="afsd")
            async with asyncio.timeout(20):
                while not (await stub.ReadLink(request)).target.endswith("/daemon/renewed"):
                    await asyncio.sleep(0.01)
            assert len(channels) == 2
            channel.get_state()
            await channel.channel_ready()
        # Under an authority that is new as well, both sides must have taken up the files of now.
        authority.ca_key.unlink()
        authority.make(CELL, utc_now())
        authority.issue(CELL, Role.DAEMON, "again", utc_now(), file="afsd")
        renewed = renew_certificates().as_client
        async with grpc.aio.secure_channel(address, renewed) as direct:
            assert (await said(direct)).endswith("/daemon/again")


async def test_certificate_that_has_ended_is_refused(authority: AuthorityFiles) -> None:
    """A server does not talk to who shows an expired one."""
    past = utc_now() - timedelta(days=2)
    await asyncio.to_thread(
        lambda: authority.issue(CELL, Role.DAEMON, "old", past, lifetime_s=24 * 3600)
    )
    old = await asyncio.to_thread(read_certificates, tls(authority, "old"))
    async with (
        encrypted(authority) as address,
        grpc.aio.secure_channel(address, old.as_client) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await said(channel)


async def test_unix_sockets_stay_plain(authority: AuthorityFiles, tmp_path: Path) -> None:
    """Their mode guards them."""
    await asyncio.to_thread(use_tls, tls(authority))
    try:
        async with serving(files=Uris(), addresses=[f"unix:{tmp_path / 's.sock'}"]) as (_, channel):
            assert await said(channel) == ""
    finally:
        use_tls(None)


def test_hosts_have_certificates_of_their_own(authority: AuthorityFiles) -> None:
    """A certificate for a host is named by its UUID, in a file of any name."""
    host = str(uuid.uuid4())
    path = authority.issue(CELL, Role.HOST, host, utc_now(), file="clientd-0")
    assert path.name == "clientd-0.pem"
    with using(tls(authority, "clientd-0")):
        assert certificates().chain
