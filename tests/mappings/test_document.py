"""The documentation says what the table says."""

from __future__ import annotations

from tests.mappings.document import PAGE, page


def test_the_page_on_layouts_is_the_table() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.mappings.document"
