"""Where volumes are: looked up once, confirmed later, by name, suffix or number."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from afs.errors import AfsCode, AfsError
from afs.mount_points import MountPoint
from afs.types import VolumeType
from afs.v1 import types_pb2, vol_server_pb2
from clientd.journal import Journal
from clientd.volume_location import LOCATION_LIFETIME_S, VolumeLocation
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.several_servers import FakeLocation
from tests.fakes import FakeClock


class Located:
    """A location client and its clock."""

    def __init__(self, address: str) -> None:
        self.clock = FakeClock()
        self.location = VolumeLocation(address, clock=self.clock, journal=Journal(self.clock))


@pytest.fixture
async def located(server: FakeFileServer) -> AsyncIterator[Located]:
    """A location client of the fake service."""
    located = Located(server.address)
    yield located
    await located.location.close()


async def test_names_suffixes_and_numbers(server: FakeFileServer, located: Located) -> None:
    """Each of a volume's three ids, by name and by number."""
    server.has_clones = True
    for name, volume in (
        ("home", VOLUME),
        ("home.readonly", VOLUME + 1),
        ("home.backup", VOLUME + 2),
        (str(VOLUME), VOLUME),
        (str(VOLUME + 1), VOLUME + 1),
        (str(VOLUME + 2), VOLUME + 2),
    ):
        site = await located.location.find(name)
        assert (site.volume_id, site.file_servers) == (volume, (server.address,))


@pytest.mark.parametrize("name", ["nowhere", "0", "99999999999", "77", "home.readonly"])
async def test_volumes_that_are_not_there(
    server: FakeFileServer, located: Located, name: str
) -> None:
    """VNOVOL, also for a clone that was not made."""
    with pytest.raises(AfsError) as caught:
        await located.location.find(name)
    assert caught.value.code is AfsCode.VNOVOL


async def test_location_is_remembered_and_confirmed(
    server: FakeFileServer, located: Located
) -> None:
    """Nobody waits for the confirmation; what it says holds from then on."""
    location = located.location
    await location.find("home")
    await location.find("home")
    assert server.calls["GetEntry"] == 1
    located.clock.advance(LOCATION_LIFETIME_S)
    server.volumes["home"] = VOLUME + 10
    assert (await location.find("home")).volume_id == VOLUME
    await location.confirmed()
    assert (await location.find("home")).volume_id == VOLUME + 10
    located.clock.advance(LOCATION_LIFETIME_S)
    server.location_fails = [AfsError(AfsCode.VRESTARTING, "not now")]
    assert (await location.find("home")).volume_id == VOLUME + 10
    await location.confirmed()
    located.clock.advance(LOCATION_LIFETIME_S)
    del server.volumes["home"]
    await location.find("home")
    await location.confirmed()
    with pytest.raises(AfsError, match="VNOVOL"):
        await location.find("home")


async def test_copies_made_since_the_look_up_are_found(
    server: FakeFileServer, located: Located
) -> None:
    """The first release, or backup, of a volume that is in use shows at once."""
    await located.location.find("home")
    with pytest.raises(AfsError, match="VNOVOL"):
        await located.location.find("home.readonly")
    server.has_clones = True
    assert (await located.location.find("home.readonly")).volume_id == VOLUME + 1
    assert (await located.location.find("home.backup")).volume_id == VOLUME + 2
    server.has_clones = False
    located.location.forget(VOLUME)
    await located.location.find("home")
    server.has_clones = True
    mount = MountPoint("home.backup")
    found = await located.location.find_mounted(mount, VolumeType.READ_WRITE)
    assert found.volume_id == VOLUME + 2


async def test_forgotten_locations_are_looked_up(server: FakeFileServer, located: Located) -> None:
    """One volume's, or all."""
    location = located.location
    location.forget_all()
    await location.find("home")
    location.forget(VOLUME + 1)
    await location.find("home")
    assert server.calls["GetEntry"] == 1
    location.forget(VOLUME)
    await location.find("home")
    location.forget_all()
    await location.find("home")
    assert server.calls["GetEntry"] == 3


async def test_other_errors_are_told_with_the_service(
    server: FakeFileServer, located: Located
) -> None:
    """Who failed is in the detail."""
    server.location_fails = [AfsError(AfsCode.VSALVAGE, "damaged")]
    with pytest.raises(AfsError, match=server.address) as caught:
        await located.location.find("home")
    assert caught.value.code is AfsCode.VSALVAGE


async def test_dead_connection_is_asked_over_once() -> None:
    """Only a call finds out that a connection is dead; that call is made again, no further one."""
    service = await FakeLocation().start()
    service.entries["home"] = vol_server_pb2.VolumeEntry(
        name="home",
        read_write_id=VOLUME,
        sites=[vol_server_pb2.Site(file_server="f:7000", type=types_pb2.VOLUME_TYPE_READ_WRITE)],
    )
    located = Located(service.address)
    try:
        service.answers_lost = 1
        assert (await located.location.find("home")).volume_id == VOLUME
        service.answers_lost = 2
        with pytest.raises(AfsError) as caught:
            await located.location.find("other")
        assert service.answers_lost == 0
        assert service.address in caught.value.detail
    finally:
        await located.location.close()
        await service.stop()
