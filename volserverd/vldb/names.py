"""Volume names, volume ids, and what people write to mean a volume."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_UINT32, MAX_VOLUME_NAME_BYTES
from afs.types import VolumeType

READ_ONLY_SUFFIX: Final = ".readonly"
BACKUP_SUFFIX: Final = ".backup"

# Source: OpenAFS vldbint.xg, MAXVOLUMEID of a new database; the first id given is one more.
FIRST_VOLUME_ID: Final = 536870913
# Ids from here up are the volserver's own, for temporary clones: never in the location database, so
# that what a crash left behind is known by its id alone.
FIRST_TEMPORARY_ID: Final = 0xF0000000
# A volume has three ids in a row: read-write, read-only, backup. Source: OpenAFS `vos create`.
IDS_PER_VOLUME: Final = 3

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class VolumeReference:
    """What somebody wrote to mean a volume: its id, or a name and which of its volumes."""

    text: str
    volume_id: int = 0
    name: str = ""
    type: VolumeType = VolumeType.READ_WRITE


def check_volume_name(name: str) -> str:
    """The name, if a volume can have it.

    Raises:
        AfsError: EINVAL for other characters than letters, digits, `.`, `_` and `-`, for a name of
            digits only (it would be taken for an id) and one that ends like a read-only or backup
            volume; ENAMETOOLONG beyond MAX_VOLUME_NAME_BYTES.
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_VOLUME_NAME_BYTES:
        raise AfsError(
            AfsCode.ENAMETOOLONG,
            f"volume name {name[:32]!r} has {size} bytes: expected at most {MAX_VOLUME_NAME_BYTES}",
        )
    if not _NAME.fullmatch(name):
        raise AfsError(
            AfsCode.EINVAL,
            f"volume name {name!r}: expected letters, digits, '.', '_' and '-', at least one",
        )
    if name.isdigit():
        raise AfsError(
            AfsCode.EINVAL, f"volume name {name!r} has digits only: expected a name, not an id"
        )
    if name in (".", ".."):
        raise AfsError(AfsCode.EINVAL, f"volume name {name!r} means a directory")
    for suffix in (READ_ONLY_SUFFIX, BACKUP_SUFFIX):
        if name.endswith(suffix):
            raise AfsError(
                AfsCode.EINVAL,
                f"volume name {name!r} ends in {suffix!r}, which is kept for such volumes",
            )
    return name


def parse_reference(text: str) -> VolumeReference:
    """What is meant by `text`: a decimal id, or a name with or without .readonly or .backup.

    Raises:
        AfsError: EINVAL or ENAMETOOLONG for what is neither.
    """
    if text.isascii() and text.isdigit():
        volume_id = int(text) if len(text) <= len(str(MAX_UINT32)) else 0
        if not 0 < volume_id <= MAX_UINT32:
            raise AfsError(
                AfsCode.EINVAL, f"volume id {text[:32]}: expected a number from 1 to {MAX_UINT32}"
            )
        return VolumeReference(text, volume_id=volume_id)
    for suffix, kind in (
        (READ_ONLY_SUFFIX, VolumeType.READ_ONLY),
        (BACKUP_SUFFIX, VolumeType.BACKUP),
    ):
        if text.endswith(suffix):
            name = check_volume_name(text.removesuffix(suffix))
            return VolumeReference(text, name=name, type=kind)
    return VolumeReference(text, name=check_volume_name(text))
