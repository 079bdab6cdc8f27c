"""`afsctl fs`: what concerns the client on this machine and its cache."""

from __future__ import annotations

from typing import Annotated

import typer

from afs.v1 import cache_manager_pb2, cache_manager_pb2_grpc
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, ClientOption, Door, find_address
from afsctl.channels import channel_to
from afsctl.output import Column, JsonOption, print_json, print_listing, show_duration
from afsctl.records import record_of


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(flush)
    app.command("flushvolume")(flush_volume)
    app.command("flushall")(flush_all)
    app.command("checkservers")(check_servers)


def flush(
    paths: Annotated[list[str], typer.Argument(metavar="/VOLUME/path…")],
    *,
    as_json: JsonOption = False,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make the client forget what it has cached of files, directories and symbolic links."""
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        requests = [cache_manager_pb2.FlushRequest(path=path) for path in paths]
        flushed = sum(stub.Flush(request).flushed for request in requests)
    _print_flushed(flushed, as_json=as_json)


def flush_volume(
    volume: Annotated[
        str, typer.Argument(help="Name of a volume, or a path that leads into it: /VOLUME/path.")
    ],
    *,
    as_json: JsonOption = False,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make the client forget what it has cached of a volume."""
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        request = cache_manager_pb2.FlushVolumeRequest(volume=volume)
        if volume.startswith("/"):
            request = cache_manager_pb2.FlushVolumeRequest(path=volume)
        answer = stub.FlushVolume(request)
    _print_flushed(answer.flushed, as_json=as_json)


def flush_all(
    *,
    as_json: JsonOption = False,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make the client forget all it has cached."""
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        answer = stub.FlushAll(cache_manager_pb2.FlushAllRequest())
    _print_flushed(answer.flushed, as_json=as_json)


def check_servers(
    *,
    as_json: JsonOption = False,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the fileservers that the client knows, and its channels to them.

    What could not be stored while one was away is tried again.
    """
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        answer = stub.CheckServers(cache_manager_pb2.CheckServersRequest())
    columns = [
        Column("FILESERVER", "address"),
        Column("CHANNEL", "channel"),
        Column("LEASE LEFT", "lease_remaining_s", show_duration, right=True),
        Column("EPOCH", "epoch", right=True),
    ]
    records = [record_of(server) for server in answer.servers]
    print_listing(columns, records, as_json=as_json, empty="The client knows no fileserver yet.")
    waiting, conflicts = answer.unsent_waiting, answer.unsent_conflicts
    if (waiting or conflicts) and not as_json:
        print(f"Unsent stores: {waiting} waiting, {conflicts} in conflict; see afsctl fs unsent.")


def _print_flushed(count: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"flushed": count})
    else:
        print(f"Forgot {count} vnode{'' if count == 1 else 's'}.")
