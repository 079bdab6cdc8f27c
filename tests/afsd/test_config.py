"""The fileserver's configuration: what is accepted, and the one line for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from afs.runtime.config import load_config
from afsd.config import AfsdConfig


def load(*argv: str, environment: dict[str, str] | None = None) -> AfsdConfig:
    """The configuration from flags and an environment."""
    return load_config(AfsdConfig, argv, "afsd", "test", environment or {})


def test_the_defaults_listen_on_loopback_and_a_unix_socket_only() -> None:
    """Nobody is on the network by accident."""
    config = load()
    assert config.listen == ["127.0.0.1:7000"]
    assert config.fssync_addresses == ["unix:var/run/fssync.sock"]
    assert config.break_policy == "later"
    assert not config.callback_settings.strict


def test_every_key_can_be_set(tmp_path: Path) -> None:
    """By flags, by the environment, by a file; flags win."""
    file = tmp_path / "afsd.toml"
    file.write_text('break_policy = "sync"\nworker_tick_s = 5\nmax_promises = 7\n')
    config = load(
        "--config",
        str(file),
        "--listen",
        "[::1]:7000",
        "--listen",
        "unix:/tmp/x",
        "--partitions",
        "a/vicepa",
        "--partitions",
        "b/vicepb",
        "--coherence",
        "strict",
        "--break-deadline-s",
        "0.5",
        "--fssync-listen",
        "127.0.0.1:2040",
        environment={"AFS_MAX_PROMISES": "9", "AFS_CHANNEL_LEASE_S": "4"},
    )
    assert config.listen == ["[::1]:7000", "unix:/tmp/x"]
    assert config.partitions == [Path("a/vicepa"), Path("b/vicepb")]
    assert config.fssync_addresses[1] == "127.0.0.1:2040"
    assert (config.break_policy, config.worker_tick_s) == ("sync", 5)
    settings = config.callback_settings
    assert (settings.break_deadline_s, settings.channel_lease_s) == (0.5, 4)
    assert (settings.max_promises, settings.strict) == (9, True)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--listen", "nowhere"], "nowhere"),
        (["--listen", "127.0.0.1:99999"], "99999"),
        (["--fssync-listen", "2040"], "2040"),
        (["--break-policy", "never"], "never"),
        (["--coherence", "loose"], "loose"),
        (["--break-deadline-s", "0"], "break-deadline-s"),
        (["--break-deadline-s", "soon"], "soon"),
        (["--channel-lease-s", "1e9"], "channel-lease-s"),
        (["--channel-lease-s", "nan"], "channel-lease-s"),
        (["--worker-tick-s", "-1"], "worker-tick-s"),
        (["--max-promises", "0"], "max-promises"),
        (["--partitions", "a/vicepa", "--partitions", "b/vicepa"], "vicepa"),
        (["--partitions", "/"], "partitions"),
        (["--no-such-flag", "1"], "no-such-flag"),
    ],
)
def test_a_bad_value_is_one_line_and_status_2(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the key or the value, and what was expected."""
    with pytest.raises(SystemExit) as caught:
        load(*argv)
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert named in line


def test_no_listen_address_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list, from the environment."""
    with pytest.raises(SystemExit):
        load(environment={"AFS_LISTEN": ""})
    assert "AFS_LISTEN" in capsys.readouterr().err
