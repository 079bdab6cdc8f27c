"""Ordinary programs work on a mount: nothing they do fails, and all of it is there after."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.conftest import run

pytestmark = [pytest.mark.root, pytest.mark.slow]

# Enough files for directories of several pages, few enough for a test.
TREE_FILES = 400


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of real files, with directories, an executable and symbolic links."""
    root = tmp_path_factory.mktemp("tree")
    library = Path(sysconfig.get_path("stdlib"))
    for number, path in enumerate(_sources(library)):
        target = root / path.relative_to(library)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        os.utime(target, ns=(0, 1_600_000_000_123_456_789 + number))
    (root / "run-me").write_text("#!/bin/sh\necho I ran\n")
    (root / "run-me").chmod(0o755)
    (root / "link").symlink_to("run-me")
    (root / "nowhere").symlink_to("/no/such/file")
    return root


def _sources(library: Path) -> list[Path]:
    found = [
        path
        for part in ("json", "asyncio", "email", "unittest", "encodings", "importlib", "lib2to3")
        for path in sorted((library / part).rglob("*.py"))
    ]
    return found[:TREE_FILES]


def _contents(root: Path) -> dict[str, tuple[int, str]]:
    """Mode and contents, or target, of everything below a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_dir():
            what = ""
        else:
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (mode, what)
    return found


def test_tar_in_and_out(here: Path, tree: Path, tmp_path: Path) -> None:
    """What tar unpacks on the mount and packs again there is the same tree."""
    archive = tmp_path / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    (here / "tree").mkdir()
    run("tar", "-xpf", archive, "-C", here / "tree")
    assert _contents(here / "tree") == _contents(tree)
    run("tar", "-cf", here / "again.tar", "-C", here / "tree", ".")
    (tmp_path / "again").mkdir()
    run("tar", "-xpf", here / "again.tar", "-C", tmp_path / "again")
    assert _contents(tmp_path / "again") == _contents(tree)


def test_rsync_both_ways(here: Path, there: Path, tree: Path, tmp_path: Path) -> None:
    """With -a rsync brings a tree here, finds nothing to do a second time, and brings it back."""
    run("rsync", "-a", f"{tree}/", here / "tree/")
    assert _contents(there / "tree") == _contents(tree)
    again = run("rsync", "-ai", f"{tree}/", here / "tree/")
    assert again == "", "times or modes did not stay"
    run("rsync", "-a", f"{there}/tree/", tmp_path / "back/")
    assert _contents(tmp_path / "back") == _contents(tree)


def test_git_init_commit_and_gc(here: Path, there: Path, tree: Path) -> None:
    """A repository is made, committed to, packed and cloned, and another client finds it sound."""
    repository = here / "repository"
    run("cp", "-r", tree, repository)
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(repository))
    run(*git, "init", "-q")
    run(*git, "add", ".")
    run(*git, "commit", "-qm", "all of it")
    (repository / "run-me").write_text("#!/bin/sh\necho I run\n")
    run(*git, "commit", "-qam", "changed")
    run(*git, "gc", "-q")
    assert run(*git, "status", "--porcelain") == ""
    run("git", "clone", "-q", repository, here / "clone")
    other = ("git", "-c", "safe.directory=*", "-C", there / "clone")
    run(*other, "fsck", "--strict")
    assert len(run(*other, "log", "--format=%H").split()) == 2


def test_make_builds_a_program(here: Path) -> None:
    """With -j2 make builds a C program of several files, which then runs from the mount."""
    names = [f"part{number}" for number in range(6)]
    for name in names:
        (here / f"{name}.c").write_text(f"int {name}(void) {{ return 7; }}\n")
    calls = " + ".join(f"{name}()" for name in names)
    declared = "".join(f"int {name}(void);\n" for name in names)
    (here / "main.c").write_text(f"{declared}int main(void) {{ return {calls} != 42; }}\n")
    objects = " ".join(f"{name}.o" for name in [*names, "main"])
    (here / "Makefile").write_text(f"program: {objects}\n\tcc -o $@ {objects}\n")
    run("make", "-j2", cwd=here)
    run(here / "program")
    assert "up to date" in run("make", cwd=here)


def test_a_virtual_environment_and_pip(here: Path, tmp_path: Path) -> None:
    """A virtual environment made on the mount takes packages, and what is in it runs."""
    wheel = _wheel(tmp_path)
    # Not with a pip of its own: those are 1,000 files more, and half a minute.
    run(sys.executable, "-m", "venv", "--without-pip", here / "venv")
    python = here / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet")
    run(*pip, "--no-index", wheel)
    assert run(python, "-c", "import tiny; print(tiny.ANSWER)") == "42\n"


def _wheel(folder: Path) -> Path:
    """The smallest wheel there can be."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    files = {
        "tiny.py": "ANSWER = 42\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "tiny-1.0.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
            lines.append(f"{name},sha256={digest.rstrip('=')},{len(text)}\n")
        archive.writestr(record, "".join(lines) + f"{record},,\n")
    return path


