"""Runs a command that is a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from afs.runtime.outgoing import OneToken, show_tokens
from afsctl.token_store import shown_token

T = TypeVar("T")


def run_async(command: Coroutine[Any, Any, T]) -> T:
    """The command's answer; its calls show the user's token.

    Ctrl-C cancels the command, and is raised as KeyboardInterrupt when that has cleaned up.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        token = shown_token()
        show_tokens(None if token is None else OneToken(token))
        return runner.run(command)
