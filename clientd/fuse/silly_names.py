"""Files that were removed while programs here had them open: they keep a name until the last close.

The fileserver knows no open files: a removed file is gone. So a file that is open here is not
removed but renamed, to a name that AFS clients use for this, `.__afs` and a number, in the same
directory, and removed at its last close. What is kept so is written down in the cache directory; a
client that was killed removes it when it mounts again. Source: OpenAFS `afs_newname`.

Others see the name. A directory that has one is not empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from afs.errors import AfsError
from afs.runtime.files import write_durably
from afs.types import Fid, Vnode, VnodeType
from clientd.services import Services
from clientd.volume_calls import VolumeCalls

PREFIX: Final = ".__afs"
_NUMBER_BYTES: Final = 4
_FILE: Final = "removed_while_open.json"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A removed file that is open, and the name it has."""

    volume: VolumeCalls
    directory: Fid
    name: str


class SillyNames:
    """Keeps removed files that are open.

    Args:
        services: the client's parts.
        is_open: whether the kernel has a file open.
    """

    def __init__(self, services: Services, is_open: Callable[[Fid], bool]) -> None:
        self._services = services
        self._is_open = is_open
        self._kept: dict[Fid, _Kept] = {}
        self._path: Path = services.disk.folder / _FILE
        self._writing = asyncio.Lock()

    def is_kept(self, fid: Fid) -> bool:
        """True for a file that was removed and is open."""
        return fid in self._kept

    def overlay(self, vnode: Vnode) -> Vnode:
        """A file's status with what is not stored yet; one that was removed has no links."""
        vnode = self._services.open_files.overlay(vnode)
        return replace(vnode, link_count=0) if vnode.fid in self._kept else vnode

    async def keep(self, volume: VolumeCalls, directory: Fid, name: str, fid: Fid) -> bool:
        """Instead of removing an open file's last name: renames it. False if it is to be removed.

        Raises:
            AfsError: as Rename.
        """
        if not await self._is_to_be_kept(volume, fid):
            return False
        silly = _new_name()
        await self._services.vnode_changes.rename(
            volume, (directory, name), (directory, silly), fid, None
        )
        await self._note(fid, _Kept(volume, directory, silly))
        return True

    async def keep_too(self, volume: VolumeCalls, directory: Fid, name: str, fid: Fid) -> None:
        """Before an open file's last name is replaced: gives it another one.

        Raises:
            AfsError: as Link.
        """
        if name.startswith(PREFIX) or not await self._is_to_be_kept(volume, fid):
            return
        silly = _new_name()
        await self._services.vnode_changes.link(volume, directory, silly, fid)
        await self._note(fid, _Kept(volume, directory, silly))

    async def closed(self, fid: Fid) -> None:
        """The last one who had the file open has closed it."""
        kept = self._kept.get(fid)
        if kept is None or self._is_open(fid):
            return
        del self._kept[fid]
        try:
            await self._services.vnode_changes.remove(
                kept.volume, kept.directory, kept.name, fid, VnodeType.FILE
            )
        except AfsError as error:
            # It stays in the file, for the next start.
            _log.info("silly_name.not_removed", name=kept.name, error=str(error))
            return
        await self._write()

    async def recover(self) -> None:
        """Removes what an earlier life of this client kept."""
        try:
            noted = json.loads(await asyncio.to_thread(self._path.read_text, encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return
        for volume_id, vnode, uniquifier, name in noted:
            with contextlib.suppress(AfsError):
                volume = await self._services.volumes.named(str(volume_id))
                directory = Fid(volume_id, vnode, uniquifier)
                found = await self._services.directories.find(volume, directory, name)
                if found.entry is not None:
                    await self._services.vnode_changes.remove(
                        volume, directory, name, found.entry.fid, VnodeType.FILE
                    )
                    _log.info("silly_name.removed", name=name)
        await self._write()

    # --- within ---

    async def _is_to_be_kept(self, volume: VolumeCalls, fid: Fid) -> bool:
        if not self._is_open(fid) or fid in self._kept:
            return False
        known = await self._services.statuses.status(volume, fid)
        return known.vnode.type is VnodeType.FILE and known.vnode.link_count == 1

    async def _note(self, fid: Fid, kept: _Kept) -> None:
        self._kept[fid] = kept
        if self._is_open(fid):
            await self._write()
        else:
            # Closed meanwhile.
            await self.closed(fid)

    async def _write(self) -> None:
        """Brings the file up to date."""
        async with self._writing:
            noted = [[*kept.directory, kept.name] for kept in self._kept.values()]
            with contextlib.suppress(OSError):
                await asyncio.to_thread(write_durably, self._path, json.dumps(noted).encode())


def _new_name() -> str:
    return PREFIX + secrets.token_hex(_NUMBER_BYTES).upper()
