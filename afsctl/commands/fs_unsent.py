"""`afsctl fs unsent`: what programs wrote and the client could not store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from afs.v1 import cache_manager_pb2, cache_manager_pb2_grpc
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, ClientOption, Door, find_address
from afsctl.channels import channel_to
from afsctl.failure import CommandError
from afsctl.output import Column, JsonOption, print_json, print_listing, show_bytes, show_time
from afsctl.records import record_of

app = typer.Typer(help="What programs wrote and the client could not store.")

Number = Annotated[int, typer.Argument(metavar="NUMBER", help="As the listing shows it.")]


@app.callback(invoke_without_command=True)
def list_unsent(
    context: typer.Context,
    *,
    as_json: JsonOption = False,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List it. What waits is stored when the fileserver is back; a conflict never is."""
    if context.invoked_subcommand is not None:
        return
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        answer = stub.ListUnsent(cache_manager_pb2.ListUnsentRequest())
    columns = [
        Column("NUMBER", "number", right=True),
        Column("STATE", "state"),
        Column("VOLUME", "volume"),
        Column("FID", "fid", _show_fid),
        Column("NAME", "name"),
        Column("WRITTEN", "written_bytes", show_bytes, right=True),
        Column("SINCE", "since_ns", show_time),
        Column("ON DISK", "on_disk", _show_on_disk),
        Column("WHY", "reason", folds=True),
    ]
    records = [record_of(store) for store in answer.stores]
    print_listing(columns, records, as_json=as_json, empty="Everything that was written is stored.")


@app.command()
def export(
    number: Number,
    path: Annotated[Path, typer.Argument(help="A file that is not there yet.")],
    *,
    as_json: JsonOption = False,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Write it to a file, at its places; what was not written then is zeroes."""
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        responses = stub.ReadUnsent(cache_manager_pb2.ReadUnsentRequest(number=number))
        store = next(responses).store
        try:
            _write(path, store, responses)
        except FileExistsError:
            raise CommandError(f"{path} is there already: expected a new file") from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    if as_json:
        print_json(record_of(store))
    else:
        missing = store.length - store.written_bytes
        zeroes = f"; {show_bytes(missing)} that were not written are zeroes" if missing else ""
        print(f"Wrote {show_bytes(store.written_bytes)} to {path}{zeroes}.")


@app.command()
def discard(
    number: Number,
    *,
    client: ClientOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Throw it away: it is not stored, nor kept."""
    with channel_to(find_address(Door.CLIENT, client, cell)) as channel:
        stub = cache_manager_pb2_grpc.CacheManagerStub(channel)
        stub.DiscardUnsent(cache_manager_pb2.DiscardUnsentRequest(number=number))
    print(f"Discarded unsent store {number}.")


def _write(
    path: Path,
    store: cache_manager_pb2.UnsentStore,
    responses: Iterator[cache_manager_pb2.ReadUnsentResponse],
) -> None:
    with path.open("xb") as file:
        for response in responses:
            file.seek(response.offset)
            file.write(response.data)
        file.truncate(store.length)


def _show_fid(fid: Any) -> str:
    return f"{fid['volume']}.{fid['vnode']}.{fid['uniquifier']}"


def _show_on_disk(on_disk: Any) -> str:
    return "yes" if on_disk else "no"
