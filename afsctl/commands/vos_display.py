"""How `afsctl vos` shows volumes, their places, plans, and how far an operation is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from afs.v1 import vol_server_pb2
from afsctl.failure import CommandError
from afsctl.output import (
    Column,
    print_details,
    print_json,
    print_listing,
    show_bytes,
    show_duration,
    show_kib,
    show_time,
)
from afsctl.progress import Meter
from afsctl.records import record_of, spoken, volume_type

AnswerT = TypeVar("AnswerT", bound=Message)

VOLUME_COLUMNS = [
    Column("VOLUME", "volume_id", right=True),
    Column("NAME", "name", folds=True),
    Column("TYPE", "type", volume_type),
    Column("PART", "partition"),
    Column("STATE", "state", spoken),
    Column("USED", "used_kib", show_kib, right=True),
    Column("QUOTA", "max_quota_kib", lambda kib: show_kib(kib) if kib else "none", right=True),
    Column("FILES", "file_count", right=True),
]
VOLUME_DETAILS = [
    *VOLUME_COLUMNS,
    Column("CREATED", "created_ns", show_time),
    Column("UPDATED", "updated_ns", show_time),
    Column("CLONED", "cloned_ns", show_time),
    Column("CHANGES", "change_counter"),
    Column("IN TRANSIT", "in_transit", lambda half: "yes" if half else ""),
    Column("DETAIL", "detail"),
]


def follow(answers: Iterable[AnswerT], meter: Meter) -> Iterator[AnswerT]:
    """The answers of an operation that tell more than how far it is; that the meter is told."""
    for answer in answers:
        fields = {field.name for field, _ in answer.ListFields()}
        if "progress" in fields:
            # Every message of an operation that goes on for long has a field of that name.
            progress: vol_server_pb2.Progress = getattr(answer, "progress")  # noqa: B009
            meter.update(
                done=progress.done, total=progress.total, step=progress.step, unit=progress.unit
            )
        if fields - {"progress"}:
            yield answer


def last_of(answers: Iterable[AnswerT], operation: str) -> AnswerT:
    """The last of the answers. CommandError if there is none."""
    last = None
    for last in answers:  # noqa: B007 - the last one is what is wanted
        pass
    if last is None:
        raise CommandError(f"the volserver ended the {operation} without an answer")
    return last


def print_volume(
    volume: vol_server_pb2.VolumeDetail,
    *,
    as_json: bool,
    give_back_s: float | None = None,
    sent: vol_server_pb2.Sent | None = None,
) -> None:
    """Prints a volume, and what it took to make it so."""
    record: dict[str, Any] = record_of(volume)
    if give_back_s is not None:
        record["give_back_s"] = give_back_s
    if sent is not None:
        record["sent"] = record_of(sent)
    columns = [
        *VOLUME_COLUMNS,
        Column("GIVEN BACK IN", "give_back_s", show_duration),
        Column("SENT", "sent", show_sent),
    ]
    print_details(columns, record, as_json=as_json)


def print_entries(entries: Iterable[vol_server_pb2.VolumeEntry], *, as_json: bool) -> None:
    """Prints entries of the location database."""
    columns = [
        Column("NAME", "name", folds=True),
        Column("READ-WRITE", "read_write_id", right=True),
        Column("READ-ONLY", "read_only_id", _id_or_none, right=True),
        Column("BACKUP", "backup_id", _id_or_none, right=True),
        Column("SITES", "sites", show_sites, folds=True),
        Column("LOCKED FOR", "locked_for", folds=True),
    ]
    records = [record_of(entry) for entry in entries]
    print_listing(columns, records, as_json=as_json, empty="The VLDB has no entries.")


def print_plan(plan: vol_server_pb2.OperationPlan, *, as_json: bool) -> None:
    """Prints what an operation would do: its steps, and what it would cost."""
    record = record_of(plan)
    if as_json:
        print_json({"plan": record})
        return
    for step in plan.steps:
        print(step)
    # A removal sends nothing, a new volume was not in service.
    columns = [
        Column("TO SEND", "bytes_to_send", lambda size: show_bytes(size) if size else ""),
        Column("CHUNKS TO SEND", "chunks_to_send", lambda count: str(count) if count else ""),
        Column("CLIENTS TO TELL", "clients_to_tell"),
        Column("OUT OF SERVICE FOR", "exclusive_s", _show_exclusive),
    ]
    print_details(columns, record, as_json=False)
    print("Nothing was changed.")


def print_done(text: str, record: dict[str, Any], *, as_json: bool) -> None:
    """Prints one sentence, or the record."""
    if as_json:
        print_json(record)
    else:
        print(text)


def show_sites(sites: list[dict[str, Any]]) -> str:
    """Where the volumes are, and which of them: `127.0.0.1:7000/vicepa RW BK`.

    A read-only site that does not show what was released last says so.
    """
    released = max((site["release"] for site in sites), default=0)
    types: dict[str, list[str]] = {}
    for site in sites:
        there = types.setdefault(f"{site['file_server']}/{site['partition']}", [])
        kind = volume_type(site["type"])
        if site["type"] == "read_only" and (not site["release"] or site["release"] < released):
            kind += " (not released)" if not site["release"] else " (old)"
        there.append(kind)
    return ", ".join(" ".join((place, *there)) for place, there in types.items())


def show_sent(sent: dict[str, Any]) -> str:
    """What was sent, how long it took, and how long the volume was out of service."""
    return (
        f"{show_bytes(sent['bytes'])} in {show_duration(sent['total_s'])}"
        f" ({sent['vnodes']} vnodes, {sent['chunks']} chunks),"
        f" out of service {show_duration(sent['exclusive_s'])}"
    )


def _show_exclusive(seconds: float) -> str:
    return f"about {show_duration(seconds)}" if seconds else ""


def _id_or_none(number: int) -> str:
    return str(number) if number else ""
