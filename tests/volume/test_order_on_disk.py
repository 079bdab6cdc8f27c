"""The order in which things reach the disk: a crash between any two loses nothing (C1)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from afs.limits import CHUNK_BYTES
from afs.runtime.files import FileSystemSync
from afs.types import root_fid
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import RemoveFile, StoreData
from tests.volume.building import chunk_files, do, make_file, noise


class Tape:
    """What a process asked the file system for, in order, as (what, name of the file)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        real = {
            name: getattr(os, name) for name in ("fsync", "link", "unlink", "rename", "replace")
        }

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self.events.append(("fsync", Path(path).name))

        def link(source: Any, target: Any) -> None:
            self.events.append(("link", Path(target).name))
            real["link"](source, target)

        def unlink(path: Any) -> None:
            self.events.append(("unlink", Path(path).name))
            real["unlink"](path)

        def moved(name: str) -> Any:
            def move(source: Any, target: Any) -> None:
                self.events.append(("rename", Path(target).name))
                real[name](source, target)

            return move

        for name, replacement in (("fsync", fsync), ("link", link), ("unlink", unlink)):
            monkeypatch.setattr(os, name, replacement)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, moved(name))

    def hear_sql(self, volume: SqliteVolume) -> None:
        """Notes the commits of a volume too."""
        volume._writer.set_trace_callback(
            lambda statement: self.events.append(("sql", statement.split()[0]))
        )

    def at(self, what: str, name: str) -> list[int]:
        """Where an event is on the tape."""
        return [place for place, event in enumerate(self.events) if event == (what, name)]


def test_chunks_are_durable_before_they_are_referred_to(
    partition: Partition, disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data synced, linked, the folders synced, then the commit, then `staging` is cleared."""
    fid = make_file(disk_volume, "a")
    tape = Tape(monkeypatch)
    tape.hear_sql(disk_volume)
    staged = disk_volume.stage(fid, 0)
    staged.write(noise(2 * CHUNK_BYTES + 7))
    staged.finish()
    do(disk_volume, StoreData(fid, staged))
    commit = tape.at("sql", "COMMIT")
    assert len(commit) == 1
    chunks = chunk_files(partition.path)
    assert len(chunks) == 3
    for chunk in chunks:
        synced = [
            at
            for at, (what, name) in enumerate(tape.events)
            if what == "fsync" and chunk.name in name
        ]
        [linked] = tape.at("link", chunk.name)
        cleared = [
            at
            for at, (what, name) in enumerate(tape.events)
            if what == "unlink" and chunk.name in name
        ]
        assert synced[0] < linked
        assert any(linked < at < commit[0] for at in tape.at("fsync", chunk.parent.name))
        assert any(linked < at < commit[0] for at in tape.at("fsync", "chunks"))
        assert commit[0] < cleared[0]


def test_many_chunks_are_durable_before_they_are_referred_to(
    disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many chunks the file system is synced.

    All data before a link, all links before the commit.
    """
    fid = make_file(disk_volume, "a")
    tape = Tape(monkeypatch)
    tape.hear_sql(disk_volume)
    sync = FileSystemSync.sync

    def heard(self: FileSystemSync) -> None:
        sync(self)
        tape.events.append(("syncfs", ""))

    monkeypatch.setattr(FileSystemSync, "sync", heard)
    staged = disk_volume.stage(fid, 0)
    for number in range(80):
        staged.write(noise(CHUNK_BYTES, seed=number))
    staged.finish()
    do(disk_volume, StoreData(fid, staged))
    links = [at for at, (what, _) in enumerate(tape.events) if what == "link"]
    fsyncs = [at for at, (what, name) in enumerate(tape.events) if what == "fsync" and "+" in name]
    data, names = tape.at("syncfs", "")
    [commit] = tape.at("sql", "COMMIT")
    assert len(links) == 80
    assert fsyncs
    assert max(fsyncs) < links[0]
    assert data < links[0]
    assert links[-1] < names < commit
    with disk_volume.snapshot(fid) as snapshot:
        assert snapshot.vnode.length == 80 * CHUNK_BYTES


def test_commits_are_synced(disk_volume: SqliteVolume) -> None:
    """The writer syncs the WAL with every commit (FULL), also after garbage was collected."""
    make_file(disk_volume, "a", data=noise(CHUNK_BYTES))
    do(disk_volume, RemoveFile(root_fid(disk_volume.volume_id), "a"))
    for _ in range(2):
        [synchronous] = disk_volume._writer.execute("PRAGMA synchronous").fetchone()
        [journal] = disk_volume._writer.execute("PRAGMA journal_mode").fetchone()
        assert (synchronous, journal) == (2, "wal")
        disk_volume.collect()


def test_a_seal_is_gone_before_the_first_change(
    partition: Partition, disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seal's removal is durable before anything is written; a new seal comes after all else."""
    disk_volume.close()
    volume = partition.open_volume(disk_volume.volume_id)
    tape = Tape(monkeypatch)
    tape.hear_sql(volume)
    make_file(volume, "a")
    seal = disk_volume.path.with_suffix(".seal").name
    [removed] = tape.at("unlink", seal)
    [commit] = tape.at("sql", "COMMIT")
    assert any(removed < at < commit for at in tape.at("fsync", disk_volume.path.parent.name))
    volume.close()
    [sealed] = tape.at("rename", seal)
    assert sealed > max(at for at, (what, _) in enumerate(tape.events) if what == "sql")


def test_a_new_database_is_durable_before_it_gets_its_name(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created under a temporary name, synced, renamed, and the folder synced."""
    tape = Tape(monkeypatch)
    partition.create_volume(volume_id=5, name="v").close()
    [renamed] = tape.at("rename", "5.db")
    synced = [
        at
        for at, (what, name) in enumerate(tape.events)
        if what == "fsync" and name.startswith("5.new")
    ]
    assert synced
    assert max(synced) < renamed
    assert any(at > renamed for at in tape.at("fsync", "5"))
