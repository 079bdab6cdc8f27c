"""Values for tests of the client's cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from afs.types import Fid, Vnode, VnodeType, root_fid
from clientd.core.cache import VnodeCache
from clientd.core.channel import SendRenewLease
from clientd.core.promise import PromiseOffer

SERVER = "fs1:7000"
OTHER = "fs2:7000"
EPOCH = 5
LEASE_S = 10.0
VOLUME = 100


def vnode(fid: Fid, data_version: int = 1, kind: VnodeType = VnodeType.FILE) -> Vnode:
    """A vnode's status at a DataVersion."""
    return Vnode(fid, kind, 0o644, 0, 0, 1, 10, data_version, 0, 0, root_fid(fid.volume))


def longer(status: Vnode, by: int = 1) -> Vnode:
    """The same vnode some changes later."""
    return replace(status, data_version=status.data_version + by)


def offer(sequence: int = 1, expires_in_s: float = 3600.0, epoch: int = EPOCH) -> PromiseOffer:
    """A CallBack."""
    return PromiseOffer(expires_in_s, sequence, epoch)


def attach(
    cache: VnodeCache,
    server: str = SERVER,
    now: float = 0.0,
    epoch: int = EPOCH,
    *,
    kept: bool = False,
) -> None:
    """Brings the channel to a fileserver up, with its lease running."""
    channel = cache.server(server).channel
    channel.on_opened(now)
    instructions = cache.on_init(
        server, sequence=1, epoch=epoch, lease_s=LEASE_S, now=now, kept=kept
    )
    (renewal,) = (each for each in instructions if isinstance(each, SendRenewLease))
    channel.on_probe(0, renewal.number, now)
    assert channel.trusts(now)


def attached_cache(**options: Any) -> VnodeCache:
    """A cache with one attached fileserver, at time 0."""
    cache = VnodeCache(**options)
    attach(cache)
    return cache


def fetch(
    cache: VnodeCache, status: Vnode, sequence: int = 1, now: float = 0.0, server: str = SERVER
) -> None:
    """A fetch of a status, with its promise, that met with nothing."""
    cache.apply_fetched(cache.ticket(server, now), status, offer(sequence), now)
