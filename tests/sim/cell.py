"""A whole cell in one process: fileserver, volserver, clients, and what the plan does to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from afs.errors import AfsError
from afs.types import Fid, whole_volume_fid
from afsd.core import break_later, callback_machine, deliveries, host_events
from afsd.core.settings import CallBackSettings
from afsd.core.volume_rules import FsyncCommand, FsyncReason
from afsd.core.volume_state import Decision
from tests.sim.checker import Change, Checker, ensure
from tests.sim.client import Client
from tests.sim.disk import Disk, DiskVolume
from tests.sim.file_server import FileServer, Times
from tests.sim.kernel import Clock, Future, Kernel, Process, sleep
from tests.sim.network import Connection, Road
from tests.sim.plan import CLIENTS, FILES, VOLUMES, Action, Plan
from tests.sim.volserver import Volserver

# Clocks run wrong by up to this much. Source: what a bad crystal does.
CLOCK_ERROR_PPM = 200
# Bounds of the cores made small, so that a small cell reaches them.
SMALL_LIMITS: tuple[tuple[Any, str, int], ...] = (
    (break_later, "WORKER_SLICE_HOSTS", 1),
    (break_later, "WORKER_SLICE_PROMISES", 2),
    (callback_machine, "EVICTION_BATCH_PROMISES", 2),
    (callback_machine, "SWEEP_SLICE_PROMISES", 4),
    (host_events, "MAX_WAITING_CALLS_PER_HOST", 4),
    (deliveries, "MAX_BREAKS_OUTSTANDING_PER_HOST", 6),
)


@contextmanager
def small_limits() -> Generator[None, None, None]:
    """While it is open, the cores' bounds are small."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SMALL_LIMITS]
    for module, name, value in SMALL_LIMITS:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


