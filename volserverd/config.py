"""What an operator may choose about the volserver."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from afs.errors import AfsError
from afs.limits import REMNANT_LIFETIME_S, SALVAGE_POLL_S, TRANSACTION_IDLE_S
from afs.runtime.guarded import GuardedConfig
from afs.runtime.listening import UNIX_PREFIX, split_tcp_address


class VolserverdConfig(GuardedConfig):
    """Keys of `volserverd`."""

    listen: list[str] = Field(
        ["127.0.0.1:7005"],
        min_length=1,
        description="where VolServer is served: host:port or unix:PATH, repeated for several",
    )
    location_listen: list[str] = Field(
        ["127.0.0.1:7003"],
        min_length=1,
        description="where VolumeLocation is served, unless `location` names another",
    )
    location: str | None = Field(
        None,
        description="host:port of another volserver's VolumeLocation, used instead of our own",
    )
    location_only: bool = Field(
        default=False,
        description="serve VolumeLocation alone: no VolServer, no partitions, no fileserver",
    )
    vldb: Path = Field(
        Path("var/vldb.sqlite3"), description="file of our own volume location database"
    )
    ptdb: Path | None = Field(
        None,
        description="file of our own protection database (default: ptdb.sqlite3 beside the vldb)",
    )
    fssync: str | None = Field(
        None,
        description="where the fileserver serves FSSync: unix:PATH or host:port"
        " (default: fssync.sock in the run directory)",
    )
    partitions: list[Path] = Field(
        [Path("var/vicepa")],
        min_length=1,
        description="directory of volumes, the same as the fileserver's, repeated for several",
    )
    file_server: str = Field(
        "127.0.0.1:7000",
        min_length=1,
        description="host:port of the fileserver, as clients are told",
    )
    vol_server: str | None = Field(
        None,
        description="host:port of this volserver, as others are told (default: the first of"
        " `listen`)",
    )
    remnant_lifetime_s: float = Field(
        REMNANT_LIFETIME_S,
        ge=0,
        description="seconds that the old copy of a volume that moved away is kept, so that a move"
        " back sends only what changed",
    )
    transaction_idle_s: float = Field(
        TRANSACTION_IDLE_S,
        gt=0,
        description="seconds after which a dump or restore with a silent client is ended",
    )
    salvage_poll_s: float = Field(
        SALVAGE_POLL_S,
        gt=0,
        description="seconds between two looks for damaged volumes, which are then salvaged",
    )

    @field_validator("listen", "location_listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        """Each an address to listen on."""
        for address in value:
            _check(address)
        return value

    @field_validator("location", "fssync")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            _check(value)
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
    def _has_something_to_serve(self) -> Self:
        """One that serves locations alone needs its own."""
        if self.location_only and self.location is not None:
            raise ValueError(
                f"location: {self.location!r}: expected none, since location_only serves our own"
            )
        return self

    @property
    def ptdb_path(self) -> Path:
        """The file of our own protection database."""
        return self.ptdb or self.vldb.with_name("ptdb.sqlite3")

    @property
    def fssync_address(self) -> str:
        """Where the fileserver serves FSSync."""
        return self.fssync or f"{UNIX_PREFIX}{self.run_dir / 'fssync.sock'}"


def _check(address: str) -> None:
    if address.startswith(UNIX_PREFIX):
        return
    try:
        split_tcp_address(address)
    except AfsError as error:
        raise ValueError(error.detail) from None
