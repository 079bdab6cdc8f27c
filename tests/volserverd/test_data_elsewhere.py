"""What a volume has lost is taken from another server that has a site of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from afs.limits import INLINE_MAX_BYTES, MIB
from afs.types import root_fid
from afs.v1 import vol_server_pb2 as pb
from tests.volserverd.test_release import DEMO, Servers, cell, find, release

__all__ = ["cell"]

pytestmark = pytest.mark.blocking_ok

SMALL = {f"small-{number}": os.urandom(INLINE_MAX_BYTES) for number in range(70)}
LARGE = os.urandom(3 * MIB)


def chunks(server_root: Path) -> list[Path]:
    """All chunks, packs included, of a server."""
    return [path for path in server_root.glob("vicep*/groups/*/chunks/*/*") if path.is_file()]


async def salvage(cell: Servers) -> tuple[list[pb.Finding], int]:
    """What was found in the read-write volume, and how much of it is still wrong."""
    request = pb.SalvageRequest(volume="demo")
    messages = await cell.vos.stream(cell.vos.stub.Salvage, request)
    findings = [message.finding for message in messages if message.HasField("finding")]
    return findings, messages[-1].unrepaired


async def test_lost_chunks_and_small_files_come_back_from_a_read_only_site(cell: Servers) -> None:
    """All chunk files are gone: what was released comes back, what was not is lost and said so."""
    client = await cell.servers[0].files.client()
    await cell.write(SMALL | {"large": LARGE})
    # Other servers pack the files otherwise.
    changed = os.urandom(INLINE_MAX_BYTES)
    await client.store(await find(client, "small-3", root_fid(DEMO)), changed)
    await release(cell.vos)
    await cell.write({"later": os.urandom(MIB)})
    lost = chunks(cell.servers[0].root)
    assert len(lost) > 4, "there are packs too"
    for path in lost:
        path.unlink()
    findings, unrepaired = await salvage(cell)
    assert unrepaired == 1
    assert [each.path for each in findings if not each.repaired] == ["/later"]
    elsewhere = {server.address for server in cell.servers[1:]}
    taken = {each.action for each in findings if each.repaired and each.path.startswith("/small")}
    assert taken
    assert taken <= {f"taken from volserver {address}" for address in elsewhere}
    for name, data in (SMALL | {"small-3": changed, "large": LARGE}).items():
        assert (await client.fetch(await find(client, name, root_fid(DEMO))))[1] == data


async def test_servers_that_do_not_answer_are_asked_once(cell: Servers) -> None:
    """The next one is asked; with none left the data are lost, and the salvage ends."""
    await cell.write({"large": LARGE})
    await release(cell.vos)
    await cell.servers[1].stop()
    for path in chunks(cell.servers[0].root):
        path.unlink()
    assert (await salvage(cell))[1] == 0
    await cell.servers[2].stop()
    for path in chunks(cell.servers[0].root):
        path.unlink()
    assert (await salvage(cell))[1] == 3
