"""CacheManager, the client's local door: the whole servicer, put together from its parts."""

from __future__ import annotations

from clientd.cache_manager_admin import AdminMethods
from clientd.cache_manager_changes import ChangeMethods
from clientd.cache_manager_reads import ReadMethods
from clientd.cache_manager_status import StatusMethods
from clientd.cache_manager_unsent import UnsentMethods
from clientd.fuse.mounts import Mounts
from clientd.services import Services

SERVICE_NAME = "afs.v1.CacheManager"


class CacheManager(ReadMethods, ChangeMethods, StatusMethods, AdminMethods, UnsentMethods):
    """Serves every method of CacheManager.

    Args:
        services: the client's parts.
        mounts: whether it is mounted.
    """

    def __init__(self, services: Services, mounts: Mounts) -> None:
        super().__init__(services)
        self._mounts = mounts
