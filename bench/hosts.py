"""Many hosts in one client process, which can be hung one by one, or frozen all together.

`python -m bench.hosts ADDRESS COUNT` attaches COUNT hosts to the fileserver, each with a UUID and a
connection of its own. They acknowledge resets and breaks and renew their leases. The process takes
commands, a line each, and answers each with a line of JSON when it is done:

    take VOLUME FILES    every host takes promises on so many files of the volume's root
    hang HOSTS           the first so many hosts acknowledge no break any more, the others do
    told VOLUME          steady seconds at which each host was told of the volume; waits for them
    listen ADDRESS       as many streams, each on a connection of its own, of bench.bare_server
    heard                steady seconds at which each of these got its next message
    store VOLUME         each host stores a file of its own in the volume's root, all at once;
                         seconds that each took

`Hosts` is the other end of that.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from afs.runtime.channel import open_channel
from afs.types import Fid, root_fid
from afs.v1 import file_server_pb2
from afs.v1.callback_channel_pb2 import AttachResponse
from afs.wire import fid_from_wire, fid_to_wire
from bench.attached_host import AttachedHost, steady_s
from bench.bare_server import SERVICE

# An answer is one line, with a number of some 20 digits for each host.
_MAX_LINE_BYTES: Final = 1024 * 1024
# Taking a million promises lasts about half a minute; a command that lasts this long has failed.
_PATIENCE_S: Final = 240.0


class Hosts:
    """A process of many hosts, seen from the measurement."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def take(self, volume: int, files: int) -> None:
        """Has every host take promises on so many files of the volume's root.

        Hosts that are VENUSDOWN come back by it.
        """
        await self._ask("take", volume, files)

    async def hang(self, hosts: int) -> None:
        """From now on the first so many hosts acknowledge no break; all others do."""
        await self._ask("hang", hosts)

    async def told(self, volume: int) -> list[float]:
        """Steady time at which each host was told of the volume; waits until all were."""
        times: list[float] = await self._ask("told", volume)
        return times

    async def listen(self, address: str) -> None:
        """Opens as many streams of the bare server; each gets what is pushed from now on."""
        await self._ask("listen", address)

    async def heard(self) -> list[float]:
        """Steady time at which each stream got its next message; waits until all have."""
        times: list[float] = await self._ask("heard")
        return times

    async def store(self, volume: int) -> list[float]:
        """Has each host store a file of its own, all at once; seconds that each took."""
        times: list[float] = await self._ask("store", volume)
        return times

    def freeze(self) -> None:
        """Stops the process; returns when the kernel has done so."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        self._process.send_signal(signal.SIGCONT)

    async def until_ready(self) -> Any:
        """What the process answers next."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the process of hosts has ended"
        return json.loads(line)

    async def _ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        line = " ".join(map(str, words))
        self._process.stdin.write(f"{line}\n".encode())
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self.until_ready()
        except TimeoutError:
            raise TimeoutError(f"hosts did not finish: {line}") from None


@asynccontextmanager
async def hosts(address: str, count: int) -> AsyncIterator[Hosts]:
    """Attached hosts in a new process, ended with SIGKILL, as a frozen one hears nothing else."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.hosts", address, str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    running = Hosts(process)
    try:
        await running.until_ready()
        yield running
    finally:
        process.kill()
        await process.wait()


async def store(files: Any, fid: Fid, metadata: Sequence[tuple[str, str]] = ()) -> float:
    """Writes to a file; how many seconds that took."""

    async def requests() -> AsyncIterator[file_server_pb2.StoreDataRequest]:
        opening = file_server_pb2.StoreDataOpen(fid=fid_to_wire(fid))
        yield file_server_pb2.StoreDataRequest(open=opening)
        yield file_server_pb2.StoreDataRequest(data=os.urandom(16))

    began = steady_s()
    await files.StoreData(requests(), metadata=metadata)
    return steady_s() - began


async def files_of(files: Any, volume: int) -> list[Fid]:
    """The files in a volume's root."""
    request = file_server_pb2.ReadDirRequest(directory=fid_to_wire(root_fid(volume)))
    return [
        fid_from_wire(entry.fid) async for some in files.ReadDir(request) for entry in some.entries
    ]


# --- the process --------------------------------------------------------------------------------


class _Listener:
    """One stream of the bare server."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.unary_stream(
            f"/{SERVICE}/Listen", response_deserializer=AttachResponse.FromString
        )
        self.times: asyncio.Queue[float] = asyncio.Queue()
        self._stream = method(b"")
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for _ in self._stream:
            self.times.put_nowait(steady_s())


class _Process:
    """What the commands do."""

    def __init__(self, attached: list[AttachedHost], stack: AsyncExitStack) -> None:
        self._hosts = attached
        self._stack = stack
        self._listeners: list[_Listener] = []
        self._files: dict[int, list[Fid]] = {}

    async def run(self, command: str, words: Sequence[str]) -> Any:
        match command, *words:
            case "take", volume, count:
                fids = (await self._files_of(int(volume)))[: int(count)]
                await asyncio.gather(*(_take(host, fids) for host in self._hosts))
            case "hang", count:
                for number, host in enumerate(self._hosts):
                    host.acks = number >= int(count)
            case "told", volume:
                return await asyncio.gather(*(host.told_of(int(volume)) for host in self._hosts))
            case "listen", address:
                for _ in self._hosts:
                    channel = await self._stack.enter_async_context(open_channel(address))
                    self._listeners.append(_Listener(channel))
                await self._heard()
            case "heard", *_:
                return await self._heard()
            case "store", volume:
                fids = await self._files_of(int(volume))
                pairs = zip(self._hosts, fids, strict=False)
                return await asyncio.gather(
                    *(store(host.files, fid, host.metadata) for host, fid in pairs)
                )
            case _:
                raise ValueError(f"no command {command} with {len(words)} words")
        return None

    async def _files_of(self, volume: int) -> list[Fid]:
        if volume not in self._files:
            self._files[volume] = await files_of(self._hosts[0].files, volume)
        return self._files[volume]

    async def _heard(self) -> list[float]:
        return await asyncio.gather(*(listener.times.get() for listener in self._listeners))


async def _take(host: AttachedHost, fids: Sequence[Fid]) -> None:
    """A host that did not acknowledge is not answered at first; its call has it reset."""
    while True:
        try:
            return await host.take_promises(fids)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def _serve(address: str, count: int) -> None:
    async with AsyncExitStack() as stack:
        attached = [await stack.enter_async_context(AttachedHost(address)) for _ in range(count)]
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        process = _Process(attached, stack)
        print(json.dumps(None), flush=True)
        while line := await lines.readline():
            command, *words = line.decode().split()
            print(json.dumps(await process.run(command, words)), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2])))
