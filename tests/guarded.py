"""A cell whose daemons look at who calls them, in the test's process: keys, people, tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afs.identity.cell_files import CellFiles
from afs.identity.keys import load_signing_key
from afs.identity.tokens import issue_token
from afs.runtime.channel import open_channel
from afs.runtime.outgoing import KeyTokens, show_tokens
from afs.v1 import protection_pb2 as pb
from afs.v1 import protection_pb2_grpc
from volserverd.app import VolserverDaemon
from volserverd.config import VolserverdConfig

CELL = "example.org"
SUPERUSER = "root"
Shown = tuple[tuple[str, str], ...]


class GuardedCell:
    """The location and protection databases of a cell, and what its people show.

    Attributes:
        location: address of both databases.
        settings: for further daemons of the cell.
    """

    def __init__(
        self, files: CellFiles, key: Ed25519PrivateKey, own: KeyTokens, daemon: VolserverDaemon
    ) -> None:
        self._key = key
        self._own = own
        self.daemon = daemon
        self.location = daemon.location_addresses[0]
        self.settings = settings_of(files)
        self._channel = open_channel(self.location)
        self.stub: Any = protection_pb2_grpc.ProtectionStub(self._channel)

    def shown(self, name: str) -> Shown:
        """The metadata of a user's calls; "" is nobody."""
        if not name:
            return ()
        token = issue_token(self._key, cell=CELL, name=name, now_s=time.time(), lifetime_s=600)
        return (("authorization", f"Bearer {token}"),)

    @contextmanager
    def as_daemon(self) -> Iterator[None]:
        """Channels that are opened in the block show that they are a daemon's of the cell."""
        show_tokens(self._own)
        try:
            yield
        finally:
            show_tokens(None)

    async def user(self, name: str) -> int:
        """A new user's id."""
        shown = self.shown(SUPERUSER)
        made = await self.stub.CreateUser(pb.CreateUserRequest(name=name), metadata=shown)
        return int(made.entry.id)

    async def group(self, name: str, *members: str) -> int:
        """A new group's id."""
        shown = self.shown(SUPERUSER)
        made = await self.stub.CreateGroup(pb.CreateGroupRequest(name=name), metadata=shown)
        await self.add(name, *members)
        return int(made.entry.id)

    async def add(self, group: str, *members: str) -> None:
        """Adds users to a group."""
        for member in members:
            request = pb.AddMemberRequest(group=group, user=member)
            await self.stub.AddMember(request, metadata=self.shown(SUPERUSER))

    async def close(self) -> None:
        """Stops the databases."""
        await self._channel.close()
        await self.daemon.stop()


def settings_of(files: CellFiles) -> dict[str, Any]:
    """What every daemon of the cell is told."""
    return {
        "cell": CELL,
        "authorization": "on",
        "issuers": files.issuers,
        "revocations": files.revocations,
        "superusers": [SUPERUSER],
    }


@asynccontextmanager
async def guarded_cell(root: Path) -> AsyncIterator[GuardedCell]:
    """A cell's databases under `root`."""
    files = CellFiles(root / "identity")
    await asyncio.to_thread(files.make, CELL)
    key = await asyncio.to_thread(load_signing_key, files.signing_key)
    config = VolserverdConfig(
        location_only=True,
        location_listen=["127.0.0.1:0"],
        vldb=root / "vldb.sqlite3",
        run_dir=root / "run-location",
        **settings_of(files),
    )
    daemon = await VolserverDaemon.start(config)
    own = await asyncio.to_thread(KeyTokens, files.signing_key, CELL)
    cell = GuardedCell(files, key, own, daemon)
    try:
        yield cell
    finally:
        await cell.close()
