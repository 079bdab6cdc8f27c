"""The audit trail: who did what to which volume, access list or group, from where, to what end.

One event `call.audited` for each call of a method that the table of methods marks as a change
(`Requirement.changes`); calls of the cell's own daemons, by which such a change is carried out, are
not written down again.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from afs.access.caller import Caller
from afs.errors import AfsError
from afs.runtime.interceptors import Context, Handler, rebuilt

_log = structlog.get_logger(__name__)
# Of what was asked for, so much is written down: names, paths, numbers.
_MAX_SUBJECT_CHARS: Final = 1024


def audited(handler: Handler, method: str, caller: Caller) -> Handler:
    """The handler of one call, which writes down how it ends."""
    behavior: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    name = method.removeprefix("/")
    if inspect.isasyncgenfunction(behavior):

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            outcome = "cancelled"
            try:
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response
                outcome = "done"
            except Exception as error:
                outcome = _outcome(error)
                raise
            finally:
                _write(name, caller, context, request, outcome)

        return rebuilt(handler, stream)

    async def call(request: Any, context: Context) -> Any:
        outcome = "cancelled"
        try:
            answer = await behavior(request, context)
            outcome = "done"
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            _write(name, caller, context, request, outcome)
        return answer

    return rebuilt(handler, call) if inspect.iscoroutinefunction(behavior) else handler


def _outcome(error: Exception) -> str:
    return error.code.name if isinstance(error, AfsError) else "failed"


def _write(method: str, caller: Caller, context: Context, request: Any, outcome: str) -> None:
    subject = ""
    if isinstance(request, Message):
        subject = str(MessageToDict(request, preserving_proto_field_name=True))
    _log.info(
        "call.audited",
        method=method,
        caller=caller.name,
        peer=context.peer(),
        subject=subject[:_MAX_SUBJECT_CHARS],
        outcome=outcome,
    )
