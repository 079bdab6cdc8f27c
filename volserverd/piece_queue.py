"""Pieces of a dump on their way between an operation and the call of its client."""

from __future__ import annotations

from volserverd.bounded_queue import BoundedQueue


class PieceQueue(BoundedQueue[bytes]):
    """A bounded queue of a dump's pieces."""
