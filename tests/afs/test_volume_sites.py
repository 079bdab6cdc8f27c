"""Names of an entry's volumes, and the sites that serve them."""

from __future__ import annotations

import pytest

from afs.types import VolumeType
from afs.v1 import types_pb2
from afs.v1.vol_server_pb2 import Site, VolumeEntry
from afs.volume_sites import (
    full_volume_name,
    is_released,
    sites_to_use,
    split_volume_name,
    type_in,
    volume_number,
)

RW, RO, BACKUP = VolumeType.READ_WRITE, VolumeType.READ_ONLY, VolumeType.BACKUP


def site(file_server: str, kind: VolumeType, release: int = 0) -> Site:
    """A site of an entry."""
    return Site(file_server=file_server, type=types_pb2.VolumeType.ValueType(kind), release=release)


def entry(*sites: Site, read_only_id: int = 8, backup_id: int = 9) -> VolumeEntry:
    """The entry of the volume `home`, number 7."""
    return VolumeEntry(
        name="home",
        read_write_id=7,
        read_only_id=read_only_id,
        backup_id=backup_id,
        sites=list(sites),
    )


@pytest.mark.parametrize(
    ("name", "base", "kind"),
    [
        ("home", "home", RW),
        ("home.readonly", "home", RO),
        ("home.backup", "home", BACKUP),
        (".readonly", ".readonly", RW),
    ],
)
def test_names(name: str, base: str, kind: VolumeType) -> None:
    """Split and put together again."""
    assert split_volume_name(name) == (base, kind)
    assert full_volume_name(base, kind) == name


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("4294967295", 2**32 - 1), ("4294967296", 0), ("9" * 50, 0), ("0", 0), ("x7", 0)],
)
def test_numbers(text: str, number: int) -> None:
    """Decimal, 32 bits."""
    assert volume_number(text) == number


@pytest.mark.parametrize(
    ("text", "kind"), [("7", RW), ("8", RO), ("9", BACKUP), ("home", RW), ("home.backup", BACKUP)]
)
def test_which_volume_is_meant(text: str, kind: VolumeType) -> None:
    """By number or by suffix."""
    assert type_in(entry(), text) is kind


def test_read_only_sites_are_those_of_the_latest_release() -> None:
    """A site that the last release did not reach is not used, nor one that never got any."""
    sites = (site("a", RW), site("b", RO, 5), site("c", RO, 9), site("d", RO, 9), site("e", RO))
    assert [each.file_server for each in sites_to_use(entry(*sites), RO)] == ["c", "d"]
    assert is_released(entry(*sites))
    assert not is_released(entry(*sites, read_only_id=0))
    assert not is_released(entry(site("a", RW), site("b", RO)))


def test_backup_lies_where_its_volume_does() -> None:
    """With or without a site of its own in the entry."""
    assert [s.file_server for s in sites_to_use(entry(site("a", RW)), BACKUP)] == ["a"]
    own = entry(site("a", RW), site("b", BACKUP))
    assert [s.file_server for s in sites_to_use(own, BACKUP)] == ["b"]
    assert sites_to_use(entry(site("a", RW), backup_id=0), BACKUP) == ()


def test_sites_without_a_fileserver_are_not_used() -> None:
    """There is nobody to ask."""
    assert sites_to_use(entry(site("", RW)), RW) == ()
