"""The checksum that every row and inline datum carries, verified whenever one is read.

BLAKE3 shortened to 64 bits: a row is some hundred bytes, one call costs about a microsecond, and
unlike a CRC it also tells a row that was written in the wrong place, because its key is hashed
along.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from blake3 import blake3

CHECKSUM_BYTES: Final = 8
_LENGTH: Final = struct.Struct("<q")
# What `checksum` hashes of the rows there are many of, packed in one call: a volume of 200,000
# files has 600,000 of them. i: an integer; b: text or bytes, of a length.
_VNODE_UP_TO_ACL: Final = struct.Struct("<6s" + "cq" * 14)
_VNODE_REST: Final = struct.Struct("<cq")
_ENTRY_UP_TO_NAME: Final = struct.Struct("<7scqcq")
_ENTRY_REST: Final = struct.Struct("<cqcqcq")
_INLINE_UP_TO_DATA: Final = struct.Struct("<11scqcq")


def checksum(table: str, *columns: object) -> bytes:
    """The 8-byte checksum over a row: table, key and all values, each with its kind and length.

    A value of a kind that we never write (only damage makes one) counts as its kind.
    """
    pack = _PACKERS.get(table)
    if pack is None:
        return _any_checksum(table, *columns)
    try:
        return blake3(pack(*columns)).digest(length=CHECKSUM_BYTES)
    except (TypeError, ValueError, AttributeError, struct.error):
        # Damage: other kinds of values, or of another number.
        return _any_checksum(table, *columns)


def _any_checksum(table: str, *columns: object) -> bytes:
    parts = [table.encode()]
    for column in columns:
        if isinstance(column, int):
            parts.append(b"i" + _LENGTH.pack(column))
        elif isinstance(column, str | bytes):
            data = column.encode() if isinstance(column, str) else column
            parts.append(b"b" + _LENGTH.pack(len(data)))
            parts.append(data)
        else:
            parts.append(f"?{type(column).__name__}".encode())
    return blake3(b"".join(parts)).digest(length=CHECKSUM_BYTES)


def _vnode(*values: Any) -> bytes:
    a, b, c, d, e, f, g, h, j, k, m, n, o, acl, changed = values
    data: bytes = acl.encode()
    i = b"i"
    # fmt: off
    return _VNODE_UP_TO_ACL.pack(
        b"vnodes",
        i, a, i, b, i, c, i, d, i, e, i, f, i, g, i, h, i, j, i, k, i, m, i, n, i, o,
        b"b", len(data),
    ) + data + _VNODE_REST.pack(i, changed)
    # fmt: on


def _entry(directory: int, name: str, vnode: int, uniquifier: int, kind: int) -> bytes:
    data = name.encode()
    return (
        _ENTRY_UP_TO_NAME.pack(b"entries", b"i", directory, b"b", len(data))
        + data
        + _ENTRY_REST.pack(b"i", vnode, b"i", uniquifier, b"i", kind)
    )


def _inline(vnode: int, data: bytes) -> bytes:
    return _INLINE_UP_TO_DATA.pack(b"inline_data", b"i", vnode, b"b", len(data)) + data


_PACKERS: Final[dict[str, Callable[..., bytes]]] = {
    "vnodes": _vnode,
    "entries": _entry,
    "inline_data": _inline,
}
