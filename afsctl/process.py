"""A process by pid and start time, so that no signal reaches a stranger with a reused pid."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
# Of /proc/PID/stat, counted after the command name in parentheses. Source: proc(5), fields 3 and
# 22.
STATE_FIELD: Final = 0
START_TICKS_FIELD: Final = 19


class ProcessState(StrEnum):
    """How a process is."""

    RUNNING = "running"
    # Stopped by SIGSTOP, every thread of it.
    FROZEN = "frozen"
    # Ended; also one that waits for its parent to read its exit status.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, for good: no later process ever equals it.

    `start_ticks` counts the kernel's clock ticks since boot, so it needs the boot's id beside it.
    """

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The process that has this pid now. ProcessLookupError if there is none."""
        fields = _stat_fields(Path(f"/proc/{pid}/stat"))
        if fields is None:
            raise ProcessLookupError(f"no process has the pid {pid}")
        return cls(pid, int(fields[START_TICKS_FIELD]), _boot_id())

    def state(self) -> ProcessState:
        """How it is now."""
        fields = _stat_fields(Path(f"/proc/{self.pid}/stat"))
        if fields is None or not self._is_described_by(fields) or fields[STATE_FIELD] in "ZX":
            return ProcessState.GONE
        # A stop signal reaches the threads one by one; only when the last has stopped is it frozen.
        threads = Path(f"/proc/{self.pid}/task")
        try:
            states = [_stat_fields(thread / "stat") for thread in threads.iterdir()]
        except OSError:
            return ProcessState.GONE
        if all(thread is not None and thread[STATE_FIELD] == "T" for thread in states):
            return ProcessState.FROZEN
        return ProcessState.RUNNING

    def is_alive(self) -> bool:
        """True while it has not ended; a frozen process is alive."""
        return self.state() is not ProcessState.GONE

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal. False, and nothing sent, if the process has ended."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` for its end; True if it has ended."""
        descriptor = self._open()
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(max(timeout_s, 0.0) * 1000))
        finally:
            os.close(descriptor)

    def uptime_s(self) -> float:
        """Seconds since it started, on the clock that counts suspends."""
        now_ticks = _boottime_s() * os.sysconf("SC_CLK_TCK")
        return max(now_ticks - self.start_ticks, 0.0) / os.sysconf("SC_CLK_TCK")

    def memory_kib(self) -> int:
        """Resident memory in KiB; 0 if it has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024 if self.is_alive() else 0

    def _open(self) -> int | None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # The pidfd holds on to whatever has the pid now; only then is it worth asking whether that
        # is ours.
        if self.is_alive():
            return descriptor
        os.close(descriptor)
        return None

    def _is_described_by(self, fields: list[str]) -> bool:
        return int(fields[START_TICKS_FIELD]) == self.start_ticks and _boot_id() == self.boot_id


def _stat_fields(path: Path) -> list[str] | None:
    try:
        text = path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and parentheses; nothing after its last parenthesis does.
    return text[text.rindex(")") + 1 :].split()


def _boot_id() -> str:
    return BOOT_ID_FILE.read_text().strip()


def _boottime_s() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])
