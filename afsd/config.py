"""What an operator may choose about the fileserver."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from afs.errors import AfsError
from afs.limits import BREAK_DEADLINE_S, CHANNEL_LEASE_S, MAX_PROMISES, WORKER_TICK_S
from afs.runtime.guarded import GuardedConfig
from afs.runtime.listening import UNIX_PREFIX, split_tcp_address
from afsd.core.settings import CallBackSettings

# The longest deadline that still makes sense: a writer's own call would have timed out.
_MAX_BREAK_DEADLINE_S = 300.0
# Leases between a blink, for tests, and the shortest promise.
_MIN_CHANNEL_LEASE_S = 0.1
_MAX_CHANNEL_LEASE_S = 420.0


class AfsdConfig(GuardedConfig):
    """Keys of `afsd`."""

    listen: list[str] = Field(
        ["127.0.0.1:7000"],
        min_length=1,
        description="where clients call: host:port or unix:PATH, repeated for several",
    )
    fssync_listen: str | None = Field(
        None,
        description="where FSSync is served besides the socket fssync.sock in the run directory,"
        " such as 127.0.0.1:2040",
    )
    partitions: list[Path] = Field(
        [Path("var/vicepa")],
        min_length=1,
        description="directory of volumes, repeated for several; its last part is its name",
    )
    protection: str | None = Field(
        None,
        description="host:port of the cell's VolumeLocation, beside which the protection database"
        " is served; needed where authorization is on",
    )
    break_policy: Literal["later", "sync", "ack-first", "hot-thread"] = Field(
        "later", description="when callbacks are broken of a volume that is given back"
    )
    coherence: Literal["bounded", "strict"] = Field(
        "bounded",
        description="strict: a write also waits for the leases of clients that do not answer",
    )
    break_deadline_s: float = Field(
        BREAK_DEADLINE_S,
        gt=0,
        le=_MAX_BREAK_DEADLINE_S,
        description="seconds a write waits for clients to acknowledge their breaks",
    )
    channel_lease_s: float = Field(
        CHANNEL_LEASE_S,
        ge=_MIN_CHANNEL_LEASE_S,
        le=_MAX_CHANNEL_LEASE_S,
        description="seconds a client trusts promises without a sign of life",
    )
    worker_tick_s: float = Field(
        WORKER_TICK_S, gt=0, description="seconds between two looks of the break worker by itself"
    )
    max_promises: int = Field(MAX_PROMISES, ge=1, description="promises in all")

    @field_validator("listen", "fssync_listen", "protection")
    @classmethod
    def _addresses(cls, value: list[str] | str | None) -> list[str] | str | None:
        """Each an address to listen on."""
        for address in [value] if isinstance(value, str) else value or []:
            if not address.startswith(UNIX_PREFIX):
                try:
                    split_tcp_address(address)
                except AfsError as error:
                    raise ValueError(error.detail) from None
        return value

    @model_validator(mode="after")
    def _partition_names(self) -> Self:
        """Volumes are found by the name of their partition, so it must be one partition's only."""
        for name, count in Counter(path.name for path in self.partitions).items():
            if not name or count > 1:
                raise ValueError(
                    f"partitions: {count} are named {name!r}: expected different names"
                )
        return self

    @model_validator(mode="after")
    def _has_protection(self) -> Self:
        """Without it nobody would be in any group."""
        if self.authorization == "on" and self.protection is None:
            raise ValueError("protection: none: expected an address, since authorization is on")
        return self

    @property
    def fssync_addresses(self) -> list[str]:
        """Where FSSync is served."""
        socket = f"{UNIX_PREFIX}{self.run_dir / 'fssync.sock'}"
        return [socket] if self.fssync_listen is None else [socket, self.fssync_listen]

    @property
    def callback_settings(self) -> CallBackSettings:
        """Deadlines and bounds of the callbacks."""
        return CallBackSettings(
            break_deadline_s=self.break_deadline_s,
            channel_lease_s=self.channel_lease_s,
            max_promises=self.max_promises,
            strict=self.coherence == "strict",
        )