class Cell:
    """One simulation.

    Args:
        plan: what happens.
        log: takes the lines of the history; None to keep none.
    """

    def __init__(self, plan: Plan, log: list[str] | None = None) -> None:
        self.plan = plan
        self.kernel = Kernel((AfsError,))
        slowest = 1 - CLOCK_ERROR_PPM / 1e6
        self.checker = Checker(strict=plan.strict, lease_s=plan.lease_s, slowest_rate=slowest)
        self.quiet_points = 0
        self._log = log
        self._rng = self._random("cell")
        self._settings = CallBackSettings(
            break_deadline_s=plan.break_deadline_s,
            channel_lease_s=plan.lease_s,
            max_promises=plan.max_promises,
            max_promises_per_host=plan.max_promises_per_host,
            strict=plan.strict,
        )
        self.disk = Disk({volume: DiskVolume.create(volume, FILES) for volume in VOLUMES})
        self._server_clock = self._clock("fileserver")
        self._clocks = {uuid: self._clock(uuid) for uuid in CLIENTS}
        self._roads = {
            (uuid, kind, way): Road(
                self.kernel, self._random(f"road {uuid} {kind} {way}"), plan.delay_s
            )
            for uuid in CLIENTS
            for kind in ("breaks", "calls")
            for way in ("up", "down")
        }
        self._connections: dict[tuple[str, str], Connection] = {}
        self.server = self._start_server()
        self.clients = {uuid: self._start_client(uuid) for uuid in CLIENTS}
        volserver = Process(self.kernel, "volserver", self._server_clock)
        self.volserver = Volserver(
            volserver, self.disk, self._fssync, self._random("volserver"), self.tell
        )
        self._volserver_process = volserver
        for action in plan.actions:
            self.kernel.at(action.at, None, self._act, action)

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{what} {self.plan.seed}")

    def _clock(self, whose: str) -> Clock:
        rng = self._random(f"clock {whose}")
        error = CLOCK_ERROR_PPM / 1e6
        return Clock(1 + rng.uniform(-error, error), rng.uniform(0.0, 1e5))

    def tell(self, who: str, what: str, **more: object) -> None:
        """Notes one line of the history."""
        if self._log is not None:
            rest = " ".join(f"{name}={_short(value)}" for name, value in more.items())
            self._log.append(f"{self.kernel.now:9.3f}  {who:<11}{what} {rest}".rstrip())

    # --- processes --------------------------------------------------------------------------------

    def _start_server(self) -> FileServer:
        plan = self.plan
        return FileServer(
            Process(self.kernel, "fileserver", self._server_clock),
            self.disk,
            self.checker,
            self._settings,
            by_worker=plan.by_worker,
            times=Times(plan.sync_s, plan.read_s, plan.cold),
            rng=self._random(f"fileserver {self.kernel.now}"),
            tell=self.tell,
        )

    def _start_client(self, uuid: str) -> Client:
        client = Client(
            Process(self.kernel, uuid, self._clocks[uuid]),
            uuid,
            partial(self._connect, uuid),
            self.disk,
            self.checker,
            self._random(f"client {uuid} {self.kernel.now}"),
            self.tell,
            max_vnodes=self.plan.max_vnodes,
            max_marks=self.plan.max_marks,
        )
        client.files = [self._fid(volume, number) for volume in VOLUMES for number in range(FILES)]
        return client

    def _connect(
        self,
        uuid: str,
        kind: str,
        receive: Callable[[object], None],
        on_lost: Callable[[], None],
    ) -> Connection | None:
        up, down = (self._roads[uuid, kind, way] for way in ("up", "down"))
        server = self.server
        if up.is_cut or down.is_cut or not server.process.alive or server.process.frozen:
            return None
        if server.stopping:
            return None
        process = self.clients[uuid].process
        connection = Connection(process, server.process, up, down, receive, on_lost)
        self._connections[uuid, kind] = connection
        if kind == "calls":
            server.accept_calls(connection)
        else:
            server.accept_channel(connection)
        return connection

    async def _fssync(
        self,
        volume_id: int,
        command: FsyncCommand,
        reason: FsyncReason,
        change: Change | None = None,
    ) -> Decision | None:
        server = self.server
        if not server.process.alive or server.stopping:
            return None
        decided: Future[Decision | None] = Future()

        async def operate() -> None:
            decided.set(await server.operate(volume_id, command, reason, "volserver", change))

        server.process.start(operate())
        while not decided.done and server.is_alive():
            await sleep(self._volserver_process, 0.05)
        return decided.result() if decided.done else None

    # --- the plan ---------------------------------------------------------------------------------

    def _fid(self, volume: int, number: int) -> Fid:
        return Fid(volume, 2 + 2 * number, 2 + 2 * number)

    def _act(self, action: Action) -> None:
        self.tell("plan", str(action)[11:])
        getattr(self, f"_do_{action.kind}")(action)

    def _local(self, action: Action) -> Client:
        return self.clients[action.who]

    def _do_read(self, action: Action) -> None:
        client = self._local(action)
        fid = self._fid(action.volume, action.number)
        client.process.soon(self._begin, client, client.read, fid, False)

    def _do_read_data(self, action: Action) -> None:
        client = self._local(action)
        fid = self._fid(action.volume, action.number)
        client.process.soon(self._begin, client, client.read, fid, True)

    @staticmethod
    def _begin(client: Client, method: Any, fid: Fid, data: bool) -> None:
        client.process.start(method(fid, data=data))

    def _do_list(self, action: Action) -> None:
        client = self._local(action)
        self._spawn(client, lambda: client.list_names(Fid(action.volume, 1, 1)))

    def _do_write(self, action: Action) -> None:
        client = self._local(action)
        self._spawn(client, lambda: client.write(self._fid(action.volume, action.number)))

    def _do_create(self, action: Action) -> None:
        client = self._local(action)
        self._spawn(client, lambda: client.create(Fid(action.volume, 1, 1), action.word))

    def _do_remove(self, action: Action) -> None:
        client = self._local(action)
        self._spawn(client, lambda: client.remove(Fid(action.volume, 1, 1), action.word))

    @staticmethod
    def _spawn(client: Client, begin: Callable[[], Any]) -> None:
        client.process.soon(lambda: client.process.start(begin()))

    def _do_volume(self, action: Action) -> None:
        self._volserver_process.start(
            self.volserver.work(
                action.volume, action.number, action.seconds, FsyncCommand[action.word]
            )
        )

    def _do_break_volume(self, action: Action) -> None:
        self._volserver_process.start(self.volserver.break_callbacks(action.volume))

    def _do_freeze(self, action: Action) -> None:
        client = self._local(action)
        if not client.process.frozen:
            client.freeze()
            self.kernel.at(self.kernel.now + action.seconds, None, client.thaw)

    def _do_freeze_server(self, action: Action) -> None:
        server = self.server
        if server.process.alive and not server.process.frozen:
            server.process.freeze()
            server.frozen_s += action.seconds * 1.01
            self.kernel.at(self.kernel.now + action.seconds, None, self._thaw_server, server)

    def _thaw_server(self, server: FileServer) -> None:
        if server.process.frozen:
            server.thawed_at = self.kernel.now
            server.process.thaw(self._rng)

    def _do_cut(self, action: Action) -> None:
        kinds = ("breaks", "calls") if action.number else (self._rng.choice(("breaks", "calls")),)
        ways = ("up", "down") if action.word == "both" else (action.word,)
        for kind in kinds:
            for way in ways:
                road = self._roads[action.who, kind, way]
                road.is_cut = True
                self.kernel.at(self.kernel.now + action.seconds, None, road.heal)
            # Keep-alives give a connection up that is cut for long; each side at its own time.
            if action.seconds > 6:
                self._break_off(
                    action.who, kind, self._rng.uniform(5.0, 8.0), self._rng.uniform(5.0, 40.0)
                )

    def _do_break_off(self, action: Action) -> None:
        kinds = ("breaks", "calls") if action.word == "both" else (action.word,)
        for kind in kinds:
            self._break_off(action.who, kind, action.seconds, action.seconds_2)

    def _break_off(self, who: str, kind: str, client_s: float, server_s: float) -> None:
        connection = self._connections.get((who, kind))
        if connection is not None:
            connection.break_off(client_s, server_s)

    def _do_crash(self, action: Action) -> None:
        server = self.server
        if not server.process.alive:
            return
        server.process.kill()
        server.lose_unsynced(self._rng)
        self.checker.server_gone(server.epoch, self.kernel.now)
        for connection in self._connections.values():
            if connection.server is server.process:
                notices_s = self._rng.uniform(0.0, action.seconds_2)
                connection.break_off(notices_s, 0.0)
        self.kernel.at(self.kernel.now + action.seconds, None, self._restart_server)

    def _do_restart_server(self, action: Action) -> None:
        """A planned restart; what the file and the volumes go through meanwhile is in the action.

        `number`: files of `volume` changed while the fileserver is away. `word`: the file is
        damaged or lost. `seconds_2`: how long the next life lasts, if it ends in a crash. `who`
        writes just before, and the other volume is marked, with a worker that is slow.
        """
        server = self.server
        if server.process.alive and not server.stopping:
            server.process.start(self._stop_server(server, action))

    async def _stop_server(self, server: FileServer, action: Action) -> None:
        if action.who:
            fid = self._fid(action.volume, 0)
            client = self.clients[action.who]
            self._spawn(client, lambda: client.write(fid))
            server.worker_paused_until = self.kernel.now + 0.5
            other = next(volume for volume in VOLUMES if volume != action.volume)
            self._volserver_process.start(self.volserver.break_callbacks(other))
            await sleep(server.process, self._rng.uniform(0.0, 5.0) * self.plan.delay_s)
            if server.stopping:
                return
        await server.stop()
        server.process.kill()
        self.checker.server_stopped(server.epoch, self.kernel.now)
        for connection in self._connections.values():
            if connection.server is server.process:
                connection.close_at_server()
        data = self.disk.callback_state
        if data is not None and action.word == "damaged":
            at = self._rng.randrange(len(data))
            self.disk.callback_state = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        elif action.word == "lost":
            self.disk.callback_state = None
        self.kernel.at(self.kernel.now + action.seconds / 2, None, self._change_offline, action)
        back_at = self.kernel.now + action.seconds
        self.kernel.at(back_at, None, self._restart_server)
        if action.seconds_2:
            crash = Action(back_at + action.seconds_2, "crash", seconds=0.05)
            self.kernel.at(crash.at, None, self._act, crash)

    def _change_offline(self, action: Action) -> None:
        """A tool works on a volume that no daemon has."""
        volume = self.disk.volumes[action.volume]
        if not action.number or volume.holder is not None or self.server.process.alive:
            return
        now = self.kernel.now
        change = Change({}, by_volume=True)
        for fid in sorted(fid for fid in volume.vnodes if fid != volume.root)[: action.number]:
            change.versions[fid] = volume.write(fid).data_version
        self.checker.must_break((whole_volume_fid(volume.volume_id),), None, 1 << 60, now)
        self.checker.acked(change, now)
        self.tell("tool", f"worked on {volume.volume_id}", changed=change.versions)

    def _restart_server(self) -> None:
        if self.server.process.alive:
            return
        for volume in self.disk.volumes.values():
            if volume.holder == "fileserver":
                volume.holder = None
        self.server = self._start_server()
        self.tell("fileserver", "restarted", epoch=self.server.epoch)

    def _do_restart_client(self, action: Action) -> None:
        client = self._local(action)
        if not client.process.alive:
            return
        if action.number and not client.process.frozen:
            client.process.start(client.give_up_all())
        self.kernel.at(
            self.kernel.now + 0.2 * action.number, None, self._kill_client, client, action
        )

    def _kill_client(self, client: Client, action: Action) -> None:
        client.process.kill()
        self.checker.client_gone(client.uuid)
        for kind in ("breaks", "calls"):
            connection = self._connections.get((client.uuid, kind))
            if connection is not None:
                connection.close_at_client()
        self.kernel.at(self.kernel.now + action.seconds, None, self._restart_client, client.uuid)

    def _restart_client(self, uuid: str) -> None:
        if not self.clients[uuid].process.alive:
            self.clients[uuid] = self._start_client(uuid)

    def _do_never_acks(self, action: Action) -> None:
        client = self._local(action)
        client.never_acks = True
        self.kernel.at(self.kernel.now + action.seconds, None, self._acks_again, client)

    def _acks_again(self, client: Client) -> None:
        client.never_acks = False

    def _do_eager(self, action: Action) -> None:
        client = self._local(action)
        client.is_eager = True
        self.kernel.at(self.kernel.now + action.seconds, None, self._no_more_eager, client)

    def _no_more_eager(self, client: Client) -> None:
        client.is_eager = False

    def _do_pause_worker(self, action: Action) -> None:
        self.server.worker_paused_until = self.kernel.now + action.seconds

    def _do_wall_jump(self, action: Action) -> None:
        self._server_clock.wall_offset += action.seconds

    def _do_long_wait(self, action: Action) -> None:
        """Nothing but time."""

    # --- running ----------------------------------------------------------------------------------

    def run(self, max_steps: int = 10**9) -> int:
        """Runs the plan, or so many steps of it, then the quiet point; how many steps.

        Raises:
            ViolationError: the cell did what it never must.
        """
        try:
            last = self.plan.actions[-1].at if self.plan.actions else 0.0
            done = self._run_until(last + 1.0, max_steps)
            if done and self.kernel.steps < max_steps:
                self._quiet_point(max_steps)
            return self.kernel.steps
        finally:
            self.kernel.close()

    def _run_until(self, until: float, max_steps: int) -> bool:
        kernel = self.kernel
        while kernel.steps < max_steps:
            more, process = kernel.step(until)
            if not more:
                return True
            # Nothing else can change the machine's books than a step of the fileserver.
            if process is self.server.process and process.alive:
                self.server.check()
        return False

    def _quiet_point(self, max_steps: int) -> None:
        """Everything is mended and left alone; then nobody waits and nothing is owed (I4, I5)."""
        self.tell("plan", "quiet")
        for road in self._roads.values():
            road.heal()
        if not self.server.process.alive:
            self._restart_server()
        self._thaw_server(self.server)
        for client in self.clients.values():
            client.thaw()
            client.never_acks = client.is_eager = False
            self._restart_client(client.uuid)
        settle_s = 2 * self.plan.lease_s + 120.0
        if not self._run_until(self.kernel.now + settle_s, max_steps):
            return
        for client in self.clients.values():
            for fid in client.files:
                client.process.start(client.read(fid, data=False))
        if not self._run_until(self.kernel.now + 5.0, max_steps):
            return
        self.quiet_points += 1
        server, machine = self.server, self.server.machine
        ensure(not machine.later.marked, "I5", "a volume is still marked when all is quiet")
        ensure(not server.waiting, "I4", "somebody still waits when all is quiet")
        ensure(
            not self.checker.owed(), "I4", f"still owed when all is quiet: {self.checker.owed()}"
        )
        for client in self.clients.values():
            ensure(client.waiting == 0, "I7", f"calls of {client.uuid} hang when all is quiet")
            ensure(client.attached.is_set, "I7", f"{client.uuid} is not attached when all is quiet")
            now = client.process.now()
            for fid in client.files:
                entry = client.cache.trusted(fid, now)
                newest = self.disk.volumes[fid.volume].versions[fid]
                told = None if entry is None else entry.status.data_version
                ensure(
                    told in (None, newest),
                    "I4",
                    f"{client.uuid} trusts version {told} of {fid} when all is quiet, not {newest}",
                )


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items()) + "}"
    return str(value)
