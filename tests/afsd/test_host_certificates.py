"""A host belongs to its certificate: nobody calls, attaches or acknowledges as another one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import grpc.aio
import pytest

from afs.errors import AfsCode
from afs.identity.certificates import AuthorityFiles, Role, utc_now
from afs.runtime.channel import afs_error_from_rpc
from afs.runtime.tls import TlsFiles, use_tls
from afs.v1 import callback_channel_pb2_grpc
from afs.v1 import file_server_pb2 as pb
from tests.afsd.running import PATIENCE_S, ROOT, Client, fileserver, refused


@pytest.mark.parametrize("role", [Role.HOST, Role.DAEMON])
async def test_host_is_known_by_its_certificate(tmp_path: Path, role: Role) -> None:
    """It calls and attaches under its own UUID, and under no other; without one it is nobody."""
    host = str(uuid4())
    authority = AuthorityFiles(tmp_path / "tls")
    await asyncio.to_thread(authority.make, "example.org", utc_now())
    name = host if role is Role.HOST else "afsd"
    await asyncio.to_thread(
        lambda: authority.issue("example.org", role, name, utc_now(), file="mine")
    )
    await asyncio.to_thread(use_tls, TlsFiles(authority.ca, authority.certificate("mine")))
    try:
        async with fileserver(tmp_path) as server:
            client = Client(server.daemon.addresses[0])
            async with refused(AfsCode.EPERM):
                await client.status(ROOT)
            stub = callback_channel_pb2_grpc.CallBackChannelStub(client.channel)
            attach = stub.Attach(metadata=client.metadata, timeout=PATIENCE_S)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await attach.read()
            assert afs_error_from_rpc(caught.value).code is AfsCode.EPERM
            client.uuid, client.metadata = host, (("afs-host-uuid", host),)
            if role is Role.HOST:
                await client.attach()
                assert (await client.status(ROOT)).HasField("callback")
            else:
                async with refused(AfsCode.EPERM):
                    await client.call(client.files.GetTime, pb.GetTimeRequest())
            client.metadata = ()
            assert not (await client.status(ROOT)).HasField("callback")
            await client.close()
    finally:
        use_tls(None)
