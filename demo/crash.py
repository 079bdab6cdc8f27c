"""The end of the story: the fileserver is killed in the middle of its work, and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc.aio

from afsctl.cell import Cell
from demo.client import Content, DemoClient, digest_of

# Acknowledged writes before the kill: the fileserver is busy with the next ones when it comes.
WRITES_BEFORE_KILL: Final = 40


@dataclass
class Written:
    """What one client wrote: by path the last contents acknowledged, and the one that was not."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    unanswered: dict[str, bytes] = field(default_factory=dict)
    enough: asyncio.Event = field(default_factory=asyncio.Event)


async def _write_until_it_dies(client: DemoClient, root: str, written: Written) -> None:
    """Writes new files, and one counter again and again, noting what was acknowledged."""
    number = 0
    while True:
        number += 1
        for path in (f"{root}/counter", f"{root}/file-{number}"):
            data = f"{client.name} wrote this as number {number}\n".encode() * 200
            written.unanswered = {path: data}
            await client.write(path, data)
            written.acknowledged[path] = data
            written.unanswered = {}
        if number >= WRITES_BEFORE_KILL:
            written.enough.set()


@dataclass
class Aftermath:
    """What was found after the restart: paths whose contents are wrong, by kind."""

    written: int
    lost: list[str]
    stale: list[str]


async def kill_and_restart(
    cell: Cell, clients: Sequence[DemoClient], root: str, known: dict[str, Content]
) -> Aftermath:
    """Kills the fileserver with SIGKILL while a client writes, restarts it, and compares.

    Args:
        cell: where.
        clients: the first one writes, all read afterwards.
        root: directory to write into.
        known: files that nobody writes, and what they hold.
    """
    written = Written()
    writing = asyncio.create_task(_write_until_it_dies(clients[0], root, written))
    await written.enough.wait()
    cell.afsd.kill9()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await asyncio.to_thread(cell.afsd.start)
    result = Aftermath(len(written.acknowledged), [], [])
    for client in clients:
        for path, data in written.acknowledged.items():
            # A write that was under way may have happened or not; nothing else is right.
            right = {digest_of(data), digest_of(written.unanswered.get(path, data))}
            try:
                found = (await client.read(path)).digest
            except grpc.aio.AioRpcError as error:
                found = error.code().name
            if found not in right:
                result.lost.append(f"{client.name}: {path}: {found}")
        for path, content in known.items():
            if (await client.read(path)).digest != content.digest:
                result.stale.append(f"{client.name}: {path}")
    return result
