"""The page on layouts, made from the table that `check` uses: `python -m tests.mappings.document` writes it."""

from __future__ import annotations

from pathlib import Path

from mappings import pairs

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"
HEAD = """\
# Layouts, and what is lost between them

A layout is how one family of clients writes its registrations. `isthmus check` says the same of your links.
`file` and `memory` hold the whole model. A link from a layout to itself loses nothing.

"""


def page() -> str:
    """The whole page."""
    lines = [HEAD + "| from | to | verdict | what is lost, or why it is refused |\n|---|---|---|---|"]
    names = [*pairs.LAYOUTS, "file"]
    for source in names:
        for target in names:
            if source == target:
                continue
            pair = pairs.pair(source, target)
            lines.append(f"| {source} | {target} | {pair.verdict} | {', '.join(pair.lost) or pair.why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
