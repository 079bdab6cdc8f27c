"""What happened in a cluster, as one file for people: all daemons, the faults, and the programs.

Lines are in the order of time. A daemon's log lines and what its Watch told (marks, breaks,
acknowledgements, resets) are there in the same form: when, who, what, and the rest as `key=value`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc.aio

from afs.runtime.channel import open_channel
from afs.v1 import cache_manager_pb2, cache_manager_pb2_grpc, file_server_debug_pb2
from afs.v1.file_server_debug_pb2_grpc import FileServerDebugStub
from tests.cluster.cluster import CLIENTS, DAEMONS, SERVERS, Cluster
from tests.cluster.workload import History

# Of each daemon's Watch, the newest.
WATCHED_EVENTS: Final = 20_000
# A daemon that does not answer is asked again this often.
WATCH_AGAIN_S: Final = 0.5
# Promises are too many to be read, and follow from who asked.
_LEFT_OUT: Final = {"promise.given", "data.fetched"}
# What a log line says of itself that its place in the timeline says too.
_KNOWN: Final = {"event", "timestamp", "level"}


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """`at`: seconds since the epoch; `who`: a daemon, "test" or "programs"."""

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.at, UTC).strftime("%H:%M:%S.%f")
        return f"{at} {self.who:12} {self.what}"


@dataclass(slots=True)
class Trace:
    """What is known of one test.

    Attributes:
        began: seconds since the epoch.
        sources: what programs and watchers noted.
    """

    began: float = field(default_factory=time.time)
    sources: list[Callable[[], Iterable[Line]]] = field(default_factory=list)

    def write(self, file: Path, title: str, cluster: Cluster) -> None:
        """Everything since the test began, in one file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [*self._faults(cluster), *self._logs(cluster)]
        for source in self.sources:
            lines += source()
        text = "".join(f"{line}\n" for line in sorted(lines))
        file.write_text(f"{title}\n\n{text}")

    def _faults(self, cluster: Cluster) -> Iterator[Line]:
        for at, what in cluster.notes.lines:
            if at >= self.began:
                yield Line(at, "test", f"*** {what}")

    def _logs(self, cluster: Cluster) -> Iterator[Line]:
        for service in DAEMONS:
            for text in cluster.logs(service, self.began):
                at, _, what = text.partition(" ")
                yield Line(_seconds(at), service, _readable(what))


def programs(history: History) -> Iterator[Line]:
    """What programs were told, by the steady clock of this machine."""
    offset = time.time() - time.monotonic()
    for at, what in history.failures:
        yield Line(at + offset, "programs", what)
    for write in history.writes:
        path, version = next(iter(write.versions.items()))
        who = f"write by {write.client}" if write.client else "release"
        took = f"acknowledged after {write.took_s * 1000:.0f} ms"
        yield Line(write.acked_at + offset, "programs", f"{who}: {path} version {version} {took}")
    for read in history.reads:
        how = "from its cache" if read.from_cache else "asked for"
        what = f"read by {read.client}: {read.path} version {read.version} {how}"
        yield Line(read.answered_at + offset, "programs", what)


class Watchers:
    """Listens to what all fileservers and clients tell of themselves."""

    def __init__(self) -> None:
        self._events: dict[str, deque[Any]] = {
            service: deque(maxlen=WATCHED_EVENTS)
            for service in (*(f"afsd-{number}" for number in SERVERS), *CLIENTS)
        }

    def lines(self) -> Iterator[Line]:
        """What they told."""
        for service, events in self._events.items():
            for event in events:
                yield Line(event.time_ns / 1e9, service, _told(event))

    @asynccontextmanager
    async def listening(self, cluster: Cluster) -> AsyncIterator[None]:
        """Meanwhile events are kept."""
        tasks = [
            asyncio.create_task(self._listen(service, cluster.address(service)))
            for service in self._events
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, service: str, address: str) -> None:
        async with open_channel(address) as channel:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    async for event in _watch(service, channel):
                        if event.event not in _LEFT_OUT:
                            self._events[service].append(event)
                await asyncio.sleep(WATCH_AGAIN_S)


def _watch(service: str, channel: grpc.aio.Channel) -> Any:
    if service in CLIENTS:
        client: Any = cache_manager_pb2_grpc.CacheManagerStub(channel)
        return client.Watch(cache_manager_pb2.CacheWatchRequest())
    server: Any = FileServerDebugStub(channel)
    return server.Watch(file_server_debug_pb2.WatchRequest())


def _told(event: Any) -> str:
    words = [event.event]
    for key, value in event.ListFields():
        if key.name == "fids":
            fids = " ".join(f"{fid.volume}.{fid.vnode}.{fid.uniquifier}" for fid in value)
            words.append(f"fids={fids}")
        elif key.name not in ("event", "time_ns", "steady_s"):
            words.append(f"{key.name}={value}")
    return " ".join(words)


def _readable(text: str) -> str:
    """A log line as words; one that is not ours as it is."""
    try:
        entry = json.loads(text)
    except ValueError:
        return text
    if not isinstance(entry, dict):
        return text
    level = entry.get("level", "info")
    words = [str(entry.get("event", ""))] if level == "info" else [f"{level}: {entry.get('event')}"]
    words += [f"{key}={value}" for key, value in entry.items() if key not in _KNOWN]
    return " ".join(words)


def _seconds(at: str) -> float:
    """The engine's times have nine digits after the point."""
    return datetime.fromisoformat(f"{at[:26]}+00:00").timestamp()
