"""Tokens that count no more although they have not expired: a text file, a line for each.

    token ID               the token with this `jti`
    user NAME SECONDS      every token of NAME issued before SECONDS since the Unix epoch

Empty lines and those that begin with # say nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from afs.access.names import check_user_name
from afs.errors import AfsCode, AfsError
from afs.identity.identity import Identity


@dataclass(frozen=True)
class Revocations:
    """What was revoked: token ids, and by user the time before which their tokens were issued."""

    tokens: frozenset[str] = frozenset()
    users: dict[str, float] = field(default_factory=dict)

    def check(self, identity: Identity) -> None:
        """RXKADBADTICKET for a token that was revoked."""
        if identity.token_id in self.tokens or identity.issued_s < self.users.get(identity.name, 0):
            raise AfsError(AfsCode.RXKADBADTICKET, f"the token of {identity.name} was revoked")


def load_revocations(path: Path) -> Revocations:
    """The revocations of a file; none if there is no file. Blocks on the disk.

    Raises:
        AfsError: EINVAL for a line that says something else; VIO for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return Revocations()
    except (OSError, UnicodeDecodeError) as error:
        raise AfsError(AfsCode.VIO, f"revocations {path}: {error}") from None
    tokens: set[str] = set()
    users: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        match line.split():
            case []:
                continue
            case [word, *_] if word.startswith("#"):
                continue
            case ["token", token_id]:
                tokens.add(token_id)
            case ["user", name, seconds] if seconds.isascii() and seconds.isdigit():
                users[name] = max(float(seconds), users.get(name, 0))
            case _:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"revocations {path}, line {number}: {line[:80]!r}:"
                    " expected `token ID` or `user NAME SECONDS`",
                )
    return Revocations(frozenset(tokens), users)


def revoke_token(path: Path, token_id: str) -> None:
    """Adds a token to the file, durably; AfsError EINVAL if it is no token id."""
    if not token_id or len(token_id.split()) != 1:
        raise AfsError(AfsCode.EINVAL, f"token id {token_id[:80]!r}: expected one word")
    _append(path, f"token {token_id}")


def revoke_user(path: Path, name: str, before_s: int) -> None:
    """Adds every token of a user issued before a time (seconds since the Unix epoch), durably."""
    _append(path, f"user {check_user_name(name)} {before_s}")


def _append(path: Path, line: str) -> None:
    # A line in one write: two of us at the same time do not mix theirs.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
