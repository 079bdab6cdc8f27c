"""FileServer: what clients ask of the fileserver, put together from its parts."""

from __future__ import annotations

from afsd.file_server_acl import AclMethods
from afsd.file_server_bulk import BulkMethods
from afsd.file_server_data import DataMethods
from afsd.file_server_directories import DirectoryMethods
from afsd.file_server_locks import LockMethods
from afsd.file_server_status import StatusMethods
from afsd.file_server_volumes import VolumeMethods


class FileServer(
    StatusMethods,
    DataMethods,
    BulkMethods,
    DirectoryMethods,
    AclMethods,
    LockMethods,
    VolumeMethods,
):
    """The servicer of `afs.v1.FileServer`. See `file_server_base` for its theory of operation."""
