"""Runs a command that is a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run_async(command: Coroutine[Any, Any, T]) -> T:
    """The command's answer.

    Ctrl-C cancels the command, and is raised as KeyboardInterrupt when that has cleaned up.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(command)
