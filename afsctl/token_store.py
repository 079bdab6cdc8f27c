"""The tokens that this user has shown `afsctl login`: one file, for its owner alone.

AFS_TOKENS names the file; else it is `laterfs.tokens` in the session's own directory
(XDG_RUNTIME_DIR), which goes with the session, or `~/.laterfs.tokens` where there is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from afs.runtime.files import write_durably
from afsctl.failure import CommandError

FILE_VARIABLE: Final = "AFS_TOKENS"
# Which of several tokens is shown.
CELL_VARIABLE: Final = "AFS_CELL"
_MODE: Final = 0o600


def token_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the tokens are."""
    if named := environment.get(FILE_VARIABLE):
        return Path(named)
    if session := environment.get("XDG_RUNTIME_DIR"):
        return Path(session) / "laterfs.tokens"
    return Path.home() / ".laterfs.tokens"


@dataclass(slots=True)
class TokenStore:
    """Tokens by cell. `current` is the cell that was logged in to last; "" if there is none."""

    path: Path
    tokens: dict[str, str] = field(default_factory=dict)
    current: str = ""

    @classmethod
    def load(cls, path: Path) -> TokenStore:
        """What the file holds; nothing if there is no file.

        Raises:
            CommandError: the file is not ours, or others can read it.
        """
        try:
            mode = path.stat().st_mode & 0o777
            document: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError) as error:
            raise CommandError(f"cannot read the tokens in {path}: {error}") from None
        if mode & 0o077:
            raise CommandError(
                f"{path} has mode {mode:04o}, so others can read your tokens: log out, and in again"
            )
        try:
            tokens = {str(cell): str(token) for cell, token in document["tokens"].items()}
            return cls(path, tokens, str(document["current"]))
        except (KeyError, TypeError, AttributeError):
            raise CommandError(f"{path} holds no tokens of laterfs") from None

    def save(self) -> None:
        """Writes the file; one without tokens is removed."""
        if not self.tokens:
            self.path.unlink(missing_ok=True)
            return
        document = {"current": self.current, "tokens": self.tokens}
        write_durably(self.path, (json.dumps(document, indent=2) + "\n").encode(), _MODE)

    def shown(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The token that commands show: of the cell that AFS_CELL names, else the current one's."""
        return self.tokens.get(environment.get(CELL_VARIABLE) or self.current)


def shown_token() -> str | None:
    """The token that commands of this process show; None if there is none."""
    return TokenStore.load(token_path()).shown()
