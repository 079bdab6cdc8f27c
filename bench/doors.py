"""What looking at who calls, and TLS, cost: FetchStatus a second, against a cell without either."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from afs.access.acl import ALL_RIGHTS, rights_from_letters
from afs.access.acl_text import NamedAcl
from afs.identity.cell_files import IDENTITY_FOLDER, CellFiles
from afs.identity.keys import load_signing_key
from afs.identity.tokens import issue_token
from afs.runtime.outgoing import KeyTokens, show_tokens
from afs.runtime.tls import TlsFiles, use_tls
from afs.types import Fid, root_fid
from afs.v1 import file_server_pb2
from afs.wire import fid_to_wire
from afsctl.addresses import CA_VARIABLE, CERTIFICATE_VARIABLE
from afsctl.cell import Cell
from bench import stage
from bench.load import SHOWS_VARIABLE
from bench.report import Report, compare

ROUNDS: Final = 7
CALLS: Final = 6000
CONCURRENCY: Final = 16
USER: Final = "reader"
_NO_FID: Final = Fid(0, 0, 0)


@dataclass
class _Door:
    """One cell, and what was measured at it."""

    cell: Cell
    authorization: bool = False
    tls: bool = False
    fid: Fid = _NO_FID
    calls: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    @property
    def _files(self) -> CellFiles:
        return CellFiles(self.cell.directory / IDENTITY_FOLDER)

    @property
    def _certificates(self) -> TlsFiles | None:
        folder = self._files.folder / "tls"
        return TlsFiles(folder / "ca.pem", folder / "operator.pem") if self.tls else None

    @contextmanager
    def as_operator(self) -> Iterator[None]:
        """What this process opens in the block may do everything."""
        files = self._files
        use_tls(self._certificates)
        if self.authorization:
            show_tokens(KeyTokens(files.signing_key, files.read_name()))
        try:
            yield
        finally:
            show_tokens(None)
            use_tls(None)

    async def prepare(self) -> None:
        """A volume with a file that the user may look at."""
        with self.as_operator():
            volume = await stage.create_volume(self.cell, "bench.doors")
            if self.authorization:
                names = {"system:administrators": ALL_RIGHTS}
                names["system:authuser"] = rights_from_letters("read")
                request = file_server_pb2.StoreACLRequest(
                    fid=fid_to_wire(root_fid(volume)), acl=NamedAcl(names).text()
                )
                async with stage.file_server(self.cell) as files:
                    await files.StoreACL(request)
            (self.fid,) = await stage.create_files(self.cell, volume, 1)

    async def measure(self) -> None:
        """One round of one load generator."""
        environment = dict(os.environ)
        if self._certificates is not None:
            environment[CA_VARIABLE] = str(self._certificates.ca)
            environment[CERTIFICATE_VARIABLE] = str(self._certificates.certificate)
        if self.authorization:
            files = self._files
            environment[SHOWS_VARIABLE] = issue_token(
                load_signing_key(files.signing_key),
                cell=files.read_name(),
                name=USER,
                now_s=time.time(),
                lifetime_s=3600,
            )
        before = stage.cpu_s(self.cell.afsd.pid)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.load",
            *(self.cell.file_server, "FetchStatus", str(CALLS), str(CONCURRENCY), str(self.fid)),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        self.calls.append(float(output))
        self.cpu_us.append((stage.cpu_s(self.cell.afsd.pid) - before) / CALLS * 1e6)


async def run() -> Report:
    """Measures in turn: neither, access checks, access checks over TLS."""
    report = Report("doors", "FetchStatus behind access checks and TLS", "python -m bench doors")
    with ExitStack() as stack:
        plain, checked, both = doors = [
            _Door(_cell(stack, authorization=authorization, tls=tls), authorization, tls)
            for authorization, tls in ((False, False), (True, False), (True, True))
        ]
        for door in doors:
            await door.prepare()
        for _ in range(ROUNDS):
            for door in doors:
                await door.measure()
    note = f"one load generator, {CONCURRENCY} calls at a time, {ROUNDS} rounds in turn; a user"
    note += " with a token, whose rights come from system:authuser"
    report.add(
        compare(
            "with access checks, against without",
            checked.calls,
            plain.calls,
            "calls/s",
            at_least=0.9,
            note=note,
        )
    )
    report.add(
        compare(
            "over mutual TLS, against plain text",
            both.calls,
            checked.calls,
            "calls/s",
            at_least=0.7,
            note="access checks in both",
        )
    )
    cpu = "µs a call"
    report.add(compare("processor time, with access checks", checked.cpu_us, plain.cpu_us, cpu))
    report.add(compare("processor time, over TLS", both.cpu_us, checked.cpu_us, cpu))
    return report


def _cell(stack: ExitStack, *, authorization: bool, tls: bool) -> Cell:
    directory = stack.enter_context(stage.scratch())
    cell = Cell.start(directory, clients=0, authorization=authorization, tls=tls)
    return stack.enter_context(cell)
