"""Names of users and groups. Source: OpenAFS ptserver, which has the same colon for groups."""

from __future__ import annotations

import re
from typing import Final

from afs.errors import AfsCode, AfsError

# Source: OpenAFS PR_MAXNAMELEN less its NUL.
MAX_NAME_CHARS: Final = 63
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


def check_user_name(name: str) -> str:
    """The name, if a user can have it; AfsError EINVAL else."""
    if len(name) > MAX_NAME_CHARS or not _PART.fullmatch(name):
        raise AfsError(
            AfsCode.EINVAL,
            f"user name {name[:80]!r}: expected 1 to {MAX_NAME_CHARS} letters, digits and"
            " _ . @ + -",
        )
    return name


def check_group_name(name: str) -> str:
    """The name, if a group can have it (`owner:name`, or `name`); AfsError EINVAL else."""
    owner, colon, rest = name.rpartition(":")
    parts = [owner, rest] if colon else [rest]
    if len(name) > MAX_NAME_CHARS or not all(map(_PART.fullmatch, parts)):
        raise AfsError(
            AfsCode.EINVAL,
            f"group name {name[:80]!r}: expected OWNER:NAME of letters, digits and _ . @ + -,"
            f" {MAX_NAME_CHARS} characters at most",
        )
    return name
