"""What a fileserver that stops leaves to its next life: hosts that may go on, what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from afs.types import ChangeMark
from afsd.core.hosts import SessionName
from afsd.core.locks import SavedLock


class HeldPromises(NamedTuple):
    """One host's promises on one volume, as columns: many of them cost little.

    `keys` are those of `volume_promises.file_key`; `expires_at` is in steady seconds, whole.
    """

    keys: Sequence[int]
    expires_at: Sequence[int]


@dataclass(frozen=True, slots=True)
class SavedHost:
    """A host that was owed nothing.

    Attributes:
        uuid, address, client: as in `Host`.
        begun: its session, by the name that its client knows it by.
        lease_end: steady time after which the client trusts nothing unless it is told so.
        promises: what it holds, by volume.
    """

    uuid: str
    address: str
    client: str
    begun: SessionName
    lease_end: float
    promises: Mapping[int, HeldPromises]


@dataclass(frozen=True, slots=True)
class SavedState:
    """The callback state of a fileserver that stopped.

    Attributes:
        sequence: the place in the break sequence: promises carry earlier ones.
        message: the number of the last message.
        hosts: those that may go on.
        locks: file locks.
    """

    sequence: int
    message: int
    hosts: tuple[SavedHost, ...]
    locks: tuple[SavedLock, ...] = ()


def unchanged_volumes(
    before: Mapping[int, ChangeMark], now: Mapping[int, ChangeMark]
) -> frozenset[int]:
    """Volumes that are as they were: same incarnation, same change counter, on both sides."""
    return frozenset(volume for volume, mark in before.items() if now.get(volume) == mark)
