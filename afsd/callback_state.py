"""The file that keeps callback state over a planned restart: written last, taken first, once.

Theory of operation
    `leave` writes it when a fileserver has stopped and its volumes are detached; nothing is served
    any more. `take` reads it when the next one starts, and removes it, on disk, before anything is
    served: whatever happens to that life, its state is never found again. What is not exactly what
    the last life left is set aside, and everybody is reset as after a crash:

    - a file whose checksum is wrong, or whose form is not known;
    - one of an earlier life than the last one (its epoch is not the last on disk), which somebody
      left lying or brought back: promises were given and broken since;
    - one from before the machine was started: its steady times mean nothing now.

Form: MAGIC, the BLAKE3 over the rest (32 bytes), a `CallBackState` of callback_state.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final

import structlog
from blake3 import blake3
from google.protobuf.message import DecodeError

from afs.runtime.files import fsync_dir, write_durably
from afs.types import ChangeMark, LockType
from afs.v1 import callback_channel_pb2, file_server_pb2
from afs.v1 import callback_state_pb2 as pb
from afs.wire import fid_from_wire, fid_to_wire
from afsd.core.hosts import SessionName
from afsd.core.locks import SavedLock
from afsd.core.saved_state import HeldPromises, SavedHost, SavedState

FILE: Final = "callbacks.state"
SET_ASIDE: Final = "callbacks.state.damaged"
MAGIC: Final = b"laterfs cbs\r\n\x1a\n\0"
FORMAT: Final = 1
_HASH_BYTES: Final = 32
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.get_logger(__name__)


class UnusableStateError(Exception):
    """The file is not what the last life of this fileserver left; says why."""


@dataclass(frozen=True, slots=True)
class KeptState:
    """What a fileserver leaves to its next life.

    Attributes:
        epoch: its life.
        boot_id: the run of the machine in which its steady times mean something.
        steady_s: when it was written; none of its promises had expired then.
        callbacks: hosts that may go on, their promises, and file locks.
        volumes: how each volume was when it was detached.
    """

    epoch: int
    boot_id: str
    steady_s: float
    callbacks: SavedState
    volumes: Mapping[int, ChangeMark]


def boot_id() -> str:
    """Which run of the machine this is; empty if it cannot be told."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def leave(run_dir: Path, kept: KeptState) -> None:
    """Writes the file; on disk when this returns. Blocks on the disk.

    Raises:
        OSError: it cannot be written.
    """
    write_durably(run_dir / FILE, encode(kept), mode=0o600)


def take(run_dir: Path, *, last_epoch: int, boot_id: str, now: float) -> KeptState | None:
    """What the last life left; the file is gone, on disk, when this returns. Blocks on the disk.

    Args:
        run_dir: where it is.
        last_epoch: the last life of this fileserver that began.
        boot_id: the run of the machine.
        now: steady seconds.

    Returns:
        None if there is nothing, or nothing that can be used: then that was set aside.

    Raises:
        OSError: the file can be neither removed nor set aside.
    """
    path = run_dir / FILE
    try:
        kept = decode(path.read_bytes())
        check(kept, last_epoch=last_epoch, boot_id=boot_id, now=now)
    except FileNotFoundError:
        return None
    except (UnusableStateError, OSError) as error:
        aside = run_dir / SET_ASIDE
        path.replace(aside)
        fsync_dir(run_dir)
        _log.warning("callback_state.set_aside", path=str(aside), reason=str(error))
        return None
    path.unlink()
    fsync_dir(run_dir)
    return kept


def check(kept: KeptState, *, last_epoch: int, boot_id: str, now: float) -> None:
    """Raises UnusableStateError unless the last life left this, in this run of the machine."""
    if kept.epoch != last_epoch:
        raise UnusableStateError(f"it is of epoch {kept.epoch}, but the last one was {last_epoch}")
    if not boot_id or kept.boot_id != boot_id or kept.steady_s > now:
        raise UnusableStateError(
            "it is from before the machine was started: its times mean nothing"
        )


def encode(kept: KeptState) -> bytes:
    """The bytes of the file."""
    base = floor(kept.steady_s)
    message = pb.CallBackState(
        format=FORMAT,
        epoch=kept.epoch,
        boot_id=kept.boot_id,
        steady_s=kept.steady_s,
        sequence=kept.callbacks.sequence,
        message=kept.callbacks.message,
        volumes=[
            pb.SavedVolume(
                volume=volume, incarnation=mark.incarnation, change_counter=mark.change_counter
            )
            for volume, mark in kept.volumes.items()
        ],
    )
    for lock in kept.callbacks.locks:
        message.locks.add(
            fid=fid_to_wire(lock.fid),
            host_uuid=lock.host,
            type=file_server_pb2.LockType.ValueType(lock.type),
            expires_s=lock.expires_at,
        )
    for host in kept.callbacks.hosts:
        saved = message.hosts.add(
            uuid=host.uuid,
            address=host.address,
            client=host.client,
            session=callback_channel_pb2.CallBackSession(
                epoch=host.begun.epoch, sequence=host.begun.sequence
            ),
            lease_end_s=host.lease_end,
        )
        for volume, promises in host.promises.items():
            expires_in_s = [second - base for second in promises.expires_at]
            saved.promises.add(volume=volume, keys=promises.keys, expires_in_s=expires_in_s)
    payload = message.SerializeToString()
    return MAGIC + blake3(payload).digest() + payload


def decode(data: bytes) -> KeptState:
    """What the bytes of a file say.

    Raises:
        UnusableStateError: they are damaged, or of a form that this version does not know.
    """
    start = len(MAGIC) + _HASH_BYTES
    payload = data[start:]
    if not data.startswith(MAGIC):
        raise UnusableStateError("it does not begin as such a file does")
    if blake3(payload).digest() != data[len(MAGIC) : start]:
        raise UnusableStateError("its checksum is wrong")
    try:
        message = pb.CallBackState.FromString(payload)
    except DecodeError as error:
        raise UnusableStateError(f"its content cannot be read: {error}") from None
    if message.format != FORMAT:
        raise UnusableStateError(f"it has format {message.format}; this version knows {FORMAT}")
    base = floor(message.steady_s)
    hosts = tuple(
        SavedHost(
            host.uuid,
            host.address,
            host.client,
            SessionName(host.session.epoch, host.session.sequence),
            host.lease_end_s,
            {
                promises.volume: HeldPromises(
                    list(promises.keys), [base + second for second in promises.expires_in_s]
                )
                for promises in host.promises
            },
        )
        for host in message.hosts
    )
    locks = tuple(
        SavedLock(fid_from_wire(lock.fid), lock.host_uuid, LockType(lock.type), lock.expires_s)
        for lock in message.locks
    )
    return KeptState(
        message.epoch,
        message.boot_id,
        message.steady_s,
        SavedState(message.sequence, message.message, hosts, locks),
        {
            volume.volume: ChangeMark(volume.incarnation, volume.change_counter)
            for volume in message.volumes
        },
    )
