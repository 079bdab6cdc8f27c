"""A location database elsewhere that is away, or whose answer is lost, at the wrong moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.errors import AfsError
from afs.v1 import volume_location_pb2, volume_location_pb2_grpc
from tests.volserverd.fake_fssync import CHECKED_OUT, ONLINE, Fault, fake_fileserver
from tests.volserverd.running import RunningVolServer, volserver

pytestmark = pytest.mark.blocking_ok

METHODS = (
    "GetEntry",
    "ListEntries",
    "CreateEntry",
    "ReplaceEntry",
    "DeleteEntry",
    "Lock",
    "Unlock",
)


class LocationRelay:
    """Passes VolumeLocation calls on; the n-th that changes something goes wrong as directed."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.changes = 0
        self.faults: dict[int, Fault] = {}

    def __getattr__(self, method: str) -> Any:
        if method not in METHODS:
            raise AttributeError(method)

        async def call(request: Any, context: Any) -> Any:
            fault = None
            if method not in ("GetEntry", "ListEntries"):
                fault = self.faults.get(self.changes)
                self.changes += 1
            if fault is Fault.LOST_BEFORE:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            try:
                answer = await getattr(self._stub, method)(request)
            except grpc.aio.AioRpcError as error:
                await context.abort(
                    error.code(), error.details(), tuple(error.trailing_metadata() or ())
                )
            if fault is Fault.LOST_AFTER:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            return answer

        return call


@asynccontextmanager
async def relayed(upstream: RunningVolServer) -> AsyncIterator[tuple[LocationRelay, str]]:
    """A relay to a volserver's location database, and its address."""
    relay = LocationRelay(upstream.location_stub)
    server = grpc.aio.server()
    volume_location_pb2_grpc.add_VolumeLocationServicer_to_server(relay, server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield relay, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


ACTS: dict[str, Callable[[RunningVolServer], Awaitable[Any]]] = {
    "create": lambda vos: vos.create("demo"),
    "delete": lambda vos: vos.delete("demo"),
    "backup": lambda vos: vos.backup("demo"),
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
@pytest.mark.parametrize("count", [1, 2], ids=["once", "twice"])
async def test_a_database_that_is_away_leaves_nothing_for_good(
    tmp_path: Path, name: str, fault: Fault, count: int
) -> None:
    """R7: after any lost call the volume is in service, and the next operation settles the rest."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    async with (
        fake_fileserver(here) as fake,
        volserver(there) as upstream,
        relayed(upstream) as (relay, address),
        volserver(here, location=address) as vos,
    ):
        step, met = 0, True
        while met:
            if name != "create":
                await vos.create("demo")
            relay.changes = 0
            relay.faults = dict.fromkeys(range(step, step + count), fault)
            with suppress(AfsError):
                await ACTS[name](vos)
            met = relay.changes > step
            relay.faults = {}
            assert CHECKED_OUT not in {volume.state for volume in fake.volumes.values()}
            # Whatever is left of it, an operation that comes now is not in its way.
            with suppress(AfsError):
                await vos.create("demo")
            await vos.backup("demo")
            assert {volume.state for volume in fake.volumes.values()} == {ONLINE}
            await vos.delete("demo")
            assert await upstream.entries() == []
            assert fake.volumes == {}
            assert not list((here / "vicepa").glob("groups/*/*.db"))
            step += 1
        assert step > 1


def test_the_relay_knows_every_method() -> None:
    """A method added to the service is relayed, too."""
    service = volume_location_pb2.DESCRIPTOR.services_by_name["VolumeLocation"]
    assert {method.name for method in service.methods} == set(METHODS)
