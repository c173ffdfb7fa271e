"""What a YAML text may ask of its reader: how deep, and how many values once every alias is written out; pure."""

from __future__ import annotations

from typing import Any

import yaml

VALUES = 100_000  # a file of some hundred registries and links has some thousand
DEPTH = 40  # a configuration has 7 levels
BYTES = 8 * 1024 * 1024


def excess(text: str, loader: Any) -> tuple[int, str] | None:
    """The line, and what is too much there; None where the text may be built.

    A few aliases can stand for gigabytes, and brackets can nest as deep as the text is long: both are found by the
    events of the text, before anything is built. Raises yaml.YAMLError.
    """
    sizes: dict[str | None, int] = {}  # of each anchor's value, aliases written out
    open_nodes: list[tuple[str | None, int]] = []  # the anchor of what is open, and the count when it began
    count = 0
    event: Any
    for event in yaml.parse(text, Loader=loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                return line, "an alias that contains itself; write it out"
            count += sizes.get(event.anchor, 1)
        else:
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count - 1))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        if count > VALUES:
            return line, f"more than {VALUES} values, aliases written out; write less"
        if len(open_nodes) > DEPTH:
            return line, f"nested deeper than {DEPTH} levels"
    return None
