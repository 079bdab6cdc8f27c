"""Headers: of new volumes, and which names a volume can have."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_UINT32, MAX_VOLUME_NAME_BYTES
from afs.types import Vnode, VnodeType, VolumeHeader, VolumeType, root_fid
from afs.volume.change_set import VolumeState

# The suffixes of clones' names count beyond the limit of a read-write volume's name.
_LONGEST_SUFFIX: Final = len(".readonly")


def new_header(
    volume_id: int,
    name: str,
    type: VolumeType,
    read_write_id: int | None,
    max_quota_kib: int,
    incarnation: str,
    now_ns: int,
) -> VolumeHeader:
    """The header of a volume to be made; EINVAL, ENAMETOOLONG for what no volume can have."""
    if not 0 < volume_id <= MAX_UINT32 or not 0 < (read_write_id or volume_id) <= MAX_UINT32:
        raise AfsError(
            AfsCode.EINVAL, f"volume id {volume_id}, of {read_write_id}: expected 1 to {MAX_UINT32}"
        )
    if not 0 <= max_quota_kib < 2**63:
        raise AfsError(
            AfsCode.EINVAL, f"max_quota_kib {max_quota_kib}: expected 0 (no limit) or more"
        )
    return VolumeHeader(
        volume_id=volume_id,
        name=check_volume_name(name),
        type=type,
        read_write_id=read_write_id or volume_id,
        backup_id=0,
        incarnation=incarnation,
        max_quota_kib=max_quota_kib,
        used_kib=0,
        file_count=0,
        created_ns=now_ns,
        updated_ns=now_ns,
        cloned_ns=0,
        change_counter=1,
        offline_message="",
        leave_offline=False,
        in_transit=False,
    )


def new_volume(header: VolumeHeader, now_ns: int) -> tuple[VolumeState, Vnode]:
    """The state and the root directory of a volume that has nothing in it yet."""
    fid = root_fid(header.volume_id)
    root = Vnode(fid, VnodeType.DIRECTORY, 0o755, 0, 0, 2, 0, 1, now_ns, now_ns, fid)
    header = replace(header, used_kib=1, file_count=1)
    return VolumeState(header, next_vnode=2, next_uniquifier=2, max_data_version=1), root


def check_volume_name(name: str) -> str:
    """The name, if a volume can have it; else AfsError EINVAL or ENAMETOOLONG."""
    if (
        not name
        or name != name.strip()
        or not name.isprintable()
        or "/" in name
        or name in (".", "..")
    ):
        raise AfsError(
            AfsCode.EINVAL, f"volume name {name!r}: expected printable characters, no '/'"
        )
    if (size := len(name.encode())) > MAX_VOLUME_NAME_BYTES + _LONGEST_SUFFIX:
        raise AfsError(
            AfsCode.ENAMETOOLONG,
            f"volume name {name!r} has {size} bytes:"
            f" expected at most {MAX_VOLUME_NAME_BYTES} and a suffix",
        )
    return name
