"""The Cell API over stand-in daemons: real processes and health checks, no file service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from afsctl.cell import Cell, CellError, Ports, Settings
from afsctl.cell_plan import MAX_SERVERS, CellPlan
from afsctl.health import Health, check_health
from afsctl.process import ProcessIdentity, ProcessState

FAKE = str(Path(__file__).with_name("fake_daemon.py"))
PROGRAMS = dict.fromkeys(("afsd", "volserverd", "clientd"), (sys.executable, FAKE))
DEADLINE_S = 30.0

StartCell = Callable[..., Cell]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartCell]:
    """Starts cells of stand-in daemons in tmp_path, and stops them after the test."""
    cells: list[Cell] = []

    def start_cell(
        clients: int = 1,
        *,
        servers: int = 1,
        partitions: int = 1,
        settings: Settings | None = None,
        dies_with_owner: bool = True,
    ) -> Cell:
        cell = Cell.start(
            tmp_path,
            servers=servers,
            partitions=partitions,
            clients=clients,
            settings=settings,
            dies_with_owner=dies_with_owner,
            programs=PROGRAMS,
        )
        cells.append(cell)
        return cell

    yield start_cell
    for cell in cells:
        cell.stop(timeout_s=0.0)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Polls until the condition holds; fails the test after DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        threading.Event().wait(0.01)


def processes(cell: Cell) -> list[ProcessIdentity]:
    """The cell's processes."""
    return [daemon.process for daemon in cell.daemons if daemon.process is not None]


def test_mounts_are_the_first_clients(tmp_path: Path) -> None:
    """Each mount is a client's own, made if it is not there; the other clients have none."""
    points = [tmp_path / "one", tmp_path / "two"]
    with Cell.start(tmp_path / "cell", clients=3, mounts=points, programs=PROGRAMS) as cell:
        said = [
            argv[argv.index("--mount") + 1] if "--mount" in argv else None
            for argv in (client.plan.argv for client in cell.clientds)
        ]
    assert said == [*map(str, points), None]
    assert all(point.is_dir() for point in points)


def test_more_mounts_than_clients(tmp_path: Path) -> None:
    """A mount without a client is refused before anything is started."""
    with pytest.raises(CellError, match="2 mounts need as many clients, not 1"):
        Cell.start(tmp_path / "cell", mounts=[tmp_path / "a", tmp_path / "b"], programs=PROGRAMS)


def test_started_cell_serves_and_stopped_cell_leaves_no_process(
    start: StartCell, tmp_path: Path
) -> None:
    """Every daemon serves after start; after stop none is left, and cell.json is gone."""
    cell = start(clients=2)
    running = processes(cell)
    assert [daemon.name for daemon in cell.daemons] == [
        "afsd",
        "volserverd",
        "clientd-0",
        "clientd-1",
    ]
    assert all(
        check_health(daemon.address, DEADLINE_S) is Health.SERVING for daemon in cell.daemons
    )
    assert cell.clients == tuple(daemon.address for daemon in cell.clientds)
    assert (
        json.loads((tmp_path / "cell.json").read_text())["addresses"]["file_server"]
        == cell.file_server
    )
    assert (tmp_path / "run/afsd.pid").read_text() == f"{cell.afsd.pid}\n"

    assert cell.stop() == []
    assert [process.state() for process in running] == [ProcessState.GONE] * 4
    assert not (tmp_path / "cell.json").exists()
    assert Cell.find(tmp_path) is None


def test_daemons_get_their_settings_as_flags(start: StartCell, tmp_path: Path) -> None:
    """Policy, lease, lists and settings of all and of one client arrive as flags."""
    cell = Cell.start(
        tmp_path,
        clients=2,
        break_policy="sync",
        lease_s=2.5,
        settings={
            "afsd": {"fssync_listen": ["a", "b"]},
            "clientd": {"cache_limit_bytes": 1},
            "clientd-1": {"cache_limit_bytes": 2},
        },
        programs=PROGRAMS,
    )
    cell.stop()
    afsd = (tmp_path / "log/afsd.log").read_text()
    assert "--break-policy sync" in afsd
    assert "--channel-lease-s 2.5" in afsd
    assert "--fssync-listen a --fssync-listen b" in afsd
    assert f"--partitions {tmp_path / 'vicepa'}" in afsd
    assert "--cache-limit-bytes 1" in (tmp_path / "log/clientd-0.log").read_text()
    assert "--cache-limit-bytes 2" in (tmp_path / "log/clientd-1.log").read_text()


