"""Waiting for what programs will see before long."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 20.0
POLL_S = 0.01


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns as soon as the condition holds; fails after PATIENCE_S."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "it did not come to be"
        time.sleep(POLL_S)
