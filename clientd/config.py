"""Configuration of clientd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from afs.limits import CACHE_LIMIT_BYTES, MIB, OUTAGE_PATIENCE_S
from afs.runtime.config import DaemonConfig

# Less than this holds no useful part of anything.
LEAST_CACHE_BYTES = MIB


class ClientdConfig(DaemonConfig):
    """Keys of clientd."""

    listen: list[str] = Field(
        ["127.0.0.1:7001"],
        description="where CacheManager is served: host:port or unix:PATH; repeatable",
        min_length=1,
    )
    location: str = Field(
        "127.0.0.1:7003", description="address of the VolumeLocation service", min_length=1
    )
    cache_dir: Path = Field(
        Path("var/cache"), description="directory of the cache and of the host's UUID"
    )
    cache_limit_bytes: int = Field(
        CACHE_LIMIT_BYTES, description="bytes on disk that the cache may take", ge=LEAST_CACHE_BYTES
    )
    on_outage: Literal["wait", "fail"] = Field(
        "fail",
        description="what programs do while a fileserver is away: wait until it is back, or fail",
    )
    outage_patience_s: float = Field(
        OUTAGE_PATIENCE_S,
        description="seconds after a fileserver went away for which calls wait before they fail",
        ge=0,
    )
    mount: Path | None = Field(
        None, description="empty directory at which to mount the cell's root (default: no mount)"
    )
    mount_allow_other: bool = Field(
        default_factory=lambda: os.geteuid() == 0,
        description="whether other users may use the mount (default: if clientd runs as root)",
    )
