"""The certificates of a cell that is run on this machine: issued anew whenever it starts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afsctl.cell_plan import OPERATOR, SUPERUSER
from afsctl.daemon import DaemonPlan

# In the folder of a cell's identity.
TLS_FOLDER: Final = "tls"
_HOST_UUID: Final = "host_uuid"


@dataclass(frozen=True, slots=True)
class CellCertificates:
    """The certificates in a folder, for the cell of a name."""

    folder: Path
    cell: str

    def issue(self, daemons: Iterable[DaemonPlan], caches: dict[str, Path]) -> None:
        """Issues a certificate to each daemon and the operator; makes the authority if need be.

        Args:
            daemons: those of the cell.
            caches: of clients by name: where each keeps the UUID that its certificate is for.

        Raises:
            AfsError, OSError: the authority or a file cannot be used.
        """
        # Only here: the cryptography takes a tenth of a second to import.
        from afs.identity.certificates import AuthorityFiles, Role, utc_now

        authority, now = AuthorityFiles(self.folder), utc_now()
        if not authority.ca_key.exists():
            authority.make(self.cell, now)
        authority.issue(self.cell, Role.PERSON, SUPERUSER, now, file=OPERATOR)
        for daemon in daemons:
            cache = caches.get(daemon.name)
            if cache is None:
                authority.issue(self.cell, Role.DAEMON, daemon.name, now)
            else:
                host = _host_uuid(cache)
                authority.issue(self.cell, Role.HOST, host, now, file=daemon.name)


def _host_uuid(cache: Path) -> str:
    """The UUID that a client has, or is to have from its first start on."""
    path = cache / _HOST_UUID
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
    return path.read_text(encoding="ascii").strip()
