"""Configuration of a daemon that looks at who calls it, and the door made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal, Self

import grpc.aio
import structlog
from pydantic import Field, model_validator

from afs.errors import AfsCode, AfsError
from afs.identity.memberships import Membership, Memberships
from afs.limits import MEMBERSHIP_LIFETIME_S
from afs.runtime.config import DaemonConfig

_log = structlog.get_logger(__name__)


class GuardedConfig(DaemonConfig):
    """Keys of a daemon that looks at who calls it."""

    authorization: Literal["off", "on"] = Field(
        "off",
        description="on: callers show tokens and need rights; off: whoever reaches a port is an"
        " administrator",
    )
    issuers: Path | None = Field(
        None, description="TOML file of the issuers whose tokens are believed"
    )
    revocations: Path | None = Field(None, description="file of tokens that were revoked")
    superusers: list[str] = Field(
        [], description="names that are administrators whatever the protection database says"
    )

    @model_validator(mode="after")
    def _has_issuers(self) -> Self:
        """Without an issuer nobody could show a token."""
        if self.authorization == "on" and self.issuers is None:
            raise ValueError("issuers: none: expected a file, since authorization is on")
        return self


async def open_doors(
    config: GuardedConfig,
    ask: Callable[[str], Awaitable[Membership]],
    now: Callable[[], float],
    resources: AsyncExitStack,
    *,
    remember_s: float = MEMBERSHIP_LIFETIME_S,
) -> list[grpc.aio.ServerInterceptor]:
    """What stands before the servicers of a daemon; nothing if authorization is off.

    Args:
        config: the daemon's.
        ask: asks the protection database about one user.
        now: the steady clock.
        resources: takes what is to be closed.
        remember_s: how long what `ask` answers counts; less than 0: it is asked every time.

    Raises:
        AfsError: EINVAL, VIO for issuers or revocations that cannot be used.
    """
    if config.authorization == "off":
        return []
    # Not needed where authorization is off: the cryptography takes a tenth of a second to import.
    from afs.identity.callers import Callers
    from afs.identity.trust import Trust
    from afs.runtime.doors import CallerInterceptor

    assert config.issuers is not None, "checked by the configuration"
    trust = await Trust.open(config.issuers, config.revocations, config.cell)
    resources.push_async_callback(trust.close)
    callers = Callers(trust, Memberships(ask, now, remember_s), config.superusers)
    return [CallerInterceptor(callers, _refused, config.cell)]


def _refused(method: str, peer: str, error: AfsError) -> None:
    if error.code is not AfsCode.VBUSY:
        _log.info(
            "call.refused", method=method, peer=peer, code=error.code.name, reason=error.detail
        )
