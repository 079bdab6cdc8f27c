"""`afsctl vos`: whole-volume work. Source of the subcommands' names: AFS vos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from afs.v1 import (
    vol_server_pb2,
    vol_server_pb2_grpc,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afsctl.addresses import (
    DEFAULT_CELL_DIR,
    CellDirOption,
    Door,
    LocationOption,
    VolServerOption,
    find_address,
)
from afsctl.channels import channel_to
from afsctl.dump_files import STANDARD_STREAM, read_dump, write_dump
from afsctl.failure import CommandError
from afsctl.output import (
    Column,
    JsonOption,
    print_details,
    print_json,
    print_listing,
    show_duration,
    show_kib,
    show_time,
)
from afsctl.progress import metered
from afsctl.records import record_of, spoken, volume_type

app = typer.Typer(help="Create, dump, restore and look at whole volumes.", no_args_is_help=True)

VolumeArgument = Annotated[str, typer.Argument(help="Name (also NAME.backup) or id of a volume.")]
PartitionOption = Annotated[
    str | None, typer.Option(help="Such as vicepa; default: the one with most room.")
]

_COLUMNS = [
    Column("VOLUME", "volume_id", right=True),
    Column("NAME", "name", folds=True),
    Column("TYPE", "type", volume_type),
    Column("PART", "partition"),
    Column("STATE", "state", spoken),
    Column("USED", "used_kib", show_kib, right=True),
    Column("QUOTA", "max_quota_kib", lambda kib: show_kib(kib) if kib else "none", right=True),
    Column("FILES", "file_count", right=True),
]
_DETAILS = [
    *_COLUMNS,
    Column("CREATED", "created_ns", show_time),
    Column("UPDATED", "updated_ns", show_time),
    Column("CLONED", "cloned_ns", show_time),
    Column("CHANGES", "change_counter"),
    Column("DETAIL", "detail"),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the new volume.")],
    *,
    partition: PartitionOption = None,
    quota_kib: Annotated[int, typer.Option(help="0: no limit.", min=0)] = 0,
    volume_id: Annotated[
        int, typer.Option("--id", help="0: chosen by the VLDB.", min=0, max=2**32 - 1)
    ] = 0,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Create a volume."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.Create(
            vol_server_pb2.CreateRequest(
                name=name,
                partition=partition or _roomiest_partition(stub),
                max_quota_kib=quota_kib,
                volume_id=volume_id,
            )
        )
    _print_volume(answer.volume, as_json=as_json)


@app.command()
def remove(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Remove a volume and all that is in it."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.Delete(vol_server_pb2.DeleteRequest(volume=volume))
    _say(f"Removed volume {answer.volume_id}.", record_of(answer), as_json=as_json)


@app.command()
def backup(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make or renew a volume's backup volume, NAME.backup: its contents as of now."""
    with (
        channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel,
        metered("backing up", "steps", quiet=as_json) as meter,
    ):
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        detail = None
        for answer in stub.Backup(vol_server_pb2.BackupRequest(volume=volume)):
            if answer.HasField("progress"):
                progress = answer.progress
                meter.update(done=progress.done, total=progress.total, step=progress.step)
            if answer.HasField("volume"):
                detail = answer.volume
    if detail is None:
        raise CommandError("the volserver ended the backup without an answer")
    _print_volume(detail, as_json=as_json)


