"""How texts of others are printed: no control character of theirs reaches a terminal, and none is endless."""

from __future__ import annotations

import unicodedata

CELL = 120  # characters of one cell of a table
LINE = 2_000  # characters of one line of text, and of one field of the log
# Control characters, formats (the bidirectional overrides are among them), surrogates, private use, line separators.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def shown(text: str, longest: int = LINE) -> str:
    """`text` in one line, at most `longest` characters: what a terminal would obey is escaped, the middle is cut.

    "pay\\x1b[2J" is shown as such, with four visible characters in the place of ESC.
    """
    if len(text) > longest:
        tail = min(20, longest // 4)
        text = f"{text[: longest - tail - 1]}…{text[len(text) - tail :]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one.encode("unicode_escape").decode() if unicodedata.category(one) in HIDDEN else one for one in text
    )


def block(text: str, longest: int = 20 * LINE) -> str:
    """The same for a text of several lines, e.g. a raw record: its line breaks stay."""
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters; -o json has all)"
    return "\n".join(shown(line, longest) for line in text.split("\n"))
