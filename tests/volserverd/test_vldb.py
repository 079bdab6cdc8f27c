"""The location database: names, ids that are never given twice, versions, locks, durability."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from volserverd.vldb.entry import Entry, Site, entry_from_wire, entry_to_wire
from volserverd.vldb.names import (
    FIRST_TEMPORARY_ID,
    FIRST_VOLUME_ID,
    check_volume_name,
    parse_reference,
)
from volserverd.vldb.store import MAX_ENTRIES_PER_ANSWER, MAX_SITES, VolumeLocationStore

SITE = Site("127.0.0.1:7000", "127.0.0.1:7005", "vicepa")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VolumeLocationStore]:
    """An empty database."""
    opened = VolumeLocationStore.open(tmp_path / "vldb.sqlite3")
    yield opened
    opened.close()


def refused(code: AfsCode, text: str = "") -> pytest.RaisesExc[AfsError]:
    """Expects an AfsError of this code whose detail contains the text."""
    return pytest.RaisesExc(
        AfsError, check=lambda error: error.code is code and text in error.detail
    )


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", AfsCode.EINVAL),
        ("a/b", AfsCode.EINVAL),
        ("a\0b", AfsCode.EINVAL),
        ("..", AfsCode.EINVAL),
        ("mütze", AfsCode.EINVAL),
        ("a b", AfsCode.EINVAL),
        ("1234", AfsCode.EINVAL),
        ("demo.backup", AfsCode.EINVAL),
        ("demo.readonly", AfsCode.EINVAL),
        ("demo\n", AfsCode.EINVAL),
        ("x" * 23, AfsCode.ENAMETOOLONG),
    ],
)
def test_bad_volume_names_are_refused(store: VolumeLocationStore, name: str, code: AfsCode) -> None:
    """A name no volume can have gets one clear line, and no id is spent on it."""
    with refused(code, "volume name"):
        store.create(Entry(name))
    assert store.create(Entry("good")).read_write_id == FIRST_VOLUME_ID


@given(st.from_regex(r"[a-z][A-Za-z0-9._-]{0,12}", fullmatch=True))
def test_names_and_their_suffixes_are_understood(name: str) -> None:
    """NAME, NAME.readonly and NAME.backup mean the volumes of one entry."""
    try:
        check_volume_name(name)
    except AfsError:
        return
    assert parse_reference(name).name == name
    for suffix, kind in ((".readonly", VolumeType.READ_ONLY), (".backup", VolumeType.BACKUP)):
        reference = parse_reference(name + suffix)
        assert (reference.name, reference.type) == (name, kind)


def test_digits_are_an_id() -> None:
    """A decimal number means an id; one that none can have is refused."""
    assert parse_reference("536870913").volume_id == 536870913
    for text in ("0", "4294967296", "9" * 5000):
        with refused(AfsCode.EINVAL, "volume id"):
            parse_reference(text)


# --- entries --------------------------------------------------------------------------------------


def test_an_entry_is_found_by_name_and_by_every_id(store: VolumeLocationStore) -> None:
    """The name, with or without suffix, and the three ids lead to the same entry."""
    entry = store.create(Entry("demo", sites=(SITE,)))
    assert entry == Entry("demo", FIRST_VOLUME_ID, sites=(SITE,), version=1)
    first = entry.read_write_id
    for text in ("demo", "demo.backup", str(first), str(first + 1), str(first + 2)):
        assert store.get(parse_reference(text)) == entry
    with refused(AfsCode.VNOVOL, "demo2"):
        store.get(parse_reference("demo2"))
    with refused(AfsCode.VNOVOL, "has no backup volume"):
        entry.id_of(parse_reference("demo.backup"))
    with_backup = store.replace(replace(entry, backup_id=first + 2))
    assert with_backup.id_of(parse_reference("demo.backup")) == first + 2
    assert [with_backup.name_of(first + n) for n in range(3)] == [
        "demo",
        "demo.readonly",
        "demo.backup",
    ]


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    """Not after a deletion, not after a restart, not when somebody asks for one."""
    path = tmp_path / "vldb.sqlite3"
    with closing(VolumeLocationStore.open(path)) as store:
        first = store.create(Entry("one")).read_write_id
        store.delete(first, "")
    with closing(VolumeLocationStore.open(path)) as store:
        assert store.create(Entry("one")).read_write_id == first + 3
        for taken in (first, first + 2, first - 1):
            with refused(AfsCode.VVOLEXISTS, "was given before"):
                store.create(Entry("two", taken))
        wanted = first + 7
        assert store.create(Entry("two", wanted)).read_write_id == wanted
        assert store.create(Entry("three")).read_write_id == wanted + 3
        assert store.create(Entry("four", 7)).read_write_id == 7


def test_ids_end_before_the_temporary_ones(store: VolumeLocationStore) -> None:
    """When all ids were given, creating fails with a clear error; so does asking beyond them."""
    store._connection.execute("UPDATE counter SET next_volume_id = ?", (FIRST_TEMPORARY_ID - 3,))
    assert store.create(Entry("last")).read_write_id == FIRST_TEMPORARY_ID - 3
    with refused(AfsCode.VLIMIT, "all volume ids"):
        store.create(Entry("more"))
    with refused(AfsCode.EINVAL, "expected at most"):
        store.create(Entry("more", FIRST_TEMPORARY_ID - 2))


def test_a_name_is_taken_once(store: VolumeLocationStore) -> None:
    """A second entry of a name is refused, by creation and by renaming."""
    store.create(Entry("one"))
    two = store.create(Entry("two"))
    with refused(AfsCode.VVOLEXISTS, "volume one exists"):
        store.create(Entry("one"))
    with refused(AfsCode.VVOLEXISTS, "volume one exists"):
        store.replace(replace(two, name="one"))
    assert store.replace(replace(two, name="three")).version == 2


def test_replacing_needs_the_stored_version(store: VolumeLocationStore) -> None:
    """Two who change an entry at the same time: the second is told to read it again."""
    entry = store.create(Entry("demo", sites=(SITE,)))
    other = replace(SITE, partition="vicepb")
    changed = store.replace(replace(entry, sites=(SITE, other)))
    assert (changed.version, changed.sites) == (2, (SITE, other))
    with refused(AfsCode.EAGAIN, "version 2, not 1"):
        store.replace(replace(entry, sites=()))
    assert store.get(parse_reference("demo")) == changed
    with refused(AfsCode.VNOVOL):
        store.replace(replace(entry, read_write_id=99))


def test_an_entry_holds_only_its_own_ids_and_sane_sites(store: VolumeLocationStore) -> None:
    """Ids of others, empty addresses and endless lists are refused and change nothing."""
    entry = store.create(Entry("demo"))
    bad = [
        replace(entry, backup_id=entry.read_write_id + 1),
        replace(entry, read_only_id=77),
        replace(entry, sites=(replace(SITE, partition=""),)),
        replace(entry, sites=(replace(SITE, file_server="x" * 256),)),
        replace(entry, sites=(SITE,) * (MAX_SITES + 1)),
    ]
    for each in bad:
        with refused(AfsCode.EINVAL):
            store.replace(each)
    assert store.get(parse_reference("demo")) == entry


def test_a_lock_keeps_others_out_and_names_the_operation(store: VolumeLocationStore) -> None:
    """The second lock is refused with what the first is for; unlocking frees it."""
    entry = store.create(Entry("demo"))
    locked = store.lock(entry.read_write_id, "move by volserver@one")
    assert (locked.locked_for, locked.version) == ("move by volserver@one", 2)
    with refused(AfsCode.VBUSY, "move by volserver@one"):
        store.lock(entry.read_write_id, "backup")
    with refused(AfsCode.VBUSY, "move by volserver@one"):
        store.delete(entry.read_write_id, "")
    changed = store.replace(replace(locked, backup_id=entry.read_write_id + 2, locked_for=""))
    assert changed.locked_for == "move by volserver@one", "replacing does not unlock"
    assert store.unlock(entry.read_write_id).locked_for == ""
    assert store.unlock(entry.read_write_id).version == 4, "unlocking twice changes nothing"
    store.lock(entry.read_write_id, "delete")
    store.delete(entry.read_write_id, "delete")
    with refused(AfsCode.VNOVOL):
        store.get(parse_reference("demo"))
    with refused(AfsCode.EINVAL, "operation ''"):
        store.lock(entry.read_write_id, "")


def test_listing_goes_on_where_it_stopped(store: VolumeLocationStore) -> None:
    """Entries come in order of their names, in pages."""
    for name in ("b", "a", "c.x", "B"):
        store.create(Entry(name, sites=(SITE,)))
    assert [entry.name for entry in store.entries("", 0)] == ["B", "a", "b", "c.x"]
    assert [entry.name for entry in store.entries("a", 1)] == ["b"]
    assert store.entries("zzz", 5) == []
    with refused(AfsCode.EINVAL, "limit"):
        store.entries("", MAX_ENTRIES_PER_ANSWER + 1)


def test_wire_and_back(store: VolumeLocationStore) -> None:
    """An entry survives its message; an unknown type of site is refused."""
    released = replace(SITE, type=VolumeType.READ_ONLY, release=12345678901)
    created = store.create(Entry("demo", sites=(SITE, released)))
    entry = store.lock(created.read_write_id, "x")
    message = entry_to_wire(entry)
    assert entry_from_wire(message) == entry
    message.sites[0].type = 9  # type: ignore[assignment]
    with refused(AfsCode.EINVAL, "site type 9"):
        entry_from_wire(message)


# --- the file -------------------------------------------------------------------------------------


def test_a_second_volserver_is_refused(store: VolumeLocationStore, tmp_path: Path) -> None:
    """Two processes never share a database."""
    with refused(AfsCode.VBUSY, "in use by another volserver"):
        VolumeLocationStore.open(tmp_path / "vldb.sqlite3")


def test_damage_is_refused_not_overwritten(tmp_path: Path) -> None:
    """A truncated, foreign, empty or newer file is refused with a clear line and left alone."""
    path = tmp_path / "vldb.sqlite3"
    store = VolumeLocationStore.open(path)
    for number in range(200):
        store.create(Entry(f"v{number}", sites=(SITE,)))
    store.close()
    whole = path.read_bytes()
    spoilt = {
        "truncated": (whole[: len(whole) // 2], AfsCode.VSALVAGE),
        "empty": (b"", AfsCode.VNOSERVICE),
        "foreign": (b"What is this? " * 500, AfsCode.VSALVAGE),
        "newer": (whole[:60] + (9).to_bytes(4, "big") + whole[64:], AfsCode.VNOSERVICE),
    }
    for how, (data, code) in spoilt.items():
        path.write_bytes(data)
        with refused(code, str(path)):
            VolumeLocationStore.open(path)
        assert path.read_bytes() == data, how
    path.write_bytes(whole)
    VolumeLocationStore.open(path).close()


# As `make` of version 1 wrote it.
_VERSION_1 = """
    CREATE TABLE entries (
        read_write_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        read_only_id INTEGER NOT NULL, backup_id INTEGER NOT NULL,
        version INTEGER NOT NULL, locked_for TEXT NOT NULL
    ) STRICT;
    CREATE TABLE sites (
        read_write_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
        position INTEGER NOT NULL, file_server TEXT NOT NULL, vol_server TEXT NOT NULL,
        partition TEXT NOT NULL, type INTEGER NOT NULL CHECK (type IN (1, 2, 3)),
        PRIMARY KEY (read_write_id, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ids (volume_id INTEGER PRIMARY KEY, read_write_id INTEGER NOT NULL) STRICT;
    CREATE TABLE counter (next_volume_id INTEGER NOT NULL) STRICT;
    INSERT INTO counter VALUES (536870916);
    INSERT INTO entries VALUES (536870913, 'demo', 0, 536870915, 7, 'move by x');
    INSERT INTO ids SELECT 536870913 + value, 536870913 FROM json_each('[0, 1, 2]');
    INSERT INTO sites VALUES
        (536870913, 0, '127.0.0.1:7000', '127.0.0.1:7005', 'vicepa', 1),
        (536870913, 1, '127.0.0.1:7000', '127.0.0.1:7005', 'vicepa', 3);
    PRAGMA application_id = 1280721986;
    PRAGMA user_version = 1;
"""


def test_a_database_of_version_1_is_upgraded(tmp_path: Path) -> None:
    """What an older volserver wrote is kept whole, and holds releases from now on."""
    path = tmp_path / "vldb.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(_VERSION_1)
    backup = replace(SITE, type=VolumeType.BACKUP)
    entry = Entry("demo", 536870913, 0, 536870915, (SITE, backup), 7, "move by x")
    with closing(VolumeLocationStore.open(path)) as store:
        assert store.get(parse_reference("demo.backup")) == entry
        site = replace(SITE, type=VolumeType.READ_ONLY, release=2**40)
        changed = store.replace(replace(entry, read_only_id=536870914, sites=(SITE, site)))
        assert store.create(Entry("next")).read_write_id == 536870916
    with closing(VolumeLocationStore.open(path)) as store:
        assert store.get(parse_reference("demo")) == changed
        assert store.get(parse_reference("demo")).sites_of(VolumeType.READ_ONLY) == (site,)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    """A disk that is full at the wrong moment costs nothing: it is upgraded when next opened."""
    path = tmp_path / "vldb.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(_VERSION_1)
        # The statement of the upgrade fails: the column is there already.
        connection.execute("ALTER TABLE sites ADD COLUMN release INTEGER NOT NULL DEFAULT 0")
    with refused(AfsCode.VSALVAGE, "duplicate column"):
        VolumeLocationStore.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("ALTER TABLE sites DROP COLUMN release")
    VolumeLocationStore.open(path).close()


def test_an_unusable_place_is_one_clear_line(tmp_path: Path) -> None:
    """A directory that cannot be made says so."""
    (tmp_path / "file").write_text("x")
    with refused(AfsCode.VIO, "location database"):
        VolumeLocationStore.open(tmp_path / "file" / "vldb.sqlite3")


def test_a_full_disk_changes_nothing(store: VolumeLocationStore) -> None:
    """When the database cannot grow, the change is refused and the rest stays readable."""
    store.create(Entry("kept"))
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    made = 0
    with refused(AfsCode.VDISKFULL, "full"):
        for made in range(10_000):
            store.create(Entry(f"v{made}", sites=(SITE,) * MAX_SITES))
    names = [entry.name for entry in store.entries("", 0)]
    assert len(names) == made + 1
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.create(Entry("after")).name == "after"


def test_a_database_error_is_told_by_its_kind(store: VolumeLocationStore) -> None:
    """A closed database is an I/O error, not an internal one."""
    connection = store._connection
    store._connection = sqlite3.connect(":memory:")
    with refused(AfsCode.VIO):
        store.entries("", 0)
    store._connection.close()
    store._connection = connection


def test_answered_changes_survive_a_kill(tmp_path: Path) -> None:
    """What `create` returned is there after kill -9 (acknowledged means on disk)."""
    path = tmp_path / "vldb.sqlite3"
    program = (
        "import sys; from pathlib import Path\n"
        "from volserverd.vldb.store import VolumeLocationStore\n"
        "from volserverd.vldb.entry import Entry\n"
        "store = VolumeLocationStore.open(Path(sys.argv[1]))\n"
        "for n in range(100000): print(store.create(Entry(f'v{n}')).name, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    answered = [writer.stdout.readline().strip() for _ in range(25)]
    writer.kill()
    answered += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.stdout.close()
    writer.wait()
    store = VolumeLocationStore.open(path)
    names = {entry.name for entry in store.entries("", 0)}
    store.close()
    assert len(answered) >= 25
    assert set(answered) <= names
