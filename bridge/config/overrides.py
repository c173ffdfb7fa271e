"""The block `overrides` of the file: what is written of instances in the place of what their sources say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.config.document import Document, Place, nearest
from bridge.config.schema import Link, Registry
from bridge.override import Override


def overrides_block(
    document: Document, block: Any, registries: Mapping[str, Registry | None], links: Sequence[Link]
) -> tuple[Override, ...]:
    """All overrides; what is faulty is noted."""
    if not isinstance(block, list):
        document.fault(("overrides",), "should be a list")
        return ()
    found: list[Override] = []
    for index, one in enumerate(block):
        made = document.build(Override, one, ("overrides", index))
        if isinstance(made, Override) and made.of is not None:
            _judge(document, made, ("overrides", index), registries, {link.to for link in links})
            if any((made.of, made.at) == (other.of, other.at) for other in found):
                document.fault(("overrides", index), f"{made.of} has an override at that place already; make it one")
            found.append(made)
    return tuple(found)


def _judge(
    document: Document, one: Override, place: Place, registries: Mapping[str, object], targets: set[str]
) -> None:
    if not one.says:
        document.fault(place, "says nothing; give weight, zone, health or metadata")
    if one.at and one.at not in targets:
        document.fault((*place, "at"), f"no link leads to {one.at!r}; {nearest(one.at, targets)}")
    named = {registry for _, registry, _ in one.readings() if registry}
    if named and not named & registries.keys():
        said = ", ".join(sorted(named))
        document.warn((*place, "of"), f"{said!r} is no registry of this file; {nearest(said, registries)}")
