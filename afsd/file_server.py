"""FileServer: what clients ask of the fileserver, put together from its parts."""

from __future__ import annotations

from typing import Any, NoReturn

from afs.errors import AfsCode, AfsError
from afsd.file_server_bulk import BulkMethods
from afsd.file_server_data import DataMethods
from afsd.file_server_directories import DirectoryMethods
from afsd.file_server_locks import LockMethods
from afsd.file_server_status import StatusMethods
from afsd.file_server_volumes import VolumeMethods


class FileServer(
    StatusMethods, DataMethods, BulkMethods, DirectoryMethods, LockMethods, VolumeMethods
):
    """The servicer of `afs.v1.FileServer`. See `file_server_base` for its theory of operation."""

    # Answered honestly until access control lists exist.

    async def FetchACL(self, _request: Any, _context: Any) -> NoReturn:
        """RXGEN_OPCODE."""
        _not_served("FetchACL")

    async def StoreACL(self, _request: Any, _context: Any) -> NoReturn:
        """RXGEN_OPCODE."""
        _not_served("StoreACL")


def _not_served(method: str) -> NoReturn:
    raise AfsError(AfsCode.RXGEN_OPCODE, f"{method} is not served by this fileserver")