def test_cell_of_several_servers(start: StartCell, tmp_path: Path) -> None:
    """Each server has daemons, addresses and partitions of its own; the first has the VLDB."""
    cell = start(
        servers=3,
        partitions=2,
        settings={"afsd": {"max_promises": 7}, "afsd-1": {"worker_tick_s": 3}},
    )
    assert [daemon.name for daemon in cell.daemons] == [
        *("afsd", "volserverd", "afsd-1", "volserverd-1", "afsd-2", "volserverd-2", "clientd-0")
    ]
    assert (cell.afsd, cell.volserverd) == (cell.servers[0].afsd, cell.servers[0].volserverd)
    assert (cell.file_server, cell.fssync) == (cell.servers[0].file_server, cell.servers[0].fssync)
    first, second, third = cell.servers
    assert first.partitions == (tmp_path / "vicepa", tmp_path / "vicepb")
    assert second.partitions == (tmp_path / "server-1/vicepa", tmp_path / "server-1/vicepb")
    assert all(path.is_dir() for server in cell.servers for path in server.partitions)
    assert len({*(s.fssync for s in cell.servers), *(s.vol_server for s in cell.servers)}) == 6
    flags = [(tmp_path / f"log/volserverd{n}.log").read_text() for n in ("", "-1", "-2")]
    assert f"--location-listen {cell.location}" in flags[0]
    assert all(f"--location {cell.location}\n" in text for text in flags[1:])
    assert f"--fssync {third.fssync}" in flags[2]
    assert f"--file-server {third.file_server}" in flags[2]
    assert f"--partitions {third.partitions[0]} --partitions {third.partitions[1]}" in flags[2]
    assert "--max-promises 7" in (tmp_path / "log/afsd-2.log").read_text()
    assert "--worker-tick-s 3" in (tmp_path / "log/afsd-1.log").read_text()

    found = Cell.find(tmp_path)
    assert found is not None
    assert [server.vol_server for server in found.servers] == [
        server.vol_server for server in cell.servers
    ]
    assert found.servers[1].partitions == second.partitions
    second.afsd.kill9()
    assert found.servers[1].afsd.state() is ProcessState.GONE
    running = processes(cell)
    assert cell.stop() == []
    assert not any(process.is_alive() for process in running)


def test_default_ports_of_servers_are_apart(tmp_path: Path) -> None:
    """The documented numbers; none twice, however many servers and clients."""
    plan = CellPlan(
        tmp_path,
        servers=MAX_SERVERS,
        partitions=1,
        clients=1000,
        ports=Ports.DEFAULT,
        settings={},
        programs={},
    )
    assert plan.servers[0].file_server == "127.0.0.1:7000"
    assert plan.servers[0].vol_server == "127.0.0.1:7005"
    assert plan.servers[1].file_server == "127.0.0.1:9010"
    assert plan.servers[2].vol_server == "127.0.0.1:9025"
    taken = [plan.addresses.location, *plan.addresses.clients]
    taken += [address for one in plan.servers for address in (one.file_server, one.vol_server)]
    assert len(set(taken)) == 1 + 1000 + 2 * MAX_SERVERS


def test_cell_file_of_a_single_server_version_is_read(start: StartCell, tmp_path: Path) -> None:
    """A cell.json that knows nothing of servers is that of a cell of one server."""
    cell = start()
    document = json.loads((tmp_path / "cell.json").read_text())
    del document["servers"]
    (tmp_path / "cell.json").write_text(json.dumps(document))
    found = Cell.find(tmp_path)
    assert found is not None
    (server,) = found.servers
    assert (server.vol_server, server.fssync) == (cell.vol_server, cell.fssync)
    assert server.partitions == (cell.partition,)


@pytest.mark.parametrize(("servers", "partitions"), [(0, 1), (1, 0), (1, 27), (MAX_SERVERS + 1, 1)])
def test_numbers_that_make_no_cell_are_refused(
    start: StartCell, servers: int, partitions: int
) -> None:
    """One clear line names what a cell can have."""
    with pytest.raises(CellError, match="a cell has 1 to"):
        start(servers=servers, partitions=partitions)


def test_second_cell_in_the_same_directory_is_refused(start: StartCell, tmp_path: Path) -> None:
    """A running cell is neither disturbed nor doubled."""
    cell = start()
    with pytest.raises(CellError, match="a cell is running in"):
        start()
    assert all(process.is_alive() for process in processes(cell))


