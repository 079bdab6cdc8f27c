"""Protobuf messages as JSON records: plain numbers, short words for enum values."""

from __future__ import annotations

import base64
import re
from typing import Any

from google.protobuf.message import Message


def record_of(message: Message) -> dict[str, Any]:
    """All fields of a message by their names.

    64-bit numbers are numbers (protobuf's own JSON makes them texts), enum values are their last
    words in lower case (`VOLUME_STATE_CHECKED_OUT`: `checked_out`; unspecified: None), bytes are
    base64, an absent field is None.
    """
    return {field.name: _field_value(message, field) for field in message.DESCRIPTOR.fields}


def spoken(word: str) -> str:
    """An enum word for people: `checked out`."""
    return word.replace("_", " ")


def volume_type(word: str) -> str:
    """A volume's type as AFS abbreviates it: RW, RO or BK."""
    return {"read_write": "RW", "read_only": "RO", "backup": "BK"}.get(word, word)


def _field_value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return dict(sorted(value.items()))
        return [_value(field, one) for one in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return record_of(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else _short_name(field.enum_type.name, known.name)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _short_name(enum_name: str, value_name: str) -> str | None:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum_name).upper() + "_"
    # The values of FsyncReason and its kin begin with the field's own prefix.
    short = value_name.removeprefix(prefix).removeprefix("FSYNC_")
    return None if short == "UNSPECIFIED" or short.endswith("_UNSPECIFIED") else short.lower()
