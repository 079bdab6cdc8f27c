"""The heart of the story: a volume is restored while one of its readers is frozen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from afs.limits import DATA_PIECE_BYTES
from afs.runtime.channel import open_channel
from afs.v1 import vol_server_pb2 as pb
from afs.v1 import vol_server_pb2_grpc
from afsctl.cell import Cell
from demo.client import DemoClient
from demo.findings import Act
from demo.observer import Observer, steady_s

# Nothing here takes long; if something does, the demo says so instead of hanging.
PATIENCE_S: Final = 40.0
# Between two looks of a live client at the changed file: it costs the others little.
LOOK_INTERVAL_S: Final = 0.002


async def restore(
    cell: Cell, volume: str, dump: Path, before_the_end: Callable[[], None]
) -> pb.RestoreResponse:
    """Restores a dump over a volume.

    The volserver takes the volume only when it has the whole dump and found it good;
    `before_the_end` is called when all but the last piece are sent.
    """

    async def requests() -> AsyncIterator[pb.RestoreRequest]:
        yield pb.RestoreRequest(open=pb.RestoreOpen(name=volume, overwrite=True))
        with dump.open("rb") as file:
            piece = await asyncio.to_thread(file.read, DATA_PIECE_BYTES)
            while following := await asyncio.to_thread(file.read, DATA_PIECE_BYTES):
                yield pb.RestoreRequest(data=piece)
                piece = following
        before_the_end()
        yield pb.RestoreRequest(data=piece)

    async with open_channel(cell.vol_server) as channel:
        stub: Any = vol_server_pb2_grpc.VolServerStub(channel)
        answer: pb.RestoreResponse = await stub.Restore(requests())
    return answer


async def backup(cell: Cell, volume: str) -> float:
    """Makes a backup volume; how many seconds it took."""
    began = steady_s()
    async with open_channel(cell.vol_server) as channel:
        stub: Any = vol_server_pb2_grpc.VolServerStub(channel)
        async for _ in stub.Backup(pb.BackupRequest(volume=volume)):
            pass
    return steady_s() - began


async def until_new(client: DemoClient, path: str, digest: str) -> float:
    """Reads a file again and again.

    The time at which the client first answered the new contents.
    """
    while (await client.read(path)).digest != digest:  # noqa: ASYNC110 - a file is no event
        await asyncio.sleep(LOOK_INTERVAL_S)
    return steady_s()


async def give_back_with_a_frozen_client(
    cell: Cell,
    clients: Sequence[DemoClient],
    volume: str,
    other_volume: str,
    dump: Path,
    path: str,
    digest: str,
) -> Act:
    """Freezes the last client, restores the dump over the volume, and measures everybody.

    Args:
        cell: where.
        clients: all hold promises on the volume; the last one is frozen.
        volume: restored, and so given back.
        other_volume: backed up meanwhile.
        dump: what is restored.
        path: a file that the dump changes.
        digest: of its new contents.
    """
    act = Act(cell.break_policy)
    *live, frozen = clients
    process = cell.clientds[len(clients) - 1]
    async with Observer(cell.file_server) as observer, asyncio.timeout(PATIENCE_S):
        readers = {
            client.name: asyncio.create_task(until_new(client, path, digest)) for client in live
        }
        restoring = asyncio.create_task(restore(cell, volume, dump, process.freeze))
        try:
            marked = await observer.until(lambda event: event.event == "volume.marked")
            act.marked = marked.count
            before = await observer.hosts()
            act.other_operation_s = await backup(cell, other_volume)
            restored = await restoring
            act.ack_s = restored.give_back_s
            for name, reader in readers.items():
                act.fresh_s[name] = await reader - marked.steady_s
            down = await observer.until(lambda event: event.event == "host.marked_down")
            uuid = down.host_uuid
            after = await observer.hosts()
            thawed = steady_s()
            process.thaw()
            first = await frozen.read(path)
            act.thawed_s = steady_s() - thawed
        finally:
            process.thaw()
            for task in (*readers.values(), restoring):
                task.cancel()
        act.is_thawed_fresh = first.digest == digest
        act.timeline = _timeline(act, observer, marked.steady_s, thawed - marked.steady_s, uuid)
        for at_s, hosts in ((0.0, before), (down.steady_s - marked.steady_s, after)):
            flags = ", ".join(hosts[uuid].flags)
            act.timeline.append((at_s, f"DumpHosts shows the frozen client as {flags}"))
    return act


def _timeline(
    act: Act, observer: Observer, zero: float, thawed: float, frozen_uuid: str
) -> list[tuple[float, str]]:
    """What happened, in seconds from the mark."""
    new = "new" if act.is_thawed_fresh else "OLD"
    lines = [
        (0.0, f"volume given back: {act.marked:,} callbacks marked FE_LATER, CB_DELAYED"),
        (act.ack_s, "FSSYNC: the volserver has its acknowledgement (as it measured)"),
        (act.other_operation_s, "backup of the other volume is done"),
        (thawed, "the frozen client is thawed and asked for the changed file"),
        (thawed + act.thawed_s, f"it answers, with the {new} contents"),
    ]
    lines += [(at, f"{name} read the new contents") for name, at in act.fresh_s.items()]
    told = {
        "worker.woken": "the BreakLaterCallBacks worker wakes up",
        "break.sent": "break sent to {host}",
        "break.acked": "break acknowledged by {host}",
        "break.failed": "no acknowledgement by {host}",
        "host.marked_down": "{host} is VENUSDOWN ({cause})",
        "reset.sent": "InitCallBackState sent to {host}",
        "reset.acked": "InitCallBackState acknowledged by {host}: RESETDONE",
    }
    for event in observer.events:
        text = told.get(event.event)
        if text and event.steady_s >= zero and not _is_of_one_file(event):
            who = "the frozen client" if event.host_uuid == frozen_uuid else "a live client"
            lines.append((event.steady_s - zero, text.format(host=who, cause=event.cause)))
    return lines


def _is_of_one_file(event: Any) -> bool:
    return event.event == "break.sent" and any(fid.vnode for fid in event.fids)
