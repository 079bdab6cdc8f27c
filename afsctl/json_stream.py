"""JSON objects as they come: from arguments, or from standard input while it is being written."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

from afsctl.failure import CommandError

_READ_BYTES: Final = 65536
_SHOWN_CHARACTERS: Final = 40


def json_objects(chunks: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects in a text that comes in chunks, one after the other or in arrays.

    Each object is yielded as soon as its last character has come.

    Raises:
        CommandError: the text is no JSON, or has something else than objects in it.
    """
    decoder = json.JSONDecoder()
    text = ""
    for chunk in chunks:
        text = (text + chunk).lstrip()
        while text:
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                # Perhaps the rest is still to come.
                break
            text = text[end:].lstrip()
            yield from _objects_of(value)
    if text:
        try:
            decoder.raw_decode(text)
        except ValueError as error:
            raise CommandError(f"no JSON: {error}: {text[:_SHOWN_CHARACTERS]!r}") from None


def standard_input() -> Iterator[str]:
    """Standard input in chunks, each as soon as it is there."""
    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:
        yield from sys.stdin
        return
    # Not through sys.stdin: a thread that still waits in it when the program ends would crash that.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(descriptor, _READ_BYTES):
        yield decoder.decode(data)


def _objects_of(value: Any) -> Iterator[dict[str, Any]]:
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise CommandError(f"{json.dumps(one)[:_SHOWN_CHARACTERS]} is no JSON object")
        yield one
