"""What holds in every test: no event of level error, and no blocking call in the event loop."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from blockbuster import BlockBuster
from hypothesis import settings

# The first sets what gRPC reads when it is imported, which test modules do before they import ours.
import afs  # noqa: F401
from afs.runtime.outgoing import show_tokens
from afs.runtime.tls import use_tls

# In CI a run must be repeatable; by hand, every run may look somewhere else.
settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
settings.register_profile("default", print_blob=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Configuration from the environment of whoever runs the tests must not reach what they test.
for _name in [name for name in os.environ if name.startswith("AFS_")]:
    del os.environ[_name]

# A shell without job control has what it starts in the background ignore Ctrl-C; programs that the
# tests start and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_OURS = [
    name for name in ("afs", "afsd", "volserverd", "clientd") if importlib.util.find_spec(name)
]


class LogEvents(list[MutableMapping[str, Any]]):
    """The log events of one test, oldest first, each a dictionary with `event` and `log_level`."""

    def named(self, event: str) -> list[MutableMapping[str, Any]]:
        """The events of one name."""
        return [entry for entry in self if entry["event"] == event]


@pytest.fixture(autouse=True)
def log_events(request: pytest.FixtureRequest) -> Iterator[LogEvents]:
    """The log events of this process during the test; one of level error fails it.

    Level error means a bug of ours. A test that provokes one is marked `expects_error_event`.
    """
    events = LogEvents()

    def keep(_: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        events.append({**event, "log_level": level})
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, keep],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=False,
    )
    yield events
    structlog.reset_defaults()
    if request.node.get_closest_marker("expects_error_event") is None:
        bad = [
            event for event in events if event["log_level"] in ("error", "exception", "critical")
        ]
        assert not bad, f"log events of level error, which mean bugs of ours: {bad}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs root for those who are not."""
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(autouse=True)
def no_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test whose event loop blocks in our code (sleep, disk, sockets).

    A test where that is right (start-up, for example) says `@pytest.mark.blocking_ok`.
    """
    if request.node.get_closest_marker("blocking_ok") is not None:
        yield
        return
    buster = BlockBuster(scanned_modules=_OURS)
    locks = buster.functions["threading.Lock.acquire"]
    # The last gRPC object to be collected, perhaps one of an earlier test, joins gRPC's own thread
    # from wherever the collector happened to run.
    locks.can_block_in("threading.py", {"_wait_for_tstate_lock"})
    # Coverage notes a line that is run for the first time.
    locks.can_block_in("coverage/collector.py", {"lock_data"})
    buster.activate()
    try:
        yield
    finally:
        buster.deactivate()


@pytest.fixture(autouse=True)
def nobody_known() -> Iterator[None]:
    """No test leaves the certificates and the token of its process to the next one."""
    yield
    use_tls(None)
    show_tokens(None)
