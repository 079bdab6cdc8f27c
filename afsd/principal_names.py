"""Names and ids of users and groups, as the cell's protection database has them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from afs.access.caller import (
    ADMINISTRATORS_ID,
    ANYUSER_ID,
    AUTHUSER_ID,
    SYSTEM_ADMINISTRATORS,
    SYSTEM_ANYUSER,
    SYSTEM_AUTHUSER,
)
from afs.errors import AfsCode, AfsError
from afs.identity.protection_client import ProtectionClient

_SYSTEM: Final = {
    SYSTEM_ADMINISTRATORS: ADMINISTRATORS_ID,
    SYSTEM_ANYUSER: ANYUSER_ID,
    SYSTEM_AUTHUSER: AUTHUSER_ID,
}


class PrincipalNames:
    """Translates for access lists.

    Args:
        protection: the cell's database; None: only the groups that every cell has are known.
    """

    def __init__(self, protection: ProtectionClient | None) -> None:
        self._protection = protection

    async def of(self, ids: Collection[int]) -> dict[int, str]:
        """Names by id, as far as there are any. VBUSY if the database does not answer."""
        known = {each: name for name, each in _SYSTEM.items()}
        others = set(ids) - known.keys()
        if others and self._protection is not None:
            found = await self._translate(self._protection, (), others)
            known |= {each: name for name, each in found.items()}
        return known

    async def ids(self, names: Collection[str]) -> dict[str, int]:
        """Ids by name; a decimal number is one. VBUSY if the database does not answer."""
        others = set(names) - _SYSTEM.keys()
        if not others or self._protection is None:
            return dict(_SYSTEM)
        numbers = {name: number for name in others if (number := _number(name)) is not None}
        found = await self._translate(
            self._protection, others - numbers.keys(), set(numbers.values())
        )
        there = set(found.values())
        return {
            **_SYSTEM,
            **found,
            **{name: number for name, number in numbers.items() if number in there},
        }

    async def _translate(
        self, protection: ProtectionClient, names: Collection[str], ids: Collection[int]
    ) -> dict[str, int]:
        try:
            return await protection.translate(names, ids)
        except AfsError as error:
            raise AfsError(
                AfsCode.VBUSY, f"the protection database does not answer: {error.detail}"
            ) from None


def _number(text: str) -> int | None:
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 11:
        return None
    number = int(text)
    return number if -(2**31) <= number < 2**31 else None
