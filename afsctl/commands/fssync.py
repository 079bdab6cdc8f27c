"""`afsctl fssync`: talks to a fileserver as a volserver does. Source: OpenAFS fssync-debug."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from afs.v1 import fssync_pb2, fssync_pb2_grpc, types_pb2
from afsctl.addresses import (
    DEFAULT_CELL_DIR,
    CellDirOption,
    Door,
    FssyncOption,
    find_address,
)
from afsctl.channels import channel_to
from afsctl.failure import CommandError
from afsctl.output import Column, JsonOption, print_details, print_json, print_listing
from afsctl.records import record_of, spoken, volume_type

app = typer.Typer(
    help="Take volumes from a fileserver and give them back, as a volserver does.",
    no_args_is_help=True,
)

VolumeArgument = Annotated[str, typer.Argument(help="Id or name of a volume.")]
PartitionOption = Annotated[str, typer.Option(help="Name of the partition, such as vicepa.")]
ProgramOption = Annotated[
    str, typer.Option(help="Who asks; the program that took a volume must give it back.")
]
DEFAULT_PROGRAM = "afsctl"

_VOLUME_COLUMNS = [
    Column("VOLUME", "volume_id", right=True),
    Column("NAME", "name", folds=True),
    Column("TYPE", "type", volume_type),
    Column("PART", "partition"),
    Column("STATE", "state", spoken),
    Column("TAKEN BY", "program", folds=True),
    Column("CHANGES", "change_counter", right=True),
    Column("DETAIL", "detail", folds=True),
]


class _FSSync:
    """The fileserver's FSSync door."""

    def __init__(self, stub: fssync_pb2_grpc.FSSyncStub, program: str) -> None:
        self._stub = stub
        self._program = program

    def do(
        self, command: fssync_pb2.FsyncCommand.ValueType, **fields: Any
    ) -> fssync_pb2.VolumeOpResponse:
        """The answer to a command. CommandError unless it is FSYNC_OK."""
        request = fssync_pb2.VolumeOpRequest(command=command, program=self._program, **fields)
        answer = self._stub.VolumeOp(request)
        if answer.response == fssync_pb2.FSYNC_OK:
            return answer
        response = fssync_pb2.FsyncResponseCode.Name(answer.response)
        reason = fssync_pb2.FsyncReason.Name(answer.reason) if answer.reason else ""
        raise CommandError(
            f"{': '.join(filter(None, (response, reason)))}: {answer.detail or 'no details'}"
        )

    def volume_id(self, volume: str) -> int:
        """The id of a volume given by id or by name; the fileserver itself knows the names."""
        if volume.isdecimal():
            return int(volume)
        volumes = self.do(fssync_pb2.FSYNC_VOL_LISTVOLUMES).volumes
        for info in volumes:
            if info.name == volume:
                return info.volume_id
        raise CommandError(f"the fileserver has no volume named {volume}")


def _run(
    command: fssync_pb2.FsyncCommand.ValueType,
    volume: str,
    *,
    partition: str,
    program: str,
    address: str | None,
    cell_dir: CellDirOption,
    as_json: bool,
    reason: fssync_pb2.FsyncReason.ValueType = fssync_pb2.FSYNC_FOR_OPERATOR,
) -> None:
    """Gives one command about one volume and prints what came of it."""
    with channel_to(find_address(Door.FSSYNC, address, cell_dir)) as channel:
        fssync = _FSSync(fssync_pb2_grpc.FSSyncStub(channel), program)
        answer = fssync.do(
            command, volume_id=fssync.volume_id(volume), partition=partition, reason=reason
        )
    if as_json:
        print_json(record_of(answer))
        return
    columns = [*_VOLUME_COLUMNS, Column("CALLBACKS MARKED", "callbacks_marked")]
    record = {**record_of(answer.volume), "callbacks_marked": answer.callbacks_marked or None}
    print_details(columns, {key: value for key, value in record.items() if value}, as_json=False)


def _add(name: str, command: fssync_pb2.FsyncCommand.ValueType, summary: str) -> None:
    """Adds the subcommand for a command that is about one volume."""

    @app.command(name, help=summary)
    def subcommand(
        volume: VolumeArgument,
        *,
        partition: PartitionOption = "",
        program: ProgramOption = DEFAULT_PROGRAM,
        as_json: JsonOption = False,
        fssync: FssyncOption = None,
        cell: CellDirOption = DEFAULT_CELL_DIR,
    ) -> None:
        _run(
            command,
            volume,
            partition=partition,
            program=program,
            address=fssync,
            cell_dir=cell,
            as_json=as_json,
        )


_add("online", fssync_pb2.FSYNC_VOL_ON, "Give a volume back: attach it and break its callbacks.")
_add("offline", fssync_pb2.FSYNC_VOL_OFF, "Take a volume off-line.")
_add("needvolume", fssync_pb2.FSYNC_NEEDVOLUME, "Take a volume for this program's own use.")
_add("leaveoff", fssync_pb2.FSYNC_VOL_LEAVE_OFF, "Give a volume back, but leave it off-line.")
_add("attach", fssync_pb2.FSYNC_VOL_ATTACH, "Attach a volume that is on disk.")
_add("detach", fssync_pb2.FSYNC_VOL_DONE, "Make the fileserver forget a volume that is gone.")
_add("move", fssync_pb2.FSYNC_VOL_MOVE, "Tell the fileserver that a volume has moved away.")
_add("callback", fssync_pb2.FSYNC_VOL_BREAKCBKS, "Break the callbacks of a volume.")
_add("error", fssync_pb2.FSYNC_VOL_FORCE_ERROR, "Put a volume into the error state.")
_add("query", fssync_pb2.FSYNC_VOL_QUERY, "Show the state of a volume.")


@app.command("list")
def list_volumes(
    *,
    partition: PartitionOption = "",
    as_json: JsonOption = False,
    fssync: FssyncOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the fileserver's volumes and their states."""
    with channel_to(find_address(Door.FSSYNC, fssync, cell)) as channel:
        door = _FSSync(fssync_pb2_grpc.FSSyncStub(channel), DEFAULT_PROGRAM)
        volumes = door.do(fssync_pb2.FSYNC_VOL_LISTVOLUMES, partition=partition).volumes
    print_listing(
        _VOLUME_COLUMNS,
        [record_of(volume) for volume in volumes],
        as_json=as_json,
        empty="The fileserver has no volumes.",
    )


@app.command()
def vnode(
    fid: Annotated[str, typer.Argument(metavar="VOLUME.VNODE.UNIQUIFIER")],
    *,
    as_json: JsonOption = False,
    fssync: FssyncOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show one vnode as the fileserver sees it."""
    wanted = _fid(fid)
    with channel_to(find_address(Door.FSSYNC, fssync, cell)) as channel:
        door = _FSSync(fssync_pb2_grpc.FSSyncStub(channel), DEFAULT_PROGRAM)
        answer = door.do(fssync_pb2.FSYNC_VOL_QUERY_VNODE, volume_id=wanted.volume, fid=wanted)
    record = record_of(answer.vnode)
    columns = [Column(key.upper().replace("_", " "), key, _text) for key in record]
    print_details(columns, record, as_json=as_json)


def _fid(text: str) -> types_pb2.Fid:
    try:
        volume, number, uniquifier = (int(part) for part in text.split("."))
        return types_pb2.Fid(volume=volume, vnode=number, uniquifier=uniquifier)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected three numbers, VOLUME.VNODE.UNIQUIFIER", param_hint="FID"
        ) from None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ".".join(str(part) for part in value.values())
    return str(value)
