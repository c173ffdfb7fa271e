"""What can be wrong with links whose every value has the right type: pure rules, each fault at its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from string import Formatter

from bridge.blocks import Guard, Link, over
from bridge.document import Document, Place, nearest
from bridge.link import named
from bridge.model import ServiceName

PLACEHOLDERS = ("namespace", "name", "registry")
SHORT_TTL = 3600.0


def judge_link(document: Document, link: Link, place: Place, registries: Mapping[str, object]) -> None:
    """Every fault of one link; what the types found already is None in it."""
    for end, name in [*(("from", name) for name in link.from_ or ()), ("to", link.to)]:
        if name is not None and name not in registries:
            document.fault((*place, end), f"{name!r} is no registry of this file; {nearest(name, registries)}")
    if link.to is not None and link.to in (link.from_ or ()):
        document.fault((*place, "to"), f"{link.to!r} is linked to itself; name another registry")
    if len(set(link.from_ or ())) < len(link.from_ or ()):
        document.fault((*place, "from"), "names a registry twice; name each once")
    if link.services is not None:
        judge_globs(document, link.services.include, (*place, "services", "include"))
        judge_globs(document, link.services.exclude, (*place, "services", "exclude"))
    for key, pattern in (link.where or {}).items():
        _judge_glob(document, pattern, (*place, "where", key))
    _judge_rename(document, link, (*place, "rename"))
    _judge_lifetime(document, link, place)
    _judge_shares(document, link.guard, (*place, "guard"))
    for index, one in enumerate(link.guard_for):
        judge_globs(document, one.services if one else None, (*place, "guard_for", index, "services"))
        if one and (one.hard_share is not None or one.source_share is not None):
            _judge_shares(document, over(link.guard, one), (*place, "guard_for", index))


def _judge_shares(document: Document, limits: Guard, place: Place) -> None:
    if limits.hard_share < limits.source_share:
        document.fault(
            (*place, "hard_share"),
            f"{limits.hard_share:g} is below source_share {limits.source_share:g}; should be at least that",
        )


def _judge_rename(document: Document, link: Link, place: Place) -> None:
    try:
        parts = list(Formatter().parse(link.rename))
    except ValueError as error:
        document.fault(place, f"is no template: {error}; write e.g. {{namespace}}-{{name}}")
        return
    fields = [field for _, field, spec, conversion in parts if field is not None]
    for _, field, spec, conversion in parts:
        if field is not None and (field not in PLACEHOLDERS or spec or conversion):
            said = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            allowed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            document.fault(place, f"{{{said}}} is unknown; only {allowed}")
    if not link.rename.strip():
        document.fault(place, "is empty; write e.g. {name}")
    elif (
        "name" not in fields and link.services is not None and len(_literals(link)) != len(link.services.include or ())
    ):
        document.warn(place, "has no {name}: of several services under one name, all are parked")


def _judge_lifetime(document: Document, link: Link, place: Place) -> None:
    if link.lifetime == "leased" and link.ttl is None:
        document.fault((*place, "ttl"), "missing; leased entries need one, e.g. ttl: 2h")
    if link.lifetime == "lasting" and link.ttl is not None:
        document.fault((*place, "ttl"), "only leased entries have one; write lifetime: leased, or remove it")
    if link.lifetime == "leased" and link.policy == "upsert-only":
        document.fault(
            (*place, "lifetime"), "leased would remove what upsert-only must keep; write lasting, or policy: sync"
        )
    if link.lifetime == "leased" and link.ttl is not None:
        if link.ttl < 1:
            document.fault((*place, "ttl"), "should be at least 1s")
        elif link.ttl < SHORT_TTL:
            document.warn((*place, "ttl"), "below 1h: every entry is gone when the bridge is down for so long")


def judge_globs(document: Document, patterns: Sequence[str | None] | None, place: Place) -> None:
    for index, pattern in enumerate(patterns or ()):
        _judge_glob(document, pattern, (*place, index))


def _judge_glob(document: Document, pattern: str | None, place: Place) -> None:
    """fnmatch takes everything; what cannot have been meant is a fault."""
    if pattern is None:
        return  # noted already
    if not pattern or pattern != pattern.strip():
        document.fault(
            place, f"{pattern!r} is empty or has a blank at its end; write a name or a pattern such as pay-*"
        )
    elif "[" in re.sub(r"\[!?\]?[^]]*\]", "", pattern):
        document.fault(place, f"{pattern!r} has a [ without its ]; write [ab] for one of them, [[] for the sign itself")
    elif "{" in pattern:
        document.fault(place, f"{pattern!r} has braces, which no pattern knows; write one pattern for each")


def judge_pairs(document: Document, links: Sequence[Link]) -> None:
    first: dict[str, int] = {}
    for index, link in enumerate(links):
        if first.setdefault(link.name, index) != index:
            document.fault(
                ("links", index, "name"),
                f"{link.name!r} is the name of links[{first[link.name]}] too; should be unique",
            )
    for (_, one), (index, other) in combinations(enumerate(links), 2):
        shared = one.to is not None and one.to == other.to and _meeting(one, other)
        if shared:
            document.fault(
                ("links", index, "services"),
                f"{one.name!r} sends {shared} to {one.to!r} too; "
                "exclude it in one of them, rename one, or merge them by a list in `from`",
            )


def _meeting(one: Link, other: Link) -> str:
    """What both links send to one name, as far as the file alone shows it; "" where it does not."""
    if one.services is None or other.services is None or one.where != other.where:
        return ""
    try:
        targets = {target for name in _literals(one) for target in _targets(one, name)}
        met = targets.intersection(target for name in _literals(other) for target in _targets(other, name))
        alike = not set(_targets(one, "*")).isdisjoint(_targets(other, "*"))
    except (ValueError, LookupError):
        return ""  # a bad template, noted already
    if met:
        return f"the name {min(met)!r}"
    crossed = [name for name in _literals(one) if _takes(other, name)] + [
        name for name in _literals(other) if _takes(one, name)
    ]
    if alike and crossed:
        return f"the service {crossed[0]!r}"
    same = set(one.services.include) & set(other.services.include)
    return f"services like {min(same)!r}" if alike and same and one.services.exclude == other.services.exclude else ""


def _takes(link: Link, text: str) -> bool:
    name = ServiceName.parse(text)
    taken = any(named(pattern, name) for pattern in link.services.include or () if pattern)
    return taken and not any(named(pattern, name) for pattern in link.services.exclude or () if pattern)


def _literals(link: Link) -> list[str]:
    """The services that the link names without a pattern, and does not exclude."""
    return [
        name for name in link.services.include or () if name and not re.search(r"[*?\[]", name) and _takes(link, name)
    ]


def _targets(link: Link, name: str) -> list[str]:
    """The names at the target that the service gets; a namespace that the file does not show stays a placeholder."""
    namespace, _, bare = name.rpartition(":")
    return [
        link.rename.format(name=bare, namespace=namespace or "{namespace}", registry=registry)
        for registry in link.from_ or ()
    ]
