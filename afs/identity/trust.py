"""The issuers and revocations that a daemon goes by, followed while it runs."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import structlog

from afs.errors import AfsCode, AfsError
from afs.identity.identity import Identity
from afs.identity.issuers import Issuer, load_issuers
from afs.identity.revocations import Revocations, load_revocations
from afs.identity.tokens import verify_token
from afs.limits import TOKEN_CLOCK_TOLERANCE_S, TRUST_POLL_S, VERIFIED_TOKENS_KEPT

_log = structlog.get_logger(__name__)


class Trust:
    """Verifies tokens by files that may change at any time.

    A file that cannot be read, or makes no sense, after a change is told of and changes nothing:
    what was believed and revoked before counts on. Made by `open`.
    """

    def __init__(self, issuers: Path, revocations: Path | None, cell: str) -> None:
        self._issuers_path = issuers
        self._revocations_path = revocations
        self._cell = cell
        self._issuers: dict[str, Issuer] = {}
        self._revocations = Revocations()
        # By token, oldest first: what was verified under the files of now.
        self._verified: dict[str, Identity] = {}
        self._seen: tuple[object, ...] | None = None
        self._follower: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, issuers: Path, revocations: Path | None, cell: str) -> Trust:
        """Reads the files, and follows them until `close`.

        Raises:
            AfsError: EINVAL, VIO for what cannot be used.
        """
        trust = cls(issuers, revocations, cell)
        await trust.look()
        trust._follower = asyncio.create_task(trust._follow())
        return trust

    def verify(self, token: str) -> Identity:
        """What a token proves; errors as of `verify_token`. Costs a signature once a token."""
        known = self._verified.get(token)
        # A file service counts time by the machine's clock, as tokens do.
        if known is not None and time.time() <= known.expires_s + TOKEN_CLOCK_TOLERANCE_S:
            return known
        self._verified.pop(token, None)
        identity = verify_token(token, self._issuers, self._revocations)
        if len(self._verified) >= VERIFIED_TOKENS_KEPT:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = identity
        return identity

    async def look(self) -> None:
        """Reads the files if they have changed; AfsError if that cannot be used."""
        seen = await asyncio.to_thread(self._stamps)
        if seen == self._seen:
            return
        self._issuers, self._revocations = await asyncio.to_thread(self._load)
        self._verified.clear()
        self._seen = seen

    async def close(self) -> None:
        """Stops following."""
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower

    async def _follow(self) -> None:
        told: str | None = None
        while True:
            await asyncio.sleep(TRUST_POLL_S)
            try:
                await self.look()
                told = None
            except AfsError as error:
                if error.detail != told:
                    told = error.detail
                    _log.warning("trust.not_read", reason=error.detail)

    def _load(self) -> tuple[dict[str, Issuer], Revocations]:
        path = self._revocations_path
        return (
            load_issuers(self._issuers_path, self._cell),
            Revocations() if path is None else load_revocations(path),
        )

    def _stamps(self) -> tuple[object, ...]:
        """What tells that a file has changed: those beside the issuers may be their keys."""
        paths = [self._issuers_path, *sorted(self._issuers_path.parent.glob("*.json"))]
        if self._revocations_path is not None:
            paths.append(self._revocations_path)
        stamps: list[object] = []
        for path in paths:
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise AfsError(AfsCode.VIO, f"{path}: {error.strerror}") from None
            stamps.append((str(path), found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)
