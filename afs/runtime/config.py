"""Configuration of a daemon: a TOML file, the environment, flags; the latter win over the former.

Theory of operation
    A daemon's configuration is a subclass of `DaemonConfig`, one field a key, with a description.
    From the field `break_deadline_s` come the key `break_deadline_s` in the file,
    `AFS_BREAK_DEADLINE_S` in the environment and the flag `--break-deadline-s`. A list is given by
    repeating its flag, comma-separated in the environment, as an array in the file. Whatever is
    wrong becomes one line that names the place, the value and what was expected.

    An instance made directly, `AfsdConfig(listen=[…])`, reads neither file nor environment: that is
    for tests.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from afs.runtime.logs import LogFormat, LogLevel

ENVIRONMENT_PREFIX = "AFS_"
CONFIG_VARIABLE = "AFS_CONFIG"
USAGE_STATUS = 2


def _default_log_format() -> LogFormat:
    """Lines for people on a terminal, JSON elsewhere."""
    return "console" if sys.stderr.isatty() else "json"


class DaemonConfig(BaseModel):
    """Keys that every daemon has."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    log_level: LogLevel = Field("info", description="least level of the events logged")
    log_format: LogFormat = Field(
        default_factory=_default_log_format,
        description="how events look on standard error (default: console on a terminal, else json)",
    )
    run_dir: Path = Field(Path("var/run"), description="directory of the daemon's unix sockets")
    cell: str = Field("laterfs", min_length=1, description="name of the cell")
    signing_key: Path | None = Field(
        None,
        description="file of the cell's signing key, by which a daemon of the cell shows other"
        " daemons that it is one",
    )
    tls_ca: Path | None = Field(
        None, description="file of the certificate authority whose certificates are trusted"
    )
    tls_certificate: Path | None = Field(
        None,
        description="file of this daemon's certificate and key: TCP ports and channels then speak"
        " mutual TLS, and a renewed file counts without a restart",
    )
    token_file: Path | None = Field(
        None, description="file of a token to show other daemons, where there is no signing key"
    )

    @model_validator(mode="after")
    def _has_authority(self) -> Self:
        """A certificate without an authority would be shown to anybody."""
        if (self.tls_ca is None) != (self.tls_certificate is None):
            raise ValueError("tls_ca and tls_certificate: one of them: expected both, or none")
        return self


C = TypeVar("C", bound=DaemonConfig)


class ConfigError(Exception):
    """A configuration that cannot be used; the text is one line for people."""


def load_config(
    cls: type[C],
    argv: Sequence[str],
    prog: str,
    description: str,
    environment: Mapping[str, str] = os.environ,
) -> C:
    """The configuration from the file, the environment and the flags.

    Args:
        cls: what to load.
        argv: the flags, without the program's name.
        prog: the program's name, as it stands in messages.
        description: one sentence for `--help`.
        environment: `AFS_CONFIG` names the file unless `--config` does; `AFS_<KEY>` sets a key.
            Other `AFS_…` variables belong to other programs and are left alone.

    Raises:
        SystemExit: 0 after `--help` and `--version`; 2 after one line on standard error for what
            cannot be used.
    """
    flags = vars(_parser(cls, prog, description).parse_args(list(argv)))
    del flags["version"]
    file = flags.pop("config") or environment.get(CONFIG_VARIABLE)
    try:
        return _combine(cls, file, environment, flags)
    except ConfigError as error:
        _fail(prog, str(error))


def _combine(
    cls: type[C], file: str | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> C:
    """Puts the sources over each other, remembering for messages where each value came from."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if file:
        for key, value in _read_file(file).items():
            if key not in cls.model_fields:
                known = ", ".join(sorted(cls.model_fields))
                raise ConfigError(f"{key} in {file}: unknown key: expected one of {known}")
            values[key], places[key] = value, f"{key} in {file}"
    for key, field in cls.model_fields.items():
        variable = ENVIRONMENT_PREFIX + key.upper()
        if variable in environment:
            text = environment[variable]
            values[key] = _split(text) if _is_list(field) else text
            places[key] = variable
    for key, value in flags.items():
        if value is not None:
            values[key], places[key] = value, _flag(key)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            # A rule over several keys, written as a model validator: its text names them.
            raise ConfigError(_message(first)) from None
        key = str(first["loc"][0])
        raise ConfigError(
            f"{places.get(key, key)}: bad value {first['input']!r}: {_message(first)}"
        ) from None


def _message(error: Any) -> str:
    """What was expected, in one line."""
    text = str(error["msg"]).removeprefix("Value error, ").replace("\n", " ")
    return text.replace("Input should be", "expected", 1)


def _read_file(file: str) -> dict[str, Any]:
    """The keys of a TOML file."""
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"configuration file {file}: {error.strerror}: expected a readable TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"configuration file {file}: {str(error).splitlines()[0]}: expected TOML"
        ) from None


def _parser(cls: type[DaemonConfig], prog: str, description: str) -> argparse.ArgumentParser:
    """Flags for every key of a configuration."""
    parser = _OneLineParser(
        prog=prog,
        description=description,
        epilog="Each flag is also a key of the TOML file (--break-x: break_x) and a variable of "
        f"the environment ({ENVIRONMENT_PREFIX}BREAK_X; a list comma-separated). Flags win over "
        "environment over file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file with any of these keys (or {CONFIG_VARIABLE})"
    )
    for key, field in cls.model_fields.items():
        choices = _choices(field)
        parser.add_argument(
            _flag(key),
            dest=key,
            action="append" if _is_list(field) else "store",
            metavar="|".join(choices) if choices else key.rsplit("_", 1)[-1].upper(),
            help=_help(field),
        )
    return parser


class _Version(argparse.Action):
    """Prints program and version; asked for the version only then, as looking it up takes files."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"{parser.prog} {metadata.version('laterfs')}")
        raise SystemExit(0)


class _OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        _fail(self.prog, message)


def _fail(prog: str, message: str) -> NoReturn:
    """Says what is wrong and ends the program."""
    print(f"{prog}: {message}", file=sys.stderr)
    raise SystemExit(USAGE_STATUS)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _help(field: FieldInfo) -> str:
    """The description and the default of a key."""
    text = field.description or ""
    if field.default_factory is None:
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
        text += " (default: none)" if shown is None or shown == "" else f" (default: {shown})"
    return text.replace("%", "%%")


def _is_list(field: FieldInfo) -> bool:
    """True for a key that holds several values."""
    return any(typing.get_origin(part) in (list, tuple) for part in _parts(field.annotation))


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """The words a key can hold, if it is one of a few."""
    for part in _parts(field.annotation):
        if typing.get_origin(part) is typing.Literal:
            return tuple(map(str, typing.get_args(part)))
    return ()


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _split(text: str) -> list[str]:
    """The values of a comma-separated list; an empty text is an empty list."""
    return [part.strip() for part in text.split(",") if part.strip()]