@app.command()
def dump(
    volume: VolumeArgument,
    file: Annotated[Path, typer.Argument(help="'-': standard output.")] = STANDARD_STREAM,
    *,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Write a volume's contents to a dump file."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answers = stub.Dump(vol_server_pb2.DumpRequest(volume=volume))
        write_dump(file, (answer.data for answer in answers))


@app.command()
def restore(
    name: Annotated[str, typer.Argument(help="Name of the volume to make or to overwrite.")],
    file: Annotated[Path, typer.Argument(help="'-': standard input.")],
    *,
    partition: PartitionOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the contents of a volume that is there.")
    ] = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a volume from a dump file. A dump that is damaged changes nothing."""
    with (
        channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel,
        read_dump(file, quiet=as_json) as pieces,
    ):
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        opening = vol_server_pb2.RestoreOpen(
            name=name,
            # The volume to overwrite knows its partition.
            partition=partition or ("" if overwrite else _roomiest_partition(stub)),
            overwrite=overwrite,
        )
        answer = stub.Restore(_restore_requests(opening, pieces))
    _print_volume(answer.volume, as_json=as_json, give_back_s=answer.give_back_s)


@app.command()
def offline(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Take a volume off-line."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.Offline(vol_server_pb2.OfflineRequest(volume=volume))
    _print_volume(answer.volume, as_json=as_json)


@app.command()
def online(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Put a volume on-line again."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.Online(vol_server_pb2.OnlineRequest(volume=volume))
    _print_volume(answer.volume, as_json=as_json, give_back_s=answer.give_back_s)


@app.command()
def setfields(
    volume: VolumeArgument,
    *,
    quota_kib: Annotated[int, typer.Option(help="0: no limit.", min=0)],
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Change what a volume says of itself: its quota."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.SetFields(
            vol_server_pb2.SetFieldsRequest(volume=volume, max_quota_kib=quota_kib)
        )
    _print_volume(answer.volume, as_json=as_json)


@app.command()
def examine(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show everything about a volume, and where the VLDB says that it is."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.Examine(vol_server_pb2.ExamineRequest(volume=volume))
    if as_json:
        print_json(record_of(answer))
        return
    print_details(_DETAILS, record_of(answer.volume), as_json=False)
    if answer.entry.sites:
        print()
        _print_entries([answer.entry], as_json=False)


@app.command()
def listvol(
    *,
    partition: Annotated[str, typer.Option(help="Only this partition.")] = "",
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the volumes on the volserver's partitions."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.ListVolumes(vol_server_pb2.ListVolumesRequest(partition=partition))
    records = [record_of(volume) for volume in answer.volumes]
    print_listing(_COLUMNS, records, as_json=as_json, empty="There are no volumes.")


@app.command()
def listvldb(
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the entries of the volume location database."""
    entries: list[vol_server_pb2.VolumeEntry] = []
    with channel_to(find_address(Door.LOCATION, location, cell)) as channel:
        stub = volume_location_pb2_grpc.VolumeLocationStub(channel)
        while True:
            after = entries[-1].name if entries else ""
            answer = stub.ListEntries(volume_location_pb2.ListEntriesRequest(after=after))
            if not answer.entries:
                break
            entries += answer.entries
    _print_entries(entries, as_json=as_json)


@app.command()
def partinfo(
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the volserver's partitions and the room on them."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.ListPartitions(vol_server_pb2.ListPartitionsRequest())
    columns = [
        Column("PARTITION", "name"),
        Column("FREE", "free_kib", show_kib, right=True),
        Column("SIZE", "size_kib", show_kib, right=True),
        Column("VOLUMES", "volume_count", right=True),
        Column("PATH", "path", folds=True),
    ]
    records = [record_of(partition) for partition in answer.partitions]
    print_listing(columns, records, as_json=as_json, empty="There are no partitions.")


@app.command("status")
def transactions(
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the operations that the volserver is at."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = stub.ListTransactions(vol_server_pb2.ListTransactionsRequest())
    columns = [
        Column("TRANSACTION", "transaction_id", right=True),
        Column("VOLUME", "volume_id", right=True),
        Column("OPERATION", "operation"),
        Column("STEP", "step", folds=True),
        Column("AGE", "age_s", show_duration, right=True),
        Column("IDLE", "idle_s", show_duration, right=True),
    ]
    records = [record_of(transaction) for transaction in answer.transactions]
    print_listing(columns, records, as_json=as_json, empty="The volserver is idle.")


@app.command()
def endtrans(
    transaction: Annotated[int, typer.Argument(help="As vos status lists it.", min=1)],
    *,
    vol_server: VolServerOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """End an operation of the volserver and give its volume back."""
    with channel_to(find_address(Door.VOL_SERVER, vol_server, cell)) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        stub.EndTransaction(vol_server_pb2.EndTransactionRequest(transaction_id=transaction))
    print(f"Ended transaction {transaction}.")


def _add_not_yet(name: str, summary: str) -> None:
    """Adds a subcommand that says that it does not exist yet, instead of being unknown."""

    @app.command(
        name,
        help=f"{summary} (not yet)",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def subcommand(_context: typer.Context) -> None:
        raise CommandError(f"vos {name}: not yet: this version cannot do it")


_add_not_yet("rename", "Give a volume another name.")
_add_not_yet("move", "Move a volume to another partition or server.")
_add_not_yet("copy", "Copy a volume.")
_add_not_yet("clone", "Make a clone of a volume.")
_add_not_yet("release", "Bring a volume's read-only copies up to date.")
_add_not_yet("addsite", "Add a site for a read-only copy.")
_add_not_yet("remsite", "Take a site for a read-only copy away.")


def _roomiest_partition(stub: vol_server_pb2_grpc.VolServerStub) -> str:
    partitions = stub.ListPartitions(vol_server_pb2.ListPartitionsRequest()).partitions
    if not partitions:
        raise CommandError("the volserver has no partitions")
    return max(partitions, key=lambda partition: partition.free_kib).name


def _restore_requests(
    opening: vol_server_pb2.RestoreOpen, pieces: Iterable[bytes]
) -> Iterator[vol_server_pb2.RestoreRequest]:
    yield vol_server_pb2.RestoreRequest(open=opening)
    for piece in pieces:
        yield vol_server_pb2.RestoreRequest(data=piece)


def _print_volume(
    volume: vol_server_pb2.VolumeDetail, *, as_json: bool, give_back_s: float | None = None
) -> None:
    record: dict[str, Any] = record_of(volume)
    if give_back_s is not None:
        record["give_back_s"] = give_back_s
    columns = [*_COLUMNS, Column("GIVEN BACK IN", "give_back_s", show_duration)]
    print_details(columns, record, as_json=as_json)


def _print_entries(entries: Iterable[vol_server_pb2.VolumeEntry], *, as_json: bool) -> None:
    records = [record_of(entry) for entry in entries]
    columns = [
        Column("NAME", "name", folds=True),
        Column("READ-WRITE", "read_write_id", right=True),
        Column("READ-ONLY", "read_only_id", _id_or_none, right=True),
        Column("BACKUP", "backup_id", _id_or_none, right=True),
        Column("SITES", "sites", _show_sites, folds=True),
        Column("LOCKED FOR", "locked_for"),
    ]
    print_listing(columns, records, as_json=as_json, empty="The VLDB has no entries.")


def _id_or_none(number: int) -> str:
    return str(number) if number else ""


def _show_sites(sites: list[dict[str, Any]]) -> str:
    """Where the volumes are, and which of them: `127.0.0.1:7000/vicepa RW BK`."""
    types: dict[str, list[str]] = {}
    for site in sites:
        place = f"{site['file_server']}/{site['partition']}"
        types.setdefault(place, []).append(volume_type(site["type"]))
    return ", ".join(" ".join((place, *there)) for place, there in types.items())


def _say(text: str, record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        print(text)
