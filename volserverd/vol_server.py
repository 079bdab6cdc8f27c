"""VolServer: whole-volume work. The methods are in several files, by kind."""

from __future__ import annotations

from afs.v1 import vol_server_pb2_grpc
from volserverd.vol_server_care import CaringMethods
from volserverd.vol_server_changes import ChangingMethods
from volserverd.vol_server_contents import ContentsMethods
from volserverd.vol_server_listing import ListingMethods
from volserverd.vol_server_moves import MovingMethods
from volserverd.vol_server_release import ReleaseMethods
from volserverd.vol_server_sites import SiteMethods


class VolServerServicer(
    CaringMethods,
    ChangingMethods,
    ContentsMethods,
    ListingMethods,
    MovingMethods,
    ReleaseMethods,
    SiteMethods,
    vol_server_pb2_grpc.VolServerServicer,
):
    """The servicer of `afs.v1.VolServer`."""
