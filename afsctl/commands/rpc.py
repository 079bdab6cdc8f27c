"""`afsctl rpc`: calls any method of any daemon, known only through server reflection."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, use_tls_of
from afsctl.channels import channel_to
from afsctl.failure import CommandError
from afsctl.json_stream import json_objects, standard_input
from afsctl.output import Column, JsonOption, print_json, print_listing
from afsctl.reflection import CHANNEL_OPTIONS, ReflectedServer

app = typer.Typer(help="Call any method of any daemon, by server reflection.", no_args_is_help=True)

AddressArgument = Annotated[str, typer.Argument(help="host:port or unix:PATH.")]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout-s", help="Give up after this many seconds.", min=0.0)
]


@app.command("list")
def list_methods(
    address: AddressArgument,
    service: Annotated[str | None, typer.Argument(help="Only the methods of this service.")] = None,
    *,
    as_json: JsonOption = False,
    timeout_s: TimeoutOption = 10.0,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List what a daemon serves: its services, or the methods of one."""
    use_tls_of(address, cell)
    with channel_to(address, CHANNEL_OPTIONS) as channel:
        server = ReflectedServer(channel, timeout_s)
        if service is None:
            print_listing(
                [Column("SERVICE", "service")],
                [{"service": name} for name in server.services()],
                as_json=as_json,
                empty="The daemon serves nothing.",
            )
            return
        records = [
            {
                "method": f"{method.containing_service.full_name}/{method.name}",
                "request": method.input_type.full_name,
                "request_stream": method.client_streaming,
                "response": method.output_type.full_name,
                "response_stream": method.server_streaming,
            }
            for method in server.service(service).methods
        ]
    for record in records:
        record["name"] = str(record["method"]).rpartition("/")[2]
        record["takes"] = _kind(record["request"], record["request_stream"])
        record["gives"] = _kind(record["response"], record["response_stream"])
    columns = [
        Column("METHOD", "name"),
        Column("TAKES", "takes", folds=True),
        Column("GIVES", "gives", folds=True),
    ]
    print_listing(columns, records, as_json=as_json, empty="The service has no methods.")


@app.command()
def call(
    address: AddressArgument,
    method: Annotated[
        str, typer.Argument(metavar="SERVICE/METHOD", help="Such as FileServer/GetTime.")
    ],
    requests: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JSON]…",
            help="The request, or several for a stream; '-': from standard input.",
        ),
    ] = None,
    *,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", metavar="NAME=VALUE", help="Request metadata, such as afs-host-uuid=…"
        ),
    ] = None,
    timeout_s: TimeoutOption = None,
    max_answers: Annotated[
        int | None, typer.Option(help="End a stream of answers after this many.", min=1)
    ] = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Call one method; requests and answers are JSON, one answer a line.

    Requests from standard input are sent as they come, so that a stream can be talked to by hand.
    """
    metadata = [_header(text) for text in header or []]
    messages = _requests(requests or [])
    use_tls_of(address, cell)
    with channel_to(address, CHANNEL_OPTIONS) as channel:
        server = ReflectedServer(channel, timeout_s)
        descriptor = server.method(method)
        if not descriptor.client_streaming:
            messages = _only(messages, descriptor.name)
        answers = server.call(descriptor, messages, metadata)
        for count, answer in enumerate(answers, 1):
            print_json(answer)
            # The reader of an endless stream wants each answer when it comes.
            sys.stdout.flush()
            if count == max_answers:
                break


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint="--header")
    return name.lower(), value


def _requests(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """The requests in the arguments; those of standard input as they come."""
    known: list[dict[str, Any]] | None = []
    for argument in arguments:
        if argument == "-":
            known = None
        elif known is not None:
            known += _parsed(argument)
    if known is not None:
        return iter(known)
    return itertools.chain.from_iterable(
        json_objects(standard_input()) if argument == "-" else _parsed(argument)
        for argument in arguments
    )


def _parsed(argument: str) -> list[dict[str, Any]]:
    try:
        return list(json_objects([argument]))
    except CommandError as error:
        raise typer.BadParameter(str(error), param_hint="JSON") from None


def _only(messages: Iterator[dict[str, Any]], method: str) -> Iterator[dict[str, Any]]:
    """The one request of a method that takes one; an empty one if there is none."""
    found = list(messages)
    if len(found) > 1:
        raise CommandError(f"{method} takes one request, not {len(found)}")
    return iter(found or [{}])


def _kind(message: object, stream: object) -> str:
    name = str(message).rpartition(".")[2]
    return f"stream of {name}" if stream else name
