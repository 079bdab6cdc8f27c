"""What makes a symbolic link a mount point, and where it leads."""

from __future__ import annotations

import pytest

from afs.mount_points import MOUNT_POINT_MODE, MountPoint, leads_to, parse_mount_point
from afs.types import VolumeType

RW, RO, BACKUP = VolumeType.READ_WRITE, VolumeType.READ_ONLY, VolumeType.BACKUP


@pytest.mark.parametrize(
    ("target", "volume", "read_write"),
    [
        ("#home.", "home", False),
        ("%home.", "home", True),
        ("#root.cell.", "root.cell", False),
        ("#home.readonly.", "home.readonly", False),
        ("#536870913.", "536870913", False),
        ("#ends.with..", "ends.with.", False),
    ],
)
def test_targets_are_read_and_written(target: str, volume: str, read_write: bool) -> None:
    """The same text there and back."""
    mount = parse_mount_point(MOUNT_POINT_MODE, target)
    assert mount == MountPoint(volume, read_write)
    assert mount.target == target


@pytest.mark.parametrize(
    ("mode", "target"),
    [
        (0o777, "#home."),
        (0o645, "#home."),
        (0o654, "%home."),
        (0o744, "%home."),
        (0o644, "#home"),
        (0o644, "home."),
        (0o644, "#."),
        (0o644, "."),
        (0o644, "#"),
        (0o644, "#dir/home."),
        (0o644, "/home/x"),
    ],
)
def test_plain_symbolic_links(mode: int, target: str) -> None:
    """An execute bit, or another form, and it is followed as text."""
    assert parse_mount_point(mode, target) is None


@pytest.mark.parametrize(
    ("read_write", "within", "released", "kind"),
    [
        (False, RW, True, RW),
        (False, RW, False, RW),
        (False, RO, True, RO),
        (False, RO, False, RW),
        (False, BACKUP, True, RO),
        (False, BACKUP, False, RW),
        (True, RW, True, RW),
        (True, RO, True, RW),
        (True, BACKUP, True, RW),
    ],
)
def test_which_volume(
    read_write: bool, within: VolumeType, released: bool, kind: VolumeType
) -> None:
    """The rule of AFS, in full."""
    assert leads_to(MountPoint("home", read_write), within, released=released) is kind
