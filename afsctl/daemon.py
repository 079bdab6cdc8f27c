"""One daemon process of a cell: start, stop, kill, freeze, thaw, restart, wait until it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afs.runtime.tls import TlsFiles
from afsctl.health import Health, check_health
from afsctl.process import ProcessIdentity, ProcessState
from afsctl.spawn import spawn

# A daemon drains for 5 s at most, then syncs; one that takes twice that is killed.
STOP_TIMEOUT_S: Final = 10.0
# Starting costs a daemon about a second of CPU; this covers a machine that is busy with much else.
START_TIMEOUT_S: Final = 60.0
# What the poll loops wait between two looks.
LOOK_INTERVAL_S: Final = 0.02
# A local health check takes milliseconds; one that takes longer is asked again.
HEALTH_TIMEOUT_S: Final = 2.0
# Of the environment's AFS_… variables only these are meant for daemons of a cell; the rest, such as
# AFS_FILE_SERVER, are for other programs, and the daemons' settings come from the cell.
PASSED_VARIABLES: Final = ("AFS_LOG_LEVEL", "AFS_LOG_FORMAT")


class CellError(Exception):
    """A cell, or one daemon of it, could not be started, found or stopped.

    The text is one line for people.
    """


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """What a daemon is started with.

    `argv` begins with the program's absolute path; `address` is where its health is asked,
    `tls` what is shown there if it speaks TLS.
    """

    name: str
    argv: tuple[str, ...]
    address: str
    log: Path
    tls: TlsFiles | None = None


class Daemon:
    """One daemon process. Its methods block; any thread may call them, one at a time.

    Args:
        plan: what it is started with.
        process: the process, if it was started by someone else and runs already.
        dies_with_owner: the kernel kills it when this process ends.
        changed: called after its process was started or has been stopped by us.
    """

    def __init__(
        self,
        plan: DaemonPlan,
        *,
        process: ProcessIdentity | None = None,
        dies_with_owner: bool = True,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.process = process
        self._dies_with_owner = dies_with_owner
        self._changed = changed
        self._child: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    @property
    def name(self) -> str:
        """The name in its cell: `afsd`, `volserverd`, `clientd-0` and so on."""
        return self.plan.name

    @property
    def address(self) -> str:
        """Where it serves gRPC: "host:port" or "unix:PATH"."""
        return self.plan.address

    @property
    def pid(self) -> int:
        """The pid of its process, also after that has ended. CellError if it was never started."""
        if self.process is None:
            raise CellError(f"{self.name} was never started")
        return self.process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status of a process we started: None while it runs, -N if signal N ended it."""
        return self._child.poll() if self._child is not None else None

    def state(self) -> ProcessState:
        """How its process is."""
        return self.process.state() if self.process is not None else ProcessState.GONE

    def spawn(self) -> None:
        """Starts the process and does not wait for it.

        Raises:
            CellError: it runs already, or cannot be started.
        """
        if self.state() is not ProcessState.GONE:
            raise CellError(f"{self.name} is already running (pid {self.pid})")
        log = self.plan.log
        self._log_offset = log.stat().st_size if log.exists() else 0
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AFS_") or name in PASSED_VARIABLES
        }
        try:
            self._child = spawn(
                self.plan.argv,
                log=log,
                environment=environment,
                dies_with_owner=self._dies_with_owner,
            )
        except OSError as error:
            raise CellError(f"cannot start {self.name}: {error}") from None
        self.process = ProcessIdentity.of(self._child.pid)
        self._changed()

    def wait_serving(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when it says over gRPC that it serves.

        Raises:
            CellError: it has ended (with the last line it wrote), or does not serve after
                `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while check_health(self.address, HEALTH_TIMEOUT_S, self.plan.tls) is not Health.SERVING:
            if self.state() is ProcessState.GONE:
                raise CellError(
                    f"{self.name} did not start: {self.last_log_line() or self._exit_text()}"
                )
            if time.monotonic() > deadline:
                raise CellError(
                    f"{self.name} does not serve at {self.address} after {timeout_s:.0f} s;"
                    f" its log is {self.plan.log}"
                )
            time.sleep(LOOK_INTERVAL_S)
        # Somebody serves there; if it is not ours, ours has just been refused the address.
        if self.state() is ProcessState.GONE:
            raise CellError(
                f"{self.name} did not start: {self.last_log_line() or self._exit_text()}"
            )

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Starts the process and returns when it serves. Raises CellError."""
        self.spawn()
        self.wait_serving(timeout_s)

    def kill9(self) -> None:
        """Ends the process at once (SIGKILL) and returns when it has ended."""
        self._send(signal.SIGKILL)
        self._reap(STOP_TIMEOUT_S)
        self._changed()

    def freeze(self) -> None:
        """Stops the process where it is (SIGSTOP); returns when every thread of it stands still."""
        if not self._send(signal.SIGSTOP):
            raise CellError(f"cannot freeze {self.name}: it is not running")
        self._wait_until(ProcessState.FROZEN)

    def thaw(self) -> None:
        """Lets a frozen process go on (SIGCONT)."""
        if not self._send(signal.SIGCONT):
            raise CellError(f"cannot thaw {self.name}: it is not running")

    def request_stop(self) -> None:
        """Asks the process to stop (SIGTERM; a frozen one is thawed for it) and does not wait."""
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)

    def await_stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Waits for a process that was asked to stop, then kills it.

        Returns:
            True if it ended by itself.
        """
        if self._reap(timeout_s):
            self._changed()
            return True
        self.kill9()
        return False

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Stops the process in order, or kills it after `timeout_s`. True if it ended by itself."""
        self.request_stop()
        return self.await_stop(timeout_s)

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Stops the process if it runs, starts it again, and returns when it serves."""
        if self.state() is not ProcessState.GONE:
            self.stop()
        self.start(timeout_s)

    def last_log_line(self) -> str:
        """The last line it wrote since it was last started by us; empty if it wrote none."""
        try:
            with self.plan.log.open("rb") as log:
                log.seek(self._log_offset)
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip() if lines else ""

    def _send(self, number: signal.Signals) -> bool:
        return self.process is not None and self.process.send(number)

    def _reap(self, timeout_s: float) -> bool:
        if self._child is None:
            return self.process is None or self.process.wait(timeout_s)
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _wait_until(self, wanted: ProcessState) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (state := self.state()) is not wanted:
            if state is ProcessState.GONE or time.monotonic() > deadline:
                raise CellError(f"{self.name} is {state.value} where {wanted.value} was asked for")
            time.sleep(LOOK_INTERVAL_S / 10)

    def _exit_text(self) -> str:
        status = self.exit_status
        return (
            f"exit status {status}"
            if status is not None
            else f"it ended; its log is {self.plan.log}"
        )


def start_all(daemons: Sequence[Daemon], timeout_s: float = START_TIMEOUT_S) -> None:
    """Starts several daemons at once and returns when all serve.

    Raises:
        CellError: of the first that does not.
    """
    for daemon in daemons:
        daemon.spawn()
    for daemon in daemons:
        daemon.wait_serving(timeout_s)


def stop_all(daemons: Sequence[Daemon], timeout_s: float = STOP_TIMEOUT_S) -> list[Daemon]:
    """Stops several daemons at once; kills, and returns, those that did not end in `timeout_s`."""
    for daemon in daemons:
        daemon.request_stop()
    deadline = time.monotonic() + timeout_s
    return [
        daemon for daemon in daemons if not daemon.await_stop(max(deadline - time.monotonic(), 0.0))
    ]
