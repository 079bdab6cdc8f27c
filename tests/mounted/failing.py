"""System calls that must fail, and how."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def fails_with(*numbers: int) -> Iterator[None]:
    """What is done inside fails with one of these error numbers."""
    names = " or ".join(errno.errorcode[number] for number in numbers)
    with pytest.raises(OSError) as failure:  # noqa: PT011 - its number is looked at below
        yield
    got = errno.errorcode.get(failure.value.errno or 0, str(failure.value))
    assert failure.value.errno in numbers, f"failed with {got}: expected {names}"
