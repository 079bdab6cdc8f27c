"""`afsctl vos`: what the volservers are doing at this moment."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer

from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import print_done
from afsctl.commands.vos_survey import survey
from afsctl.failure import CommandError
from afsctl.output import Column, JsonOption, print_listing, show_duration
from afsctl.records import record_of
from afsctl.vol_servers import ServerAddresses, VolServers


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command("status")(transactions)
    app.command("endtrans")(end_transaction)


def transactions(
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the operations that the volservers are at."""
    with VolServers(vol_server, location, cell) as servers:
        found = survey(servers, lambda server: _transactions(servers, server))
        columns = [
            *found.server_columns,
            Column("TRANSACTION", "transaction_id", right=True),
            Column("VOLUME", "volume_id", right=True),
            Column("OPERATION", "operation"),
            Column("STEP", "step", folds=True),
            Column("AGE", "age_s", show_duration, right=True),
            Column("IDLE", "idle_s", show_duration, right=True),
        ]
        empty = "The volservers are idle." if found.several else "The volserver is idle."
        print_listing(columns, found.records, as_json=as_json, empty=empty)
        found.conclude()


def end_transaction(
    transaction: Annotated[int, typer.Argument(help="As vos status lists it.", min=1)],
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """End an operation of a volserver and give its volume back."""
    with VolServers(vol_server, location, cell) as servers:
        address = _server_with(servers, transaction)
        request = vol_server_pb2.EndTransactionRequest(transaction_id=transaction)
        servers.at(address).EndTransaction(request)
    record = {"transaction_id": transaction, "vol_server": address}
    print_done(f"Ended transaction {transaction}.", record, as_json=as_json)


def _server_with(servers: VolServers, transaction: int) -> str:
    """The volserver that has a transaction of that number; each counts for itself."""
    known = servers.all()
    if len(known) == 1:
        return known[0].vol_server
    having = []
    for server in known:
        try:
            records = _transactions(servers, server)
        except grpc.RpcError:
            continue
        if any(record["transaction_id"] == transaction for record in records):
            having.append(server.vol_server)
    if len(having) == 1:
        return having[0]
    if not having:
        raise CommandError(f"no volserver has a transaction {transaction}")
    raise CommandError(
        f"several volservers have a transaction {transaction}: name one with --vol-server,"
        f" of {', '.join(having)}"
    )


def _transactions(servers: VolServers, server: ServerAddresses) -> list[dict[str, Any]]:
    stub = servers.at(server.vol_server)
    answer = stub.ListTransactions(vol_server_pb2.ListTransactionsRequest())
    return [record_of(one) for one in answer.transactions]