_ADD = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=60) as database:
    for _ in range(25):
        database.execute("BEGIN IMMEDIATE")
        (value,) = database.execute("SELECT value FROM counter").fetchone()
        database.execute("UPDATE counter SET value = ?", (value + 1,))
        database.execute("COMMIT")
"""


@pytest.fixture
def database(here: Path) -> Iterator[Path]:
    """A SQLite database with one counter."""
    path = here / "counter.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE counter (value INTEGER)")
    connection.execute("INSERT INTO counter VALUES (0)")
    connection.commit()
    connection.close()
    yield path
    with sqlite3.connect(path) as after:
        assert after.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    after.close()


def _count_in(paths: list[Path]) -> None:
    programs = [subprocess.Popen([sys.executable, "-c", _ADD, path]) for path in paths]
    assert [program.wait(timeout=100) for program in programs] == [0] * len(programs)


def _counted(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        (value,) = connection.execute("SELECT value FROM counter").fetchone()
    finally:
        connection.close()
    return int(value)


def test_sqlite_by_two_programs(database: Path) -> None:
    """Two programs on one client count in one database, under its locks: nothing is lost."""
    _count_in([database, database])
    assert _counted(database) == 50


def test_sqlite_by_two_clients(database: Path, there: Path) -> None:
    """Two clients count in one database, under locks of the fileserver: nothing is lost."""
    _count_in([database, there / database.name])
    assert _counted(database) == 50


def test_an_editor_saves_by_rename(here: Path, there: Path) -> None:
    """Written beside and renamed over: another client sees the old or the new, whole."""
    note = here / "note.txt"
    note.write_text("first\n" * 100)
    assert (there / "note.txt").read_text() == "first\n" * 100
    for number in range(20):
        beside = here / ".note.txt.swp"
        beside.write_text(f"{number}\n" * 100)
        beside.replace(note)
        assert (there / "note.txt").read_text() == f"{number}\n" * 100
    assert sorted(os.listdir(there)) == ["note.txt"]


@pytest.mark.skipif(shutil.which("ed") is None, reason="there is no ed here")
def test_ed_edits_a_file(here: Path) -> None:
    """An editor of another kind, which writes the file in place."""
    (here / "poem").write_text("roses are red\n")
    (here / "script").write_text("s/red/blue/\nw\nq\n")
    run("sh", "-c", "ed -s poem < script", cwd=here)
    assert (here / "poem").read_text() == "roses are blue\n"


def test_find_grep_and_du(here: Path, there: Path, tree: Path) -> None:
    """What find, grep -r and du say of the tree is what they say of it on a local disk."""
    run("cp", "-r", tree, here / "tree")
    for command in (
        ("find", ".", "-type", "f", "-name", "*.py"),
        ("find", ".", "-type", "l"),
        ("grep", "-rl", "import", "."),
    ):
        mine = sorted(run(*command, cwd=there / "tree").splitlines())
        assert mine == sorted(run(*command, cwd=tree).splitlines())
    size = sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir())
    shown = int(run("du", "-s", "--apparent-size", "--block-size=1", there / "tree").split()[0])
    assert shown >= size
