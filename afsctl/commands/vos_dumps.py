"""`afsctl vos`: volumes as dump files, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import print_done, print_plan, print_volume
from afsctl.commands.vos_options import SERVER_HELP, DryRunOption, VolumeArgument
from afsctl.dump_check import DumpFacts, read_facts
from afsctl.dump_files import STANDARD_STREAM, read_dump, write_dump
from afsctl.failure import CommandError
from afsctl.output import Column, JsonOption, print_details, show_bytes, show_kib, show_time
from afsctl.vol_servers import VolServers, roomiest_partition


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(dump)
    app.command()(restore)


def dump(
    volume: VolumeArgument,
    file: Annotated[Path, typer.Argument(help="'-': standard output.")] = STANDARD_STREAM,
    *,
    since: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Only what changed after this change counter (CHANGES of vos examine); 0: all.",
            min=0,
            max=2**64 - 1,
        ),
    ] = 0,
    incremental_from: Annotated[
        Path | None,
        typer.Option(
            "--incremental-from", metavar="DUMP", help="Only what changed since that dump was made."
        ),
    ] = None,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Write a volume's contents to a dump file."""
    if since and incremental_from is not None:
        raise typer.BadParameter("--since and --incremental-from exclude each other")
    if as_json and file == STANDARD_STREAM:
        raise typer.BadParameter("--json needs a file: standard output is for the dump")
    with VolServers(vol_server, location, cell) as servers:
        stub = servers.of(volume)
        if incremental_from is not None:
            earlier = read_facts(incremental_from, quiet=as_json)
            examined = stub.Examine(vol_server_pb2.ExamineRequest(volume=volume)).volume
            since = _base(earlier, examined, incremental_from)
        answers = stub.Dump(vol_server_pb2.DumpRequest(volume=volume, since=since))
        size_bytes = write_dump(file, (answer.data for answer in answers), quiet=as_json)
    if file != STANDARD_STREAM:
        what = f"what changed in {volume} since change {since}" if since else volume
        record = {"volume": volume, "file": str(file), "size_bytes": size_bytes, "since": since}
        print_done(f"Dumped {what} to {file}: {show_bytes(size_bytes)}.", record, as_json=as_json)


def restore(
    name: Annotated[str, typer.Argument(help="Name of the volume to make or to overwrite.")],
    file: Annotated[Path, typer.Argument(help="'-': standard input.")],
    *,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="SERVER", help=f"For a new volume. {SERVER_HELP}"),
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Such as vicepa; default: the one with most room.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the contents of a volume that is there; with an incremental dump, bring"
            " it on from the state that was dumped before.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a volume from a dump file. A dump that is damaged changes nothing."""
    with (
        VolServers(vol_server, location, cell) as servers,
        read_dump(file, quiet=as_json) as pieces,
    ):
        if server:
            stub = servers.at(servers.named(server))
        else:
            stub = servers.of(name) if overwrite else servers.at(servers.default())
        opening = vol_server_pb2.RestoreOpen(
            name=name,
            # The volume to overwrite knows its partition.
            partition=partition or ("" if overwrite else roomiest_partition(stub)),
            overwrite=overwrite,
            dry_run=dry_run,
        )
        answer = stub.Restore(_restore_requests(opening, pieces))
    if dry_run:
        print_plan(answer.plan, as_json=as_json)
    else:
        print_volume(answer.volume, as_json=as_json, give_back_s=answer.give_back_s)


def examine_dump(file: Path, *, as_json: bool) -> None:
    """Prints what a dump file holds. CommandError, AfsError or OSError if it is no whole dump."""
    record = read_facts(file, quiet=as_json).record
    # A dump is taken of a clone that lives as long as that takes; its own id tells nobody anything.
    shown = {**record, "volume_id": record["read_write_id"] or record["volume_id"]}
    columns = [
        Column("NAME", "name"),
        Column("VOLUME", "volume_id"),
        Column("DUMPED", "dumped_ns", show_time),
        Column("HOLDS", "since", lambda since: f"changes after {since}" if since else "everything"),
        Column("CHANGES", "change_counter"),
        Column("INCARNATION", "incarnation"),
        Column("QUOTA", "max_quota_kib", lambda kib: show_kib(kib) if kib else "none"),
        Column("VNODES", "vnodes"),
        Column("CHUNKS", "chunks"),
        Column("SIZE", "size_bytes", show_bytes),
    ]
    print_details(columns, record if as_json else shown, as_json=as_json)


def _base(earlier: DumpFacts, volume: vol_server_pb2.VolumeDetail, file: Path) -> int:
    """The change counter to dump from; CommandError if the dump is of another volume."""
    incarnation = earlier.record.get("incarnation", "")
    if not incarnation or incarnation != volume.incarnation:
        raise CommandError(
            f"{file} is a dump of {earlier.record['name']}, and of another volume than"
            f" {volume.name} is now: make a full dump"
        )
    return int(earlier.record["change_counter"])


def _restore_requests(
    opening: vol_server_pb2.RestoreOpen, pieces: Iterable[bytes]
) -> Iterator[vol_server_pb2.RestoreRequest]:
    yield vol_server_pb2.RestoreRequest(open=opening)
    for piece in pieces:
        yield vol_server_pb2.RestoreRequest(data=piece)
