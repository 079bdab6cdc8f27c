"""The checksum of a row: one value for one row, however it is computed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from afs.volume.checksum import _any_checksum, checksum

INT64 = st.integers(-(2**63), 2**63 - 1)
DAMAGED = st.one_of(INT64, st.none(), st.floats(), st.binary(max_size=40), st.text(max_size=20))


@given(st.lists(INT64, min_size=14, max_size=14), st.text(max_size=60), st.binary(max_size=300))
def test_the_quick_way_gives_what_the_long_one_does(
    numbers: list[int], name: str, data: bytes
) -> None:
    """Rows of the tables that have many are packed in one call: the bytes hashed are the same."""
    name = name.encode(errors="ignore").decode()
    rows: list[tuple[object, ...]] = [
        ("vnodes", *numbers[:-1], name, numbers[-1]),
        ("entries", numbers[0], name, *numbers[1:4]),
        ("inline_data", numbers[0], data),
        ("chunks", numbers[0], numbers[1], data, numbers[2]),
    ]
    for table, *columns in rows:
        assert checksum(str(table), *columns) == _any_checksum(str(table), *columns)


@given(st.sampled_from(["vnodes", "entries", "inline_data"]), st.lists(DAMAGED, max_size=15))
def test_values_that_only_damage_makes_have_a_checksum_too(
    table: str, columns: list[object]
) -> None:
    """Whatever a damaged row holds, its checksum is told from a sound one's, and nothing raises."""
    columns = [
        value.encode(errors="ignore").decode() if isinstance(value, str) else value
        for value in columns
    ]
    assert checksum(table, *columns) == _any_checksum(table, *columns)
    assert checksum(table, *columns) != checksum(table, *columns, 0)
