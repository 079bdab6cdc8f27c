"""Finds data of a volume by their hash, for a server that has lost its own copy of them."""

from __future__ import annotations

from contextlib import closing

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.volume.beside import connect_to_read
from afs.volume.packs import read_small
from afs.volume.partition import Partition
from afs.volume.sqlite_errors import afs_errors


def find_data(partition: Partition, volume_id: int, digest: bytes, number: int) -> bytes:
    """A chunk of a volume's group, or (`number` not 0) a vnode's small data; verified, blocks.

    Reads beside whoever has the volume open.

    Raises:
        AfsError: VNOVOL; EIO if there are no such data, or damaged ones; VIO.
    """
    group = partition.group_for(volume_id)
    path = group.database(volume_id)
    if not path.exists():
        raise AfsError(AfsCode.VNOVOL, f"no volume {volume_id} on partition {partition.name}")
    if not number:
        return group.chunks.read(digest)
    with afs_errors(), closing(connect_to_read(path)) as connection:
        data = read_small(connection, group.chunks, number)
    if blake3(data).digest() != digest:
        raise AfsError(AfsCode.EIO, f"vnode {number} of volume {volume_id} has other data")
    return data
