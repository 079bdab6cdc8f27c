"""`afsctl vos` in a cell of several servers: which volserver is asked, against stand-ins."""

from __future__ import annotations

import json

import pytest

from afs.v1 import types_pb2, vol_server_pb2
from tests.afsctl.conftest import SECOND_FILE_SERVER, Afsctl, FakeCell
from tests.afsctl.fake_services import VOLUME_ID, site_at
from tests.afsctl.fake_vol_server import FakeVolServer

READ_ONLY = types_pb2.VOLUME_TYPE_READ_ONLY


def last_request(server: FakeVolServer) -> vol_server_pb2.MoveRequest:
    """What the volserver was asked last."""
    request = server.requests[-1]
    assert isinstance(request, vol_server_pb2.MoveRequest)
    return request


def test_commands_go_where_the_volume_is(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """The location database says which volserver is asked, by name, backup name and id."""
    for volume in ("home.lee", str(VOLUME_ID + 3)):
        two_servers.second.detail.name = volume
        ended = afsctl("vos", "rename", volume, "home.leigh")
        assert ended.status == 0, ended.err
    assert len(two_servers.second.requests) == 2
    assert afsctl("vos", "rename", "home.kim", "home.kimberly").out == (
        f"Volume {VOLUME_ID} is now called home.kimberly.\n"
    )
    assert len(two_servers.vol_server.requests) == 1


def test_named_volserver_wins(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """Who names a volserver gets that one, even for a volume that is elsewhere."""
    ended = afsctl("vos", "examine", "home.lee", "--vol-server", two_servers.address)
    assert ended.status == 1
    assert "there is no volume 'home.lee'" in ended.err


def test_read_only_volume_is_looked_for_at_its_newest_site(
    two_servers: FakeCell, afsctl: Afsctl
) -> None:
    """NAME.readonly is worked on where it shows what was released last."""
    (entry, _) = two_servers.vldb.entries
    entry.read_only_id = VOLUME_ID + 1
    entry.sites.append(site_at(two_servers.address, "vicepb", READ_ONLY, release=3))
    entry.sites.append(site_at(two_servers.second_address, "vicepb", READ_ONLY, release=4))
    two_servers.second.detail.name = "home.kim.readonly"
    assert afsctl("vos", "examine", "home.kim.readonly").status == 0
    two_servers.second.detail.name = str(entry.read_only_id)
    assert afsctl("vos", "examine", str(entry.read_only_id)).status == 0


def test_volume_that_no_database_knows(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """With several servers it must be said which of them has it."""
    ended = afsctl("vos", "remove", "stray")
    assert ended.status == 1
    assert ended.err == (
        "afsctl: the location database has no volume 'stray'; if a server has it all the same, name"
        " that server with --vol-server\n"
    )


@pytest.mark.parametrize("by", ["vol_server", "file_server"])
def test_move_goes_from_source_to_target(two_servers: FakeCell, afsctl: Afsctl, by: str) -> None:
    """The source's volserver is asked, and told the target's, however the target was named."""
    target = two_servers.second_address if by == "vol_server" else SECOND_FILE_SERVER
    ended = afsctl("vos", "move", "home.kim", "--to-server", target)
    assert ended.status == 0, ended.err
    request = last_request(two_servers.vol_server)
    assert (request.to_server, request.to_partition) == (two_servers.second_address, "vicepb")
    assert ended.err == "sending what there is: 1.0 KiB of 2.0 KiB\n"
    assert "SENT    1.5 KiB in 1.5 s (17 vnodes, 2 chunks), out of service 20 ms" in ended.out


def test_move_within_a_server(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """Without a server the volume stays on its own, on the partition that was named."""
    ended = afsctl("vos", "move", "home.lee", "--to-partition", "vicepc", "--json")
    assert json.loads(ended.out)["sent"]["chunks"] == 2
    assert ended.err == ""
    request = last_request(two_servers.second)
    assert (request.to_server, request.to_partition) == (two_servers.second_address, "vicepc")


def test_move_within_a_server_leaves_the_partition(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """To its own server without a partition: the roomiest but the one it is on."""
    two_servers.second.detail.partition = "vicepb"
    assert afsctl("vos", "move", "home.lee", "--to-server", two_servers.second_address).status == 0
    assert last_request(two_servers.second).to_partition == "vicepc"


def test_unknown_server_is_named(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """A word that is neither an address nor a daemon is one clear line."""
    ended = afsctl("vos", "move", "home.kim", "--to-server", "nowhere")
    assert ended.status == 1
    assert ended.err == "afsctl: there is no server 'nowhere': expected an address\n"


def test_sites_are_changed_by_the_read_write_site(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """Both addsite and remsite name the other server; the partition of a site is looked up."""
    ended = afsctl("vos", "addsite", "home.kim", "--server", SECOND_FILE_SERVER)
    assert ended.out == (
        f"Added the site {two_servers.second_address}/vicepb; vos release home.kim fills it.\n"
    )
    ended = afsctl("vos", "remsite", "home.kim", "--server", SECOND_FILE_SERVER)
    assert "has no read-only site at" in ended.err
    (entry, _) = two_servers.vldb.entries
    entry.sites.append(site_at(two_servers.second_address, "vicepc", READ_ONLY))
    assert afsctl("vos", "remsite", "home.kim", "--server", SECOND_FILE_SERVER).status == 0
    added, removed = two_servers.vol_server.requests
    assert (added.server, added.partition) == (two_servers.second_address, "vicepb")
    assert (removed.server, removed.partition) == (two_servers.second_address, "vicepc")


def test_a_site_of_a_server_that_is_gone_is_taken_away_by_force(
    two_servers: FakeCell, afsctl: Afsctl
) -> None:
    """Another server is asked, also where the volume itself was there; it says what stays."""
    (entry, other) = two_servers.vldb.entries
    entry.sites[0].vol_server = two_servers.second_address
    entry.sites.append(site_at(two_servers.second_address, "vicepc", READ_ONLY))
    other.sites[0].vol_server = two_servers.address
    two_servers.vol_server.site_detail = "no answer: a copy on its partition vicepc stays behind"
    ended = afsctl("vos", "remsite", "home.kim", "--server", two_servers.second_address, "--force")
    assert ended.status == 0
    assert ended.out.endswith("a copy on its partition vicepc stays behind.\n")
    [request] = two_servers.vol_server.requests
    assert (request.server, request.force) == (two_servers.second_address, True)
    assert two_servers.second.requests == []


@pytest.mark.parametrize("command", ["listvol", "partinfo", "status"])
def test_listings_show_all_servers(two_servers: FakeCell, afsctl: Afsctl, command: str) -> None:
    """Each line says whose it is; so does each object."""
    for server in (two_servers.vol_server, two_servers.second):
        server.transactions.append(vol_server_pb2.TransactionInfo(transaction_id=1, volume_id=2))
    both = {two_servers.address, two_servers.second_address}
    records = json.loads(afsctl("vos", command, "--json").out)
    assert {record["vol_server"] for record in records} == both
    header, *lines = afsctl("vos", command).out.splitlines()
    assert header.startswith("VOLSERVER")
    assert {line.split()[0] for line in lines} == both


def test_silent_server_is_named_and_the_others_are_shown(
    two_servers: FakeCell, afsctl: Afsctl
) -> None:
    """A listing goes on without a server that does not answer, and exits with status 1."""
    two_servers.vldb.entries[1].sites[0].vol_server = "127.0.0.1:1"
    ended = afsctl("vos", "listvol")
    assert ended.status == 1
    assert "home.kim" in ended.out
    assert "home.lee" not in ended.out
    assert ended.err.startswith("afsctl: volserver 127.0.0.1:1: nothing answers at 127.0.0.1:1")
    assert len(ended.err.splitlines()) == 1


def test_endtrans_finds_the_transaction(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """Each volserver counts for itself: a number that two have must be made clear."""
    two_servers.second.transactions.append(vol_server_pb2.TransactionInfo(transaction_id=4))
    assert afsctl("vos", "endtrans", "4").out == "Ended transaction 4.\n"
    assert two_servers.second.transactions == []
    assert "no volserver has a transaction 4" in afsctl("vos", "endtrans", "4").err
    for server in (two_servers.vol_server, two_servers.second):
        server.transactions.append(vol_server_pb2.TransactionInfo(transaction_id=5))
    assert "several volservers have a transaction 5" in afsctl("vos", "endtrans", "5").err
    named = ("--vol-server", two_servers.address)
    assert afsctl("vos", "endtrans", "5", *named).status == 0
    assert len(two_servers.second.transactions) == 1


def test_verify_asks_every_server(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """Findings of all servers are listed, and exit status 1 tells scripts that there are some."""
    ended = afsctl("vos", "verify", "--deep")
    assert (ended.status, ended.out) == (0, "Everything is as it should be.\n")
    two_servers.second.findings.append(
        vol_server_pb2.Finding(
            volume_id=VOLUME_ID,
            partition="vicepa",
            kind="not in location",
            subject="group 7",
            detail="the location database knows nothing of it",
        )
    )
    ended = afsctl("vos", "verify")
    assert ended.status == 1
    assert "not in location" in ended.out
    assert ended.err.splitlines()[-1] == "afsctl: 1 finding in all"
    ended = afsctl("vos", "verify", "--json")
    assert [record["vol_server"] for record in json.loads(ended.out)] == [
        two_servers.second_address
    ]
    assert [request.deep for request in two_servers.vol_server.requests] == [True, False, False]


def test_verify_of_one_volume(two_servers: FakeCell, afsctl: Afsctl) -> None:
    """Servers that do not have it do not count, unless none has it."""
    assert afsctl("vos", "verify", "home.lee").status == 0
    ended = afsctl("vos", "verify", "home.pat")
    assert ended.status == 1
    assert "VNOVOL" in ended.err
