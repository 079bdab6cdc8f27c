"""docs/rights.md and the table that it is written from."""

from __future__ import annotations

from tools import rights_table


def test_page_says_what_the_table_says() -> None:
    """docs/rights.md is written from the table, and not by hand."""
    assert rights_table.PAGE.read_text(encoding="utf-8") == rights_table.page()
