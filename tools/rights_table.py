"""Writes docs/rights.md from the table of methods and rights: `python -m tools.rights_table`.

With `--check` it compares, and fails if the page is not what the table says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from afs.access.acl import LETTERS, WORDS, letters
from afs.access.requirements import REQUIREMENTS, Who

PAGE: Final = Path(__file__).parent.parent / "docs" / "rights.md"
_HEAD: Final = """# Who may call what

This page is written from `afs/access/requirements.py` by `python -m tools.rights_table`; a test
compares them, and another one walks every method as nobody, a stranger, a reader, a writer, an
owner and an administrator. It holds where `authorization` is on. A method that is not here is
refused.

Rights stand in the access list of a directory, and hold for the directory and the files in it:

{rights}

Words stand for several: {words}. What an access list
denies (a negative right) is not given by any other entry. Administrators, and the owner of a
volume's root directory, can always look (`l`) and change the access list (`a`).

"anyone" needs no token. "any user" has shown one. "administrators" are the members of
`system:administrators`, the superusers of a daemon's configuration, and the cell's own daemons.
"own" is for what belongs to the caller. Mode bits of files are kept for clients and decide nothing
at the fileserver.

A caller for whom a method is not is told EPERM (PERMISSION_DENIED), or RXKADNOAUTH
(UNAUTHENTICATED) if they showed no token; where an access list refuses it is EACCES
(PERMISSION_DENIED). In bulk calls each Fid has its own answer.
"""
_NAMES: Final = {
    "r": "read files",
    "l": "look up and list",
    "i": "insert",
    "d": "delete",
    "w": "write files",
    "k": "lock",
    "a": "change the access list",
}


def page() -> str:
    """The text of docs/rights.md."""
    return "\n".join([*_lines(), ""])


def _lines() -> Iterator[str]:
    rights = "\n".join(f"- `{letter}`: {_NAMES[letter]}" for letter in LETTERS)
    words = ", ".join(f"`{word}` ({letters(some) or 'nothing'})" for word, some in WORDS.items())
    yield _HEAD.format(rights=rights, words=words).rstrip()
    service = ""
    for full_name, requirement in REQUIREMENTS.items():
        _, name, method = full_name.split("/")
        if name != service:
            service = name
            yield ""
            yield f"## {service}"
            yield ""
            yield "| method | who | right | also |"
            yield "|---|---|---|---|"
        right = f"`{letters(requirement.rights)}`" if requirement.who is Who.ACCESS_LIST else ""
        cells = " | ".join((method, requirement.who.value, right, requirement.also))
        yield f"| {cells} |".replace("  ", " ")


def main() -> int:
    """Writes the page, or compares it."""
    if sys.argv[1:] == ["--check"]:
        same = PAGE.read_text(encoding="utf-8") == page()
        if not same:
            print("docs/rights.md is not what the table says: python -m tools.rights_table")
        return 0 if same else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
