"""`afsctl fs`: the access lists of directories. Source: `fs` of AFS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from afs.access.acl import LETTERS, WORDS, Right, letters, rights_from_letters
from afs.access.acl_text import NamedAcl, parse_named_acl
from afs.errors import AfsError
from afs.v1 import file_server_pb2
from afsctl.addresses import (
    DEFAULT_CELL_DIR,
    CellDirOption,
    Door,
    FileServerOption,
    LocationOption,
    find_address,
)
from afsctl.output import JsonOption, print_json
from afsctl.run_async import run_async
from afsctl.volume_path import Place, VolumePath, Volumes

PathArgument = Annotated[str, typer.Argument(metavar="/VOLUME/path")]
ClearOption = Annotated[bool, typer.Option("--clear", help="Take everything else away first.")]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command("listacl")(list_acl)
    app.command("setacl")(set_acl)
    app.command("copyacl")(copy_acl)


def list_acl(
    paths: Annotated[list[str], typer.Argument(metavar="/VOLUME/path…")],
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show who has which rights in directories; of a file, in the one that it is in."""
    volumes = _volumes(file_server, location, cell)

    async def run() -> list[NamedAcl]:
        async with volumes:
            return [await _fetch(await _find(volumes, path)) for path in paths]

    _print(paths, run_async(run()), as_json=as_json)


def set_acl(
    path: PathArgument,
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME RIGHTS…",
            help=f"Users or groups, each with letters of {''.join(LETTERS)} or one of"
            f" {', '.join(WORDS)}; none takes the entry away.",
        ),
    ],
    *,
    negative: Annotated[
        bool, typer.Option("--negative", help="Rights that are denied, whoever else gives them.")
    ] = False,
    clear: ClearOption = False,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Change who has which rights in a directory and on the files in it."""
    wanted = dict(_pairs(entries))
    volumes = _volumes(file_server, location, cell)

    async def run() -> NamedAcl:
        async with volumes:
            place = await _find(volumes, path)
            acl = NamedAcl() if clear else await _fetch(place)
            sides = [acl.positive, acl.negative]
            sides[negative] = _merged(sides[negative], wanted)
            return await _store(place, NamedAcl(*sides))

    _print([path], [run_async(run())], as_json=as_json)


def copy_acl(
    source: PathArgument,
    targets: Annotated[list[str], typer.Argument(metavar="/VOLUME/path…")],
    *,
    clear: ClearOption = False,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Copy the access list of one directory to others."""
    volumes = _volumes(file_server, location, cell)

    async def run() -> list[NamedAcl]:
        async with volumes:
            given = await _fetch(await _find(volumes, source))
            stored = []
            for target in targets:
                place = await _find(volumes, target)
                old = NamedAcl() if clear else await _fetch(place)
                merged = NamedAcl(
                    _merged(old.positive, given.positive), _merged(old.negative, given.negative)
                )
                stored.append(await _store(place, merged))
            return stored

    _print(targets, run_async(run()), as_json=as_json)


def _volumes(file_server: str | None, location: str | None, cell: Path) -> Volumes:
    return Volumes(find_address(Door.LOCATION, location, cell), file_server)


async def _find(volumes: Volumes, path: str) -> Place:
    return await volumes.find(VolumePath.parse(path))


async def _fetch(place: Place) -> NamedAcl:
    request = file_server_pb2.FetchACLRequest(fid=place.fid)
    return parse_named_acl((await place.volume.ask(lambda server: server.FetchACL(request))).acl)


async def _store(place: Place, acl: NamedAcl) -> NamedAcl:
    request = file_server_pb2.StoreACLRequest(fid=place.fid, acl=acl.text())
    await place.volume.ask(lambda server: server.StoreACL(request))
    return await _fetch(place)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, Right]]:
    if len(words) % 2:
        raise typer.BadParameter(f"{words[-1]!r} has no rights: expected pairs of NAME RIGHTS")
    for name, text in zip(words[::2], words[1::2], strict=True):
        try:
            yield name, rights_from_letters(text)
        except AfsError as error:
            raise typer.BadParameter(error.detail) from None


def _merged(old: Any, new: Any) -> dict[str, Right]:
    """The rights of both; what `new` says wins, and no rights are no entry."""
    return {name: rights for name, rights in {**old, **new}.items() if rights}


def _print(paths: Sequence[str], acls: Sequence[NamedAcl], *, as_json: bool) -> None:
    if as_json:
        print_json([_record(path, acl) for path, acl in zip(paths, acls, strict=True)])
        return
    for path, acl in zip(paths, acls, strict=True):
        print(f"Access list for {path} is")
        for heading, side in (("Normal", acl.positive), ("Negative", acl.negative)):
            if side:
                print(f"{heading} rights:")
            for name, rights in side.items():
                print(f"  {name} {letters(rights)}")


def _record(path: str, acl: NamedAcl) -> dict[str, Any]:
    return {
        "path": path,
        "positive": {name: letters(rights) for name, rights in acl.positive.items()},
        "negative": {name: letters(rights) for name, rights in acl.negative.items()},
    }
