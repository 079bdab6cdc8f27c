"""`afsctl vos`: a volume's read-only sites, and releasing to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import follow, print_done, print_plan, show_sent
from afsctl.commands.vos_options import SERVER_HELP, DryRunOption, VolumeArgument
from afsctl.failure import CommandError
from afsctl.output import Column, JsonOption, error_line, print_json, print_listing, show_duration
from afsctl.progress import Meter, metered
from afsctl.records import record_of
from afsctl.vol_servers import VolServers, roomiest_partition

SiteServerOption = Annotated[
    str, typer.Option("--server", "--to-server", metavar="SERVER", help=SERVER_HELP)
]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(release)
    app.command("addsite")(add_site)
    app.command("remsite")(remove_site)


def release(
    volume: VolumeArgument,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until no client can read the old state any more.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Bring a volume's read-only sites up to date. Exit status 1 if a site could not be."""
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("releasing", "steps", quiet=as_json) as meter,
    ):
        request = vol_server_pb2.ReleaseRequest(volume=volume, wait=wait, dry_run=dry_run)
        answers = servers.of(volume).Release(request)
        last = _outcome(follow(answers, meter), meter)
    if dry_run:
        print_plan(last.plan, as_json=as_json)
        return
    if as_json:
        record = record_of(last)
        print_json({"sites": record["sites"], "not_told": record["not_told"]})
    else:
        _print_outcome(last)
    failed = [outcome for outcome in last.sites if not outcome.released]
    for outcome in failed:
        error_line(f"{_place(outcome.site)}: {outcome.detail}")
    if failed:
        raise CommandError(
            f"{len(failed)} of {len(last.sites)} sites keep their old state until the next release"
        )


def add_site(
    volume: VolumeArgument,
    *,
    server: SiteServerOption,
    partition: Annotated[
        str | None, typer.Option(help="Such as vicepa; default: the one with most room.")
    ] = None,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Add a site for a read-only copy; the next release fills it."""
    with VolServers(vol_server, location, cell) as servers:
        target = servers.named(server)
        chosen = partition or roomiest_partition(servers.at(target))
        request = vol_server_pb2.AddSiteRequest(volume=volume, server=target, partition=chosen)
        servers.of(volume).AddSite(request)
    record = {"volume": volume, "vol_server": target, "partition": chosen}
    text = f"Added the site {target}/{chosen}; vos release {volume} fills it."
    print_done(text, record, as_json=as_json)


def remove_site(
    volume: VolumeArgument,
    *,
    server: SiteServerOption,
    partition: Annotated[
        str | None, typer.Option(help="Such as vicepa; default: the one where the site is.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also if that server does not answer: then a copy that it has stays behind.",
        ),
    ] = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Take a site for a read-only copy away, and the copy there."""
    with VolServers(vol_server, location, cell) as servers:
        target = servers.named(server)
        chosen = partition or _partition_of_site(servers, volume, target)
        request = vol_server_pb2.RemoveSiteRequest(
            volume=volume, server=target, partition=chosen, force=force
        )
        asked = servers.address_of(volume)
        if force and asked == target:
            # It may be the one that does not answer, and any other can be asked as well.
            others = [each.vol_server for each in servers.all() if each.vol_server != target]
            asked = next(iter(others), asked)
        answer = servers.at(asked).RemoveSite(request)
    record = {
        "volume": volume,
        "vol_server": target,
        "partition": chosen,
        "detail": answer.detail,
    }
    text = f"Removed the site {target}/{chosen}."
    if answer.detail:
        text += f" {answer.detail}."
    print_done(text, record, as_json=as_json)


def _outcome(
    answers: Iterable[vol_server_pb2.ReleaseResponse], meter: Meter
) -> vol_server_pb2.ReleaseResponse:
    """All that the answers told together: how it ended at the sites, who is not told at last."""
    whole = vol_server_pb2.ReleaseResponse()
    for answer in answers:
        # Each answer lists all who are not told then; they become fewer.
        del whole.not_told[:]
        if answer.sites:
            del whole.sites[:]
        whole.MergeFrom(answer)
        if answer.not_told:
            waiting = len(answer.not_told)
            meter.update(done=waiting, total=0, step="waiting for clients", unit="left")
    return whole


def _print_outcome(outcome: vol_server_pb2.ReleaseResponse) -> None:
    columns = [
        Column("SITE", "site", folds=True),
        Column("RELEASED", "released", lambda done: "yes" if done else "no"),
        Column("SENT", "sent", _show_sent_if_any, folds=True),
        Column("DETAIL", "detail", folds=True),
    ]
    records = [
        {**record_of(one), "site": _place(one.site)}
        for one in sorted(outcome.sites, key=lambda one: _place(one.site))
    ]
    print_listing(columns, records, as_json=False, empty="The volume has no read-only sites.")
    if outcome.sites and all(one.released and not one.sent.total_s for one in outcome.sites):
        print("The sites show it already: nothing was sent.")
    if outcome.not_told:
        print()
        not_told = [
            Column("NOT TOLD YET", "host_uuid"),
            Column("ADDRESS", "address", folds=True),
            Column("LEASE LEFT", "lease_remaining_s", show_duration, right=True),
        ]
        print_listing(not_told, list(map(record_of, outcome.not_told)), as_json=False, empty="")


def _partition_of_site(servers: VolServers, volume: str, vol_server: str) -> str:
    """The partition of the volume's only read-only site at a server; CommandError if unclear."""
    entry = servers.entry(volume)
    if entry is None:
        raise CommandError(f"the location database has no volume {volume!r}")
    found = [
        site["partition"]
        for site in record_of(entry)["sites"]
        if site["vol_server"] == vol_server and site["type"] == "read_only"
    ]
    if len(found) != 1:
        there = f"{len(found)} sites" if found else "no read-only site"
        raise CommandError(f"volume {volume} has {there} at {vol_server}: expected one")
    return str(found[0])


def _show_sent_if_any(sent: dict[str, Any] | None) -> str:
    return show_sent(sent) if sent and sent["total_s"] else ""


def _place(site: vol_server_pb2.Site) -> str:
    return f"{site.file_server}/{site.partition}"
