"""Tells the story: `python -m demo`; exit status 1 if a promise of it was broken."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from afsctl.cell import Cell
from demo.client import Content, DemoClient, digest_of
from demo.crash import kill_and_restart
from demo.findings import WIDTH, Act, Findings
from demo.give_back import backup, give_back_with_a_frozen_client
from demo.mounted import digest, digests, files_with, why_no_mount
from demo.observer import Observer, steady_s

CLIENTS: Final = ("client 1", "client 2", "client 3")
VOLUME: Final = "lib"
OTHER_VOLUME: Final = "other"
# A file of the tree, changed as a whole by the restore.
CHANGED: Final = "os.py"
# Left out of the copied tree: what is compiled or installed, not library.
LEFT_OUT: Final = ("__pycache__", "site-packages", "*.a", "*.so", "*.pyc", "config-*")
# What a give-back may take at most, as a part of the deadline that a dead client costs.
ACK_PART_OF_DEADLINE: Final = 0.25
BREAK_DEADLINE_S: Final = 2.0


class Demo:
    """One run of the story, in a directory of its own."""

    def __init__(self, directory: Path, findings: Findings) -> None:
        self._directory = directory
        self._findings = findings
        self._tree = directory / "tree"
        self._cell_dir = directory / "cell"
        self._no_mount = why_no_mount()
        # Client 1's, where there can be one.
        self._mount = directory / "afs"
        self._acts: dict[str, Act] = {}

    async def run(self) -> None:
        """The whole story."""
        self._copy_tree()
        with self._start("later") as cell:
            self._findings.say(
                f"afsd (pid {cell.afsd.pid}), volserverd ({cell.volserverd.pid}) and"
                f" {len(CLIENTS)} clientd serve on loopback"
            )
            self._load()
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(DemoClient(name, address))
                    for name, address in zip(CLIENTS, cell.clients, strict=True)
                ]
                contents = await self._read_all(cell, clients)
                await self._read_warm(cell, clients[0], contents)
                await self._read_mounted(cell)
                new = self._make_changed_dump()
                alone_s = await backup(cell, OTHER_VOLUME)
                await self._give_back(cell, clients, self._directory / "changed.dump", new)
                contents[f"/{VOLUME}/{CHANGED}"] = Content(new, 0, from_cache=False)
                await self._crash(cell, clients, contents)
        with self._start("sync") as cell:
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(DemoClient(name, address))
                    for name, address in zip(CLIENTS, cell.clients, strict=True)
                ]
                for client in clients:
                    await client.read(f"/{VOLUME}/{CHANGED}")
                old = digest_of((self._tree / CHANGED).read_bytes())
                await self._give_back(cell, clients, self._directory / "first.dump", old)
        self._findings.show_timeline(self._acts["later"])
        self._findings.show_table(self._acts, alone_s)

    # --- chapters ---------------------------------------------------------------------------------

    def _copy_tree(self) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        shutil.copytree(library, self._tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
        files = [path for path in self._tree.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        self._findings.chapter("A cell, and a tree of real files")
        self._findings.say(f"the tree: {len(files):,} files, {size / 1e6:.1f} MB, from {library}")

    def _start(self, policy: str) -> Cell:
        if policy != "later":
            self._findings.chapter(f"The same with --break-policy {policy}: what the mail is about")
        mounts = () if self._no_mount else (self._mount,)
        return Cell.start(self._cell_dir, clients=len(CLIENTS), mounts=mounts, break_policy=policy)

    def _afsctl(self, *arguments: str) -> None:
        """Runs a command of the command line, shown as a user would type it."""
        shown = [argument.replace(f"{self._directory}/", "") for argument in arguments]
        self._findings.console.print(f"  [bold]$ afsctl {' '.join(shown)}", highlight=False)
        command = [sys.executable, "-m", "afsctl", *arguments, "--cell", str(self._cell_dir)]
        # What they print of the volumes they made is not what the story is about.
        quiet = subprocess.DEVNULL if arguments[0] == "vos" else None
        subprocess.run(command, check=True, stdout=quiet)

    def _load(self) -> None:
        self._afsctl("vos", "create", VOLUME)
        self._afsctl("vos", "create", OTHER_VOLUME)
        self._afsctl("fs", "load", str(self._tree), f"/{VOLUME}")
        self._afsctl("vos", "dump", VOLUME, str(self._directory / "first.dump"))

    async def _read_all(self, cell: Cell, clients: list[DemoClient]) -> dict[str, Content]:
        self._findings.chapter("Three clients read it all, and so hold promises on it all")
        began = steady_s()
        trees = await asyncio.gather(*(client.read_tree(f"/{VOLUME}") for client in clients))
        took = steady_s() - began
        on_disk = {
            f"/{VOLUME}/{path.relative_to(self._tree)}": digest_of(path.read_bytes())
            for path in self._tree.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        right = all({path: one.digest for path, one in tree.items()} == on_disk for tree in trees)
        self._findings.say(f"{3 * len(on_disk):,} files read in {took:.1f} s")
        self._findings.check("every client read exactly what is on the disk", kept=right)
        async with Observer(cell.file_server) as observer:
            promises = sum(host.callbacks for host in (await observer.hosts()).values())
        self._findings.say(f"promises the fileserver has given and must keep: {promises:,}")
        return trees[0]

    async def _read_warm(
        self, cell: Cell, client: DemoClient, contents: dict[str, Content]
    ) -> None:
        async with Observer(cell.file_server) as observer:
            before = await observer.client_calls()
            began = steady_s()
            again = await client.read_tree(f"/{VOLUME}")
            took = steady_s() - began
            calls = await observer.client_calls() - before
        self._findings.say(
            f"{client.name} read all of it again: {len(again) / took:,.0f} files/s,"
            f" {calls} calls to the fileserver"
        )
        same = {path: one.digest for path, one in again.items()} == {
            path: one.digest for path, one in contents.items()
        }
        self._findings.check("warm reads do not reach the fileserver", kept=calls == 0 and same)

    async def _read_mounted(self, cell: Cell) -> None:
        self._findings.chapter("Any program: client 1 is mounted")
        if self._no_mount:
            self._findings.say(f"not here: {self._no_mount}; the story goes on without")
            return
        root = self._mount / VOLUME
        self._findings.say(f"clientd --mount afs: the volume is afs/{VOLUME}")
        on_disk = await digests(self._tree)
        right = await digests(root) == on_disk
        same = await files_with("import asyncio", root) == await files_with(
            "import asyncio", self._tree
        )
        self._findings.check(
            "every file on the mount is what is on the disk, and grep -r finds the same",
            kept=right and same,
        )
        async with Observer(cell.file_server) as observer:
            before = await observer.client_calls()
            began = steady_s()
            again = await digests(root)
            took = steady_s() - began
            calls = await observer.client_calls() - before
        self._findings.say(
            f"all of it again, by open and read: {len(again) / took:,.0f} files/s,"
            f" {calls} calls to the fileserver"
        )
        self._findings.check("nor do warm reads through the mount", kept=calls == 0)

    def _make_changed_dump(self) -> str:
        """Prepares the volume's next state elsewhere and dumps it; digest of the changed file."""
        self._findings.chapter("The volume's next state is prepared beside it, and dumped")
        first, changed = self._directory / "first.dump", self._directory / "changed.dump"
        self._afsctl("vos", "restore", "next", str(first))
        new = self._directory / CHANGED
        new.write_bytes(b"# changed as a whole\n" + (self._tree / CHANGED).read_bytes())
        self._afsctl("fs", "load", str(new), f"/next/{CHANGED}")
        self._afsctl("vos", "dump", "next", str(changed))
        self._afsctl("vos", "remove", "next")
        return digest_of(new.read_bytes())

    async def _give_back(self, cell: Cell, clients: list[DemoClient], dump: Path, new: str) -> None:
        policy = cell.break_policy
        if policy == "later":
            self._findings.chapter("A client is frozen; the volserver restores over the volume")
        act = await give_back_with_a_frozen_client(
            cell, clients, VOLUME, OTHER_VOLUME, dump, f"/{VOLUME}/{CHANGED}", new
        )
        self._acts[policy] = act
        self._findings.say(
            f"{clients[-1].name} is frozen (SIGSTOP); {act.marked:,} promises on the volume"
        )
        self._findings.say(f"FSSYNC acknowledged the give-back after {act.ack_s * 1e3:,.1f} ms")
        for name, fresh_s in act.fresh_s.items():
            self._findings.say(f"{name} read the new contents after {fresh_s * 1e3:,.1f} ms")
        self._findings.say(f"another volume's backup took {act.other_operation_s * 1e3:,.1f} ms")
        self._findings.say(
            f"thawed, {clients[-1].name} answered after {act.thawed_s * 1e3:,.1f} ms"
        )
        if policy == "later":
            bound = ACK_PART_OF_DEADLINE * BREAK_DEADLINE_S
            self._findings.check(
                "the volserver did not wait for the frozen client", kept=act.ack_s < bound
            )
            self._findings.check(
                "nor did another volume's operation", kept=act.other_operation_s < bound
            )
            self._findings.check(
                "every live client was fresh before the frozen one was given up",
                kept=max(act.fresh_s.values()) < BREAK_DEADLINE_S,
            )
        else:
            self._findings.check(
                f"'{policy}' makes the volserver wait, as the mail says",
                kept=act.ack_s >= BREAK_DEADLINE_S * 0.9,
            )
        self._findings.check(
            "the thawed client's first answer was the new contents", kept=act.is_thawed_fresh
        )
        if not self._no_mount:
            shown = await digest(self._mount / VOLUME / CHANGED)
            self._findings.check("a program on the mount reads them too", kept=shown == new)

    async def _crash(
        self, cell: Cell, clients: list[DemoClient], contents: dict[str, Content]
    ) -> None:
        self._findings.chapter("The fileserver is killed with -9 while a client writes")
        after = await kill_and_restart(cell, clients, f"/{OTHER_VOLUME}", contents)
        self._findings.say(f"{after.written} files had been acknowledged; restarted and compared")
        for problem in (*after.lost, *after.stale):
            self._findings.say(f"[red]{problem}")
        self._findings.check("nothing acknowledged was lost", kept=not after.lost)
        self._findings.check("no client read stale data", kept=not after.stale)


def main() -> int:
    """Tells the story; 0 if all its promises were kept, 1 if not, 130 after Ctrl-C."""
    console = Console(width=WIDTH) if sys.stdout.isatty() else Console(width=WIDTH, no_color=True)
    findings = Findings(console)
    began = steady_s()
    try:
        with tempfile.TemporaryDirectory(prefix="laterfs-demo-") as directory:
            asyncio.run(Demo(Path(directory), findings).run())
    except KeyboardInterrupt:
        console.print("interrupted: all processes are stopped")
        return 130
    kept = findings.conclude()
    console.print(f"{steady_s() - began:.0f} seconds in all", highlight=False)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
