"""The command tree, and what is around every command: exit status and the one line of an error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import grpc
import typer

from afs.errors import AfsError
from afsctl.addresses import use_given_tls
from afsctl.commands import cell, fs, fssync, login, pts, rpc, vos
from afsctl.daemon import CellError
from afsctl.failure import FAILED, INTERRUPTED, CommandError, explain, one_line
from afsctl.output import error_line

app = typer.Typer(
    name="afsctl",
    help="The command line of laterfs, a network file service with the semantics of AFS.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(cell.app, name="cell")
app.add_typer(vos.app, name="vos")
app.add_typer(fs.app, name="fs")
app.add_typer(fssync.app, name="fssync")
app.add_typer(pts.app, name="pts")
app.add_typer(rpc.app, name="rpc")
login.add_to(app)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - the option's callback
    if wanted:
        print(f"afsctl {metadata.version('laterfs')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The command line of laterfs, a network file service with the semantics of AFS."""


# The library tells its user in its log lines what it also raises.
logging.getLogger("grpc").setLevel(logging.CRITICAL)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Returns:
        The exit status: 0; 1 after one line on standard error for what failed; 2 likewise for a
            command line that
        makes no sense; 130 after Ctrl-C.
    """
    try:
        use_given_tls()
        status = typer.main.get_command(app).main(
            list(arguments), prog_name="afsctl", standalone_mode=False
        )
    except typer.TyperException as error:
        # Without a text it was a request for help, which has been printed.
        if text := one_line(error.format_message()):
            error_line(text)
        return error.exit_code
    except (CommandError, CellError, AfsError, grpc.RpcError) as error:
        error_line(explain(error))
        return FAILED
    except BrokenPipeError:
        return _reader_is_gone()
    except OSError as error:
        error_line(explain(error))
        return FAILED
    except Exception as error:
        if os.environ.get("AFSCTL_TRACEBACK"):
            raise
        name = type(error).__name__
        error_line(f"internal error: {name}: {explain(error)} (AFSCTL_TRACEBACK=1 shows where)")
        return FAILED
    if status == INTERRUPTED:
        error_line("interrupted")
    return status if isinstance(status, int) else 0


def main() -> None:
    """Runs the command line of this process and ends it."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = _reader_is_gone()
    sys.exit(status)


def _reader_is_gone() -> int:
    """Ends quietly when the reader of our output has: `afsctl … | head`."""
    # The interpreter flushes once more at exit; let that go nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
