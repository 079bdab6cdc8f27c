"""What a token proves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token proves.

    Attributes:
        name: of the user in this cell.
        token_id: the token's own.
        issued_s, expires_s: seconds since the Unix epoch.
        own: the cell itself issued it.
    """

    name: str
    token_id: str
    issued_s: float
    expires_s: float
    own: bool
