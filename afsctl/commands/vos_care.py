"""`afsctl vos`: is everything as it should be, and what can be done about what is not."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer

from afs.errors import AfsCode
from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import VOLUME_COLUMNS, follow
from afsctl.commands.vos_options import VolumeArgument
from afsctl.commands.vos_survey import survey
from afsctl.failure import CommandError, abort_code
from afsctl.output import Column, JsonOption, print_details, print_json, print_listing
from afsctl.progress import metered
from afsctl.records import record_of
from afsctl.vol_servers import ServerAddresses, VolServers

_FINDING_COLUMNS = [
    Column("VOLUME", "volume_id", right=True),
    Column("PART", "partition"),
    Column("KIND", "kind"),
    Column("SUBJECT", "subject", folds=True),
    Column("PATH", "path", folds=True),
    Column("DETAIL", "detail", folds=True),
    Column("ACTION", "action", folds=True),
]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(salvage)
    app.command()(verify)


def salvage(
    volume: VolumeArgument,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look only, repair nothing.")] = False,
    remove_orphans: Annotated[
        bool,
        typer.Option(
            "--remove-orphans",
            help="Remove what no name leads to, instead of naming it in the root directory.",
        ),
    ] = False,
    remove_damaged: Annotated[
        bool,
        typer.Option(
            "--remove-damaged", help="Remove files that lost data, instead of keeping the rest."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read the data, only see that it is there.")
    ] = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Check a volume and repair it; it is out of service meanwhile.

    Exit status 1 if something is left that cannot be repaired.
    """
    findings: list[dict[str, Any]] = []
    last = vol_server_pb2.SalvageResponse()
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("salvaging", "vnodes", quiet=as_json) as meter,
    ):
        request = vol_server_pb2.SalvageRequest(
            volume=volume,
            dry_run=dry_run,
            remove_orphans=remove_orphans,
            remove_damaged=remove_damaged,
            quick=quick,
        )
        for answer in follow(servers.of(volume).Salvage(request), meter):
            if answer.HasField("finding"):
                findings.append(record_of(answer.finding))
            last = answer
    if as_json:
        detail = record_of(last.volume) if last.HasField("volume") else None
        record = {
            "findings": findings,
            "unrepaired": last.unrepaired,
            "changed": last.changed,
            "volume": detail,
        }
        print_json(record)
    else:
        print_listing(_FINDING_COLUMNS, findings, as_json=False, empty="Nothing is wrong with it.")
        if findings and last.HasField("volume"):
            print()
            print_details(VOLUME_COLUMNS, record_of(last.volume), as_json=False)
    if last.unrepaired:
        raise CommandError(f"{last.unrepaired} of {_counted(len(findings))} not repaired")


def verify(
    volume: Annotated[
        str, typer.Argument(help="Name or id of a volume; default: all of them.")
    ] = "",
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read all data and compare it with its hashes.")
    ] = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Compare the location database with the disks of all servers, and volumes with their data.

    Changes nothing. Exit status 1 if anything is wrong, or a server does not answer.
    """
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("verifying", "volumes", quiet=as_json) as meter,
    ):
        without: list[grpc.RpcError] = []

        def findings(server: ServerAddresses) -> list[dict[str, Any]]:
            request = vol_server_pb2.VerifyRequest(volume=volume, deep=deep)
            answers = follow(servers.at(server.vol_server).Verify(request), meter)
            try:
                return [record_of(answer.finding) for answer in answers]
            except grpc.RpcError as error:
                # One volume is on some servers only.
                if not volume or abort_code(error) != AfsCode.VNOVOL:
                    raise
                without.append(error)
                return []

        found = survey(servers, findings)
    if len(without) == found.asked:
        raise without[0]
    if as_json or found.records or not found.failures:
        columns = [*found.server_columns, *_FINDING_COLUMNS]
        empty = "Everything is as it should be."
        print_listing(columns, found.records, as_json=as_json, empty=empty)
    found.conclude()
    if found.records:
        raise CommandError(f"{_counted(len(found.records))} in all")


def _counted(findings: int) -> str:
    return f"{findings} finding{'' if findings == 1 else 's'}"
