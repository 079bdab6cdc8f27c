"""One mount from first to last: wiring only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from afs.errors import AfsCode, AfsError
from afs.types import root_fid
from clientd.fuse.kernel_caches import KernelCaches
from clientd.fuse.mounting import KernelMount
from clientd.fuse.nodes import Nodes
from clientd.fuse.notifier import Notifier
from clientd.fuse.operations_attributes import REFUSED, AttributeOperations
from clientd.fuse.operations_directories import DirectoryOperations
from clientd.fuse.operations_files import FileOperations
from clientd.fuse.operations_locks import LockOperations
from clientd.fuse.operations_names import NameOperations
from clientd.fuse.session import Session
from clientd.fuse.silly_names import SillyNames
from clientd.fuse.tree import VOLUMES_FID, Tree
from clientd.services import Services
from clientd.volume_calls import VolumeCalls

# The kernel begins the conversation as soon as it has mounted.
_INIT_DEADLINE_S: Final = 10.0

_log = structlog.get_logger(__name__)


class Mount:
    """A mount that answers. Made by `start`.

    Attributes:
        path: where.
        nodes, kernel, session: for tests that look inside.
        ended: set when it is gone, whoever unmounted it.
    """

    def __init__(
        self,
        services: Services,
        kernel_mount: KernelMount,
        session: Session,
        notifier: Notifier,
        nodes: Nodes,
        kernel: KernelCaches,
        files: FileOperations,
        ended: asyncio.Event,
    ) -> None:
        self._services = services
        self._kernel_mount = kernel_mount
        self._notifier = notifier
        self.session = session
        self.nodes = nodes
        self.kernel = kernel
        self._files = files
        self.ended = ended

    @classmethod
    async def start(cls, services: Services, path: Path, *, allow_other: bool) -> Mount:
        """Mounts the cell's root at a directory.

        Raises:
            AfsError: as `KernelMount.make`.
        """
        root = await _root_now(services)
        fid = root_fid(root.volume_id) if root is not None else VOLUMES_FID
        nodes = Nodes(root, fid)
        kernel_mount = await KernelMount.make(path, allow_other=allow_other)
        ended = asyncio.Event()
        session = Session(kernel_mount.descriptor, on_end=ended.set)
        notifier = Notifier(kernel_mount.descriptor)
        kernel = KernelCaches(nodes, session, notifier, services.servers, services.journal)
        silly = SillyNames(services, lambda fid: any(node.opens for node in nodes.of(fid)))
        tree = Tree(services, nodes, kernel, silly)
        names = NameOperations(tree, silly)
        files = FileOperations(tree, names, silly)
        services.kernel.open(kernel)
        services.locks.store = files.store
        mount = cls(services, kernel_mount, session, notifier, nodes, kernel, files, ended)
        session.start(
            REFUSED
            | names.handlers()
            | files.handlers()
            | AttributeOperations(tree).handlers()
            | DirectoryOperations(tree).handlers()
            | LockOperations(files.handles, services.locks).handlers()
        )
        try:
            async with asyncio.timeout(_INIT_DEADLINE_S):
                await session.initialized.wait()
        except TimeoutError:
            await mount.stop()
            raise AfsError(AfsCode.EIO, f"mount point {path}: the kernel says nothing") from None
        kernel.run(silly.recover())
        _log.info("mount.started", path=str(kernel_mount.path))
        return mount

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._kernel_mount.path

    async def stop(self) -> None:
        """Stores what is dirty, unmounts, and lets go; programs that still use it get errors."""
        await self._services.open_files.stop()
        self._services.kernel.close()
        # Cuts the kernel off, which wakes whatever waits for it.
        await self._kernel_mount.unmount()
        await self._notifier.close()
        await self.session.close()
        await self._files.stop()
        await self.kernel.close()
        await self._kernel_mount.close()
        _log.info("mount.stopped", path=str(self.path))


async def _root_now(services: Services) -> VolumeCalls | None:
    """The volume of the cell's root, as far as anybody can be asked."""
    try:
        return await services.volumes.root()
    except AfsError as error:
        _log.info("mount.root_unknown", error=str(error))
        return None
