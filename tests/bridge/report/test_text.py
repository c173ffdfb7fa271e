"""Texts of others in one line: nothing that a terminal obeys, and none without end."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.report.text import HIDDEN, block, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pay-api", "pay-api"),
        ("支付-é", "支付-é"),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\x07\r\0\tb", "a\\x07\\r\\x00\\tb"),
        ("a\nlink  forged", "a\\nlink  forged"),
        ("abc\u202egpj", "abc\\u202egpj"),
        ("\x9b31m\u2028\ud800", "\\x9b31m\\u2028\\ud800"),
    ],
)
def test_what_a_terminal_obeys_is_escaped_and_all_else_is_as_it_is(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text())
def test_no_text_yields_a_control_character_or_more_than_its_length(text: str) -> None:
    assert not {unicodedata.category(one) for one in shown(text)} & HIDDEN


def test_a_long_text_is_cut_in_the_middle() -> None:
    cut = shown("head" + "x" * 65_536 + "tail", 60)
    assert len(cut) == 60 and cut.startswith("headx") and cut.endswith("xtail")


def test_a_block_keeps_its_lines_and_ends() -> None:
    assert block("a\n\x1b[2Jb") == "a\n\\x1b[2Jb"
    assert len(block("x\n" * 100_000)) < 50_000
