"""Whether two volumes have the same contents."""

from __future__ import annotations

from afs.types import VnodeType, root_fid
from afs.volume.volume import Volume
from tests.volume.building import contents


def inside(volume: Volume) -> dict[str, tuple[object, ...]]:
    """All that is in a volume but ids of volumes: by path."""
    root = volume.vnode(root_fid(volume.volume_id))
    found: dict[str, tuple[object, ...]] = {"": (root.length, root.link_count, root.data_version)}
    waiting = [("", root.fid)]
    while waiting:
        path, directory = waiting.pop()
        for entry in volume.entries(directory, "", 1_000_000):
            vnode = volume.lookup(directory, entry.name)
            data: object = None
            if vnode.type is VnodeType.DIRECTORY:
                waiting.append((f"{path}/{entry.name}", vnode.fid))
            elif vnode.type is VnodeType.SYMLINK:
                data = volume.read_link(vnode.fid)
            else:
                data = contents(volume, vnode.fid)
            found[f"{path}/{entry.name}"] = (
                vnode.fid[1:],
                vnode.parent[1:],
                vnode.type,
                (vnode.mode, vnode.owner, vnode.group, vnode.link_count, vnode.length),
                (vnode.client_mtime_ns, vnode.server_mtime_ns, vnode.data_version),
                data,
            )
    return found


def contents_only(volume: Volume) -> dict[str, tuple[object, ...]]:
    """As `inside`, without DataVersions: a restore gives new ones."""
    found = inside(volume)
    found[""] = found[""][:2]
    return {
        path: (*value[:4], value[4][:2], value[5])  # type: ignore[index]
        if path
        else value
        for path, value in found.items()
    }
