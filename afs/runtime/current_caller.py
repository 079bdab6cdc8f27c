"""Who makes the current call."""

from __future__ import annotations

from contextvars import ContextVar

from afs.access.caller import Caller

# None where authorization is off, and everybody may do everything.
current_caller: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
