"""Access lists as FetchACL and StoreACL have them: AFS's text, with names.

    NUMBER OF RIGHTS GIVEN
    NUMBER OF RIGHTS DENIED
    NAME <tab> BITS        for each, those given first

An id that has no name any more stands there as its decimal number. Source: OpenAFS fs.c (ParseAcl),
acl_ExternalizeACL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from afs.access.acl import ALL_RIGHTS, AccessList, Right, check_acl
from afs.errors import AfsCode, AfsError
from afs.limits import MAX_ACL_ENTRIES


@dataclass(frozen=True, slots=True)
class NamedAcl:
    """Rights by name, those given and those denied."""

    positive: Mapping[str, Right] = field(default_factory=dict)
    negative: Mapping[str, Right] = field(default_factory=dict)

    def text(self) -> str:
        """The text of FetchACL and StoreACL."""
        lines = [str(len(self.positive)), str(len(self.negative))]
        for side in (self.positive, self.negative):
            lines += [f"{name}\t{int(rights)}" for name, rights in side.items()]
        return "\n".join(lines) + "\n"

    def names(self) -> set[str]:
        """Everybody who is named."""
        return {*self.positive, *self.negative}


def parse_named_acl(text: str) -> NamedAcl:
    """The access list of a text; AfsError EINVAL, saying which line is wrong."""
    lines = text.splitlines()
    try:
        counts = [int(line) for line in lines[:2]]
        if len(counts) != 2 or min(counts) < 0 or sum(counts) > MAX_ACL_ENTRIES:
            raise ValueError
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL,
            "access list: expected two lines with how many rights are given and denied, at most"
            f" {MAX_ACL_ENTRIES}",
        ) from None
    entries = [_entry(line) for line in lines[2:]]
    if len(entries) != sum(counts):
        raise AfsError(
            AfsCode.EINVAL, f"access list of {len(entries)} lines: expected {sum(counts)}"
        )
    sides = dict(entries[: counts[0]]), dict(entries[counts[0] :])
    if sum(map(len, sides)) != len(entries):
        raise AfsError(AfsCode.EINVAL, "access list: a name stands in it twice")
    return NamedAcl(*sides)


def _entry(line: str) -> tuple[str, Right]:
    name, tab, bits = line.partition("\t")
    if not (name and tab and bits.isascii() and bits.isdigit() and 0 < int(bits) <= ALL_RIGHTS):
        raise AfsError(
            AfsCode.EINVAL, f"access list, {line[:80]!r}: expected NAME<tab>BITS, 1 to 127"
        )
    return name, Right(int(bits))


def named(acl: AccessList, names: Mapping[int, str]) -> NamedAcl:
    """The list with names, as far as there are any."""
    return NamedAcl(
        *(
            {names.get(each, str(each)): rights for each, rights in side.items()}
            for side in (acl.positive, acl.negative)
        )
    )


def by_id(acl: NamedAcl, ids: Mapping[str, int]) -> AccessList:
    """The list with ids; EINVAL for a name that has none."""
    sides: list[dict[int, Right]] = []
    for side in (acl.positive, acl.negative):
        found: dict[int, Right] = {}
        for name, rights in side.items():
            if name not in ids:
                raise AfsError(AfsCode.EINVAL, f"access list: the cell has no {name[:80]!r}")
            if ids[name] in found:
                raise AfsError(AfsCode.EINVAL, f"access list: {name!r} stands in it twice")
            found[ids[name]] = rights
        sides.append(found)
    return check_acl(AccessList(*sides))
