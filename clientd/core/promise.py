"""A promise as the client holds it, and the ticket by which a reply is judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromiseOffer:
    """A CallBack as it came in a reply.

    Args:
        expires_in_s: seconds the client may rely on it, counted from when it sent the request.
        sequence: the point of the fileserver's break sequence at which it was given.
        epoch: the fileserver's incarnation that gave it.
    """

    expires_in_s: float
    sequence: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Promise:
    """An offer that was accepted: good until `expires_at`, in one session with a fileserver.

    `session`: see `channel`.
    """

    server: str
    session: int
    sequence: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the client knew when it sent a request; its reply is judged by what happened since.

    Args:
        server: the fileserver's address.
        generation: the callback channel's generation (see `channel`).
        stamp: the number of the last change of our own that the cache had taken in.
        sent_at: steady seconds.
    """

    server: str
    generation: int
    stamp: int
    sent_at: float