def test_daemon_that_fails_at_start_is_reported_with_its_own_words(
    start: StartCell, tmp_path: Path
) -> None:
    """The error has the daemon's name and last line; those that had started are stopped."""
    with pytest.raises(CellError, match="clientd-0 did not start: fake daemon: port 1 is taken"):
        start(settings={"clientd-0": {"fail": "port 1 is taken"}})
    assert Cell.find(tmp_path) is None
    for name in ("afsd", "volserverd"):
        pid = int((tmp_path / f"log/{name}.log").read_text().split()[1])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_daemon_that_never_serves_is_given_up(tmp_path: Path) -> None:
    """A daemon that says NOT_SERVING past the time-out fails the start."""
    programs = {**PROGRAMS, "afsd": (sys.executable, FAKE, "--never-serve")}
    with pytest.raises(CellError, match="afsd does not serve at"):
        Cell.start(tmp_path, timeout_s=1.0, programs=programs)


def test_frozen_daemon_is_silent_until_thawed(start: StartCell) -> None:
    """Freeze returns when the process stands still; thaw lets it answer again."""
    client = start().clientds[0]
    client.freeze()
    assert client.state() is ProcessState.FROZEN
    assert check_health(client.address, 0.2) is Health.SILENT
    client.thaw()
    client.wait_serving()
    assert client.state() is ProcessState.RUNNING


def test_killed_daemon_is_started_again_at_its_address(start: StartCell, tmp_path: Path) -> None:
    """kill9 returns when the process has ended; restart starts one at the same address."""
    cell = start()
    first = cell.afsd.pid
    cell.afsd.kill9()
    assert cell.afsd.state() is ProcessState.GONE
    assert cell.afsd.exit_status == -signal.SIGKILL
    cell.afsd.restart()
    assert cell.afsd.pid != first
    assert check_health(cell.file_server, DEADLINE_S) is Health.SERVING
    found = Cell.find(tmp_path)
    assert found is not None
    assert found.afsd.pid == cell.afsd.pid


def test_frozen_cell_stops(start: StartCell) -> None:
    """A frozen daemon is thawed to stop in order."""
    cell = start()
    cell.clientds[0].freeze()
    assert cell.stop() == []


def test_daemon_that_ignores_sigterm_is_killed_and_named(tmp_path: Path) -> None:
    """Stop ends every process, and says which it had to kill."""
    programs = {**PROGRAMS, "clientd": (sys.executable, FAKE, "--ignore-sigterm")}
    cell = Cell.start(tmp_path, programs=programs)
    running = processes(cell)
    assert [daemon.name for daemon in cell.stop(timeout_s=0.5)] == ["clientd-0"]
    assert not any(process.is_alive() for process in running)


def test_background_cell_is_found_and_stopped_by_another_program(
    start: StartCell, tmp_path: Path
) -> None:
    """What one program started in the background another finds by its directory and stops."""
    cell = start(dies_with_owner=False)
    found = Cell.find(tmp_path)
    assert found is not None
    assert found.is_running()
    assert found.file_server == cell.file_server
    assert found.stop() == []
    assert not any(process.is_alive() for process in processes(cell))


OWNER = """
import sys, threading
from afsctl.cell import Cell
programs = {{name: (sys.executable, {fake!r}) for name in ("afsd", "volserverd", "clientd")}}
cells = []
start = lambda: cells.append(Cell.start({directory!r}, programs=programs))
thread = threading.Thread(target=start)
thread.start()
thread.join()
cells[0].clientds[0].freeze()
print("up", flush=True)
sys.stdin.read()
"""


def test_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    """Daemons outlive the thread that started them, but not their owner, not even a frozen one."""
    script = OWNER.format(fake=FAKE, directory=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        cell = Cell.find(tmp_path)
        assert cell is not None
        running = processes(cell)
        assert [process.is_alive() for process in running] == [True] * 3
        owner.send_signal(signal.SIGKILL)
    for process in running:
        wait_for(lambda process=process: not process.is_alive(), f"end of {process}")  # type: ignore[misc]


def test_stranger_with_a_reused_pid_is_never_signalled() -> None:
    """A process that has the pid but not the start time counts as gone."""
    own = ProcessIdentity.of(os.getpid())
    stranger = replace(own, start_ticks=own.start_ticks - 1)
    assert own.is_alive()
    assert stranger.state() is ProcessState.GONE
    assert not stranger.send(signal.SIGKILL)
    assert not replace(own, boot_id="of another boot").send(signal.SIGKILL)
    assert stranger.wait(0.0)


def test_too_long_directory_is_refused_with_a_clear_line(tmp_path: Path) -> None:
    """The unix socket's limit is named before anything starts."""
    with pytest.raises(CellError, match="at most 107"):
        Cell.start(tmp_path / ("x" * 100), programs=PROGRAMS)


def test_cell_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """A damaged or foreign cell.json is one clear error."""
    for text in ("{", "[]", '{"version": 1}', '{"version": 99}'):
        (tmp_path / "cell.json").write_text(text)
        with pytest.raises(CellError, match=r"cell\.json"):
            Cell.find(tmp_path)
