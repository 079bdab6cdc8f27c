"""The file over a planned restart: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from afs.types import ChangeMark, Fid, LockType
from afsd import callback_state
from afsd.callback_state import FILE, SET_ASIDE, KeptState, UnusableStateError
from afsd.core.callback_machine import CallBackMachine
from afsd.core.hosts import SessionName
from afsd.core.locks import SavedLock
from afsd.core.saved_state import HeldPromises, SavedHost, SavedState
from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import fid
from tests.conftest import LogEvents

BOOT = "a run of the machine"
KEPT = KeptState(
    epoch=17,
    boot_id=BOOT,
    steady_s=1000.75,
    callbacks=SavedState(
        sequence=40,
        message=90,
        hosts=(
            SavedHost(
                "8f0c5a3e-0000-4000-8000-000000000001",
                "ipv4:127.0.0.1:1",
                "clientd",
                SessionName(16, 3),
                1008.5,
                {
                    7: HeldPromises([0, 2 << 32 | 2, 2**64 - 1], [1001, 15400, 2**32]),
                    8: HeldPromises([4 << 32 | 9], [1180]),
                },
            ),
        ),
        locks=(
            SavedLock(Fid(7, 2, 2), "8f0c5a3e-0000-4000-8000-000000000001", LockType.WRITE, 1300.5),
            SavedLock(Fid(8, 4, 9), "8f0c5a3e-0000-4000-8000-000000000002", LockType.READ, 1001.0),
        ),
    ),
    volumes={7: ChangeMark("i", 2**40), 8: ChangeMark("j", 1)},
)
NOTHING = SavedState(1, 1, ())
PROMISES = 1_000_000
HOSTS = 100


def taken(run_dir: Path, *, last_epoch: int = 17, boot_id: str = BOOT) -> KeptState | None:
    """What the next life takes."""
    return callback_state.take(run_dir, last_epoch=last_epoch, boot_id=boot_id, now=1001.0)


def test_what_is_left_is_taken_once(tmp_path: Path) -> None:
    """Everything comes back as it was, and the file is gone: a crash later does not find it."""
    callback_state.leave(tmp_path, KEPT)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert taken(tmp_path) == KEPT
    assert list(tmp_path.iterdir()) == []
    assert taken(tmp_path) is None


def flipped(data: bytes) -> bytes:
    """One bit of it is wrong."""
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: random.Random(1).randbytes(len(data)),
        lambda data: data[:16] + bytes(32) + data[48:],
    ],
    ids=["flipped", "cut", "cut short", "too long", "empty", "garbage", "no checksum"],
)
def test_damaged_file_is_set_aside(
    tmp_path: Path, damage: Callable[[bytes], bytes], log_events: LogEvents
) -> None:
    """Flipped, cut, too long, empty, garbage: an event with path and reason, and nothing taken."""
    (tmp_path / FILE).write_bytes(damage(callback_state.encode(KEPT)))
    assert taken(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [SET_ASIDE]
    (event,) = log_events.named("callback_state.set_aside")
    assert event["path"] == str(tmp_path / SET_ASIDE)
    assert event["reason"]


def test_every_single_flipped_byte_is_noticed() -> None:
    """Wherever it is."""
    data = callback_state.encode(KEPT)
    for at in range(len(data)):
        with pytest.raises(UnusableStateError):
            callback_state.decode(data[:at] + bytes((data[at] ^ 0x80,)) + data[at + 1 :])


@pytest.mark.parametrize(
    ("last_epoch", "boot_id", "kept"),
    [
        (18, BOOT, KEPT),
        (0, BOOT, KEPT),
        (17, "another run", KEPT),
        (17, "", replace(KEPT, boot_id="")),
        (17, BOOT, replace(KEPT, steady_s=1001.5, callbacks=NOTHING)),
    ],
)
def test_file_of_another_time_is_set_aside(
    tmp_path: Path, last_epoch: int, boot_id: str, kept: KeptState
) -> None:
    """Of an earlier life, of another run of the machine, from the future."""
    callback_state.leave(tmp_path, kept)
    assert taken(tmp_path, last_epoch=last_epoch, boot_id=boot_id) is None
    assert [path.name for path in tmp_path.iterdir()] == [SET_ASIDE]


def test_file_of_an_unknown_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later version wrote, and what is whole and no message, is not believed."""
    monkeypatch.setattr(callback_state, "FORMAT", 2)
    later = callback_state.encode(KEPT)
    monkeypatch.undo()
    with pytest.raises(UnusableStateError, match="format 2"):
        callback_state.decode(later)
    payload = b"\xff\xff\xff"
    whole = callback_state.MAGIC + blake3(payload).digest() + payload
    with pytest.raises(UnusableStateError, match="cannot be read"):
        callback_state.decode(whole)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Something that is no file is set aside as well."""
    (tmp_path / FILE).mkdir()
    assert taken(tmp_path) is None
    assert (tmp_path / SET_ASIDE).is_dir()


def test_boot_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same whenever it is asked for; empty where the system has none."""
    assert callback_state.boot_id() == callback_state.boot_id() != ""
    monkeypatch.setattr(callback_state, "_BOOT_ID", tmp_path / "none")
    assert callback_state.boot_id() == ""


def test_a_million_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are saved and restored, all of them, in a file of a few bytes each."""
    settings = CallBackSettings()
    machine = CallBackMachine(settings, 1000.0, (), 17)
    for number in range(HOSTS):
        uuid = f"host-{number}"
        machine.attach(uuid, number, "", "", 1000.0)
        machine.acked(uuid, number, number + 1, 1000.0)
        session = machine.hosts[uuid].session
        for vnode in range(PROMISES // HOSTS):
            machine.table.give(fid(2 * (vnode * HOSTS + number) + 2), session, 15000 + vnode % 60)
    began = time.perf_counter()
    kept = KeptState(17, BOOT, 1000.0, machine.save(1000.0), {7: ChangeMark("i", 1)})
    callback_state.leave(tmp_path, kept)
    saved_s = time.perf_counter() - began
    size = (tmp_path / FILE).stat().st_size
    began = time.perf_counter()
    again = taken(tmp_path)
    assert again is not None
    other = CallBackMachine(settings, 1001.0, (), 18)
    other.restore(again.callbacks, 1001.0)
    restored_s = time.perf_counter() - began
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{PROMISES} promises of {HOSTS} hosts: saved in {saved_s:.2f} s, restored in "
            f"{restored_s:.2f} s, {size / PROMISES:.1f} bytes each"
        )
    assert other.table.size == machine.table.size == PROMISES
    assert size < 20 * PROMISES
    assert other.save(1001.0).hosts == machine.save(1001.0).hosts
