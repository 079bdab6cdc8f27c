"""Configuration from file, environment and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from afs.runtime.config import DaemonConfig, load_config


class _Config(DaemonConfig):
    listen: list[str] = Field(["127.0.0.1:7000"], description="addresses served")
    fssync_listen: str | None = Field(None, description="TCP address of FSSync")
    break_policy: Literal["later", "sync"] = Field("later", description="100 % of them")
    break_deadline_s: float = Field(2.0, gt=0, description="seconds")
    max_promises: int = Field(1000, ge=1, description="promises in all")
    strict: bool = Field(default=False, description="wait for leases")

    @model_validator(mode="after")
    def _policy_fits(self) -> _Config:
        if self.strict and self.break_policy == "sync":
            raise ValueError("strict cannot be combined with\nbreak_policy sync")
        return self


def _load(*argv: str, **environment: str) -> _Config:
    return load_config(_Config, argv, "afsd", "The fileserver.", environment)


def _refusal(capsys: pytest.CaptureFixture[str], *argv: str, **environment: str) -> str:
    """The one line on standard error."""
    with pytest.raises(SystemExit) as caught:
        _load(*argv, **environment)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("afsd: ")
    return err


def test_defaults() -> None:
    """Without any source every key has its default."""
    config = _load()
    assert config.listen == ["127.0.0.1:7000"]
    assert config.run_dir == Path("var/run")
    assert config.log_level == "info"
    assert config.log_format == "json"


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    """Each key comes from the strongest source that has it."""
    file = tmp_path / "afsd.toml"
    file.write_text('listen = ["a:1"]\nbreak_deadline_s = 3\nmax_promises = 7\nlog_level = "debug"')
    config = _load(
        "--max-promises=9",
        "--config",
        str(file),
        AFS_MAX_PROMISES="8",
        AFS_BREAK_DEADLINE_S="4.5",
        AFS_SOMETHING_ELSE="of another program",
    )
    assert (config.listen, config.break_deadline_s, config.max_promises, config.log_level) == (
        ["a:1"],
        4.5,
        9,
        "debug",
    )


def test_file_named_by_the_environment(tmp_path: Path) -> None:
    """AFS_CONFIG names the file, unless a flag names another."""
    (tmp_path / "one.toml").write_text("max_promises = 1")
    (tmp_path / "two.toml").write_text("max_promises = 2")
    one = str(tmp_path / "one.toml")
    assert _load(AFS_CONFIG=one).max_promises == 1
    assert _load("--config", str(tmp_path / "two.toml"), AFS_CONFIG=one).max_promises == 2


def test_lists() -> None:
    """A list is a repeated flag, or comma-separated in the environment; it replaces."""
    assert _load("--listen", "a:1", "--listen", "unix:b,c").listen == ["a:1", "unix:b,c"]
    assert _load(AFS_LISTEN="a:1, b:2,").listen == ["a:1", "b:2"]
    assert _load("--listen=c:3", AFS_LISTEN="a:1,b:2").listen == ["c:3"]


def test_made_directly_it_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration made in a test is what the test says, whatever the environment holds."""
    monkeypatch.setenv("AFS_MAX_PROMISES", "5")
    assert _Config().max_promises == 1000
    assert load_config(_Config, [], "afsd", "").max_promises == 5


def test_bad_values_name_place_value_and_expectation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A bad value is one line with where it stood, what it was and what was expected; exit 2."""
    assert "--max-promises: bad value 'many'" in _refusal(capsys, "--max-promises", "many")
    message = _refusal(capsys, AFS_BREAK_DEADLINE_S="-1")
    assert "AFS_BREAK_DEADLINE_S: bad value '-1'" in message
    assert "greater than 0" in message
    assert "'later' or 'sync'" in _refusal(capsys, "--break-policy", "never")
    file = tmp_path / "x.toml"
    file.write_text("listen = 7")
    message = _refusal(capsys, "--config", str(file))
    assert f"listen in {file}: bad value 7" in message
    assert "list" in message


def test_rule_over_several_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """A rule over several keys speaks for itself, in one line."""
    message = _refusal(capsys, "--strict=yes", "--break-policy=sync")
    assert message == "afsd: strict cannot be combined with break_policy sync\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("brake_policy = 'later'", "brake_policy in"),
        ("[afsd]\nlisten = []", "afsd in"),
        ("listen = [", "expected TOML"),
        ("a = 1\na = 2", "expected TOML"),
    ],
)
def test_bad_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, expected: str
) -> None:
    """An unknown key and broken TOML are refused with a line that names file and key."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    message = _refusal(capsys, "--config", str(file))
    assert str(file) in message
    assert expected in message


def test_unreadable_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file that is absent, a directory or no text is refused."""
    assert "No such file" in _refusal(capsys, "--config", str(tmp_path / "absent"))
    assert "Is a directory" in _refusal(capsys, AFS_CONFIG=str(tmp_path))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "expected TOML" in _refusal(capsys, "--config", str(tmp_path / "bytes"))


def test_unknown_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown or abbreviated flag and a stray word are one line, exit 2."""
    assert "--brake" in _refusal(capsys, "--brake", "x")
    assert "--break" in _refusal(capsys, "--break", "later")
    assert "stray" in _refusal(capsys, "stray")


def test_help_tells_every_key_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists every flag with its default, its words, and where else it can be set."""
    with pytest.raises(SystemExit) as caught:
        _load("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key in _Config.model_fields:
        assert "--" + key.replace("_", "-") in text
    assert "(default: 127.0.0.1:7000)" in text
    assert "later|sync" in text
    assert "100 % of them (default: later)" in text
    assert "(default: none)" in text
    assert "AFS_CONFIG" in text


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--version tells program and version."""
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "1.2.3")
    with pytest.raises(SystemExit) as caught:
        _load("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == "afsd 1.2.3\n"
