"""What can be wrong with links whose every value has the right type: pure rules, each fault at its place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_network
from itertools import combinations
from string import Formatter

from bridge.config.document import Document, Place, nearest
from bridge.config.schema import Access, Link, Registry
from bridge.link import Guard, Item, named
from bridge.model import ServiceName
from bridge.sources.networks import DEFAULT, overlaps

PLACEHOLDERS = ("namespace", "name", "registry")
SHORT_TTL = 3600.0
NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+|[-+]?\.(?:inf|nan)", re.I)


def judge_link(document: Document, link: Link, place: Place, registries: Mapping[str, object]) -> None:
    """Every fault of one link; what the types found already is None in it."""
    _judge_ends(document, link, place, registries)
    if link.services is not None:
        judge_globs(document, link.services.include, (*place, "services", "include"))
        judge_globs(document, link.services.exclude, (*place, "services", "exclude"))
    for key, pattern in (link.where or {}).items():
        _judge_glob(document, pattern, (*place, "where", key))
    _judge_rename(document, link, (*place, "rename"))
    _judge_port(document, link.port, (*place, "port"))
    _judge_lifetime(document, link, place)
    _judge_shares(document, link.guard, (*place, "guard"))
    for index, one in enumerate(link.guard_for):
        judge_globs(document, one.services if one else None, (*place, "guard_for", index, "services"))
        if one and (one.hard_share is not None or one.source_share is not None):
            _judge_shares(document, one, (*place, "guard_for", index))


def judge_access(document: Document, access: Sequence[Access | None] | None) -> None:
    """Every fault of `bridge.access`; what the types found already is None in it."""
    for index, one in enumerate(access or ()):
        place: Place = ("bridge", "access", index)
        if one is None:
            continue
        judge_globs(document, one.services, (*place, "services"))
        if one.may is not None and "admin" in one.may and one.services != ("*",):
            document.fault((*place, "services"), "admin is of everything: leave services out, or admin")


def _judge_ends(document: Document, link: Link, place: Place, registries: Mapping[str, object]) -> None:
    items = [Item.parse(text) for text in link.from_ or () if text is not None]
    for end, name in [*(("from", item.registry) for item in items), ("to", link.to)]:
        if name is not None and name not in registries:
            document.fault((*place, end), f"{name!r} is no registry of this file; {nearest(name, registries)}")
    if link.to is not None and any(item.registry == link.to for item in items):
        document.fault((*place, "to"), f"{link.to!r} is linked to itself; name another registry")
    for text in link.from_ or ():
        if text is not None and text.endswith("/"):
            document.fault((*place, "from"), f"{text!r} names no scope; write NAME, or NAME/SCOPE")
    if len(set(items)) < len(items):
        document.fault((*place, "from"), "names a registry twice; name each once")
    for item in items:
        for other in items:
            if other != item and other.registry == item.registry and other.means(item.scope):
                document.fault((*place, "from"), f"{other} is all of its scopes, {item.scope} among them; name one")


def judge_ranges(document: Document, ranges: Mapping[str, tuple[str, ...]], used: Collection[str]) -> None:
    """Every fault of the stated ranges; `used`: the networks of the registries."""
    good: dict[str, tuple[str, ...]] = {}
    for name, texts in ranges.items():
        place: Place = ("networks", name, "cidrs")
        good[name] = tuple(text for index, text in enumerate(texts) if _is_range(document, text, (*place, index)))
        if name not in used:
            document.warn(("networks", name), f"no registry is in this network; {nearest(name, used)}")
    for text, name, other in overlaps(good):
        document.fault(
            ("networks", name, "cidrs"),
            f"{text} is in {other} too; an address has one network: where two use the same ones, state the ranges of "
            "neither, and `network:` on each registry",
        )


def _is_range(document: Document, text: str | None, place: Place) -> bool:
    if text is None:
        return False  # noted already
    try:
        ip_network(text)
    except ValueError as error:
        with contextlib.suppress(ValueError):
            document.fault(place, f"{text} has host bits set; write {ip_network(text, strict=False)}")
            return False
        document.fault(place, f"{error}; write e.g. 10.244.0.0/16")
        return False
    return True


def judge_networks(
    document: Document, link: Link, place: Place, registries: Mapping[str, Registry | None], clusters: Collection[str]
) -> None:
    """Whether the ends of a link lie in one network, and what follows. `clusters`: see `Traits.is_cluster`."""
    ends = [registries.get(Item.parse(text).registry) for text in link.from_ or () if text is not None]
    target = registries.get(link.to or "")
    sources = {one.name: one.network for one in ends if one is not None}
    if target is None or not sources:
        return
    others = [f"{name} is in {network!r}" for name, network in sources.items() if network != target.network]
    if others and link.network != "crosses":
        document.fault(
            (*place, "network"),
            f"missing: {', '.join(others)}, {target.name} in {target.network!r}; write network: crosses if addresses "
            "of the one can be reached from the other, else the true network: of each registry",
        )
    if not others and link.network == "crosses":
        document.warn((*place, "network"), f"crosses nothing: both ends are in {target.network!r}")
    same = [name for name, network in sources.items() if network == target.network != DEFAULT]
    if same and target.name in clusters:
        document.fault(
            (*place, "network"),
            f"{', '.join(same)} and the cluster {target.name} are in {target.network!r}, whose addresses the cluster "
            "alone gives out: nothing would be written; give its pods another network, and write network: crosses",
        )


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


def _judge_port(document: Document, port: str | int | None, place: Place) -> None:
    """A port is named, or has a number from 1 to 65535; also as text, as it is when it comes from a template."""
    if port is None:
        return
    text = str(port)
    if isinstance(port, int) or NUMBER.fullmatch(text):
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
            document.fault(place, f"{text} is no port (1 to 65535)")
    elif not text.strip() or text != text.strip():
        document.fault(place, f"{text!r} is empty or has a blank at its end; write a port's name or number")


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


def judge_picture(document: Document, link: Link, place: Place, *, needed: bool) -> None:
    """A picture is named where a destination keeps pictures apart, and nowhere else."""
    registries = {Item.parse(text).registry for text in link.from_ or () if text}
    if link.as_ and not needed:
        document.fault((*place, "as"), f"{link.to} keeps no pictures; remove it")
    elif needed and len(registries) > 1 and (not link.as_ or link.as_ in registries):
        said = f"{link.as_!r} is one of the registries it is merged of" if link.as_ else "missing"
        document.fault((*place, "as"), f"{said}; name the picture of {', '.join(sorted(registries))}, e.g. as: all")


def judge_pictures(document: Document, links: Sequence[Link], stores: Collection[str]) -> None:
    """Of one name there is one picture in each of these registries, and whoever reads one of them says which.

    No file shows that a stream has one picture alone: other bridges publish theirs in it, today or later.
    """
    first: dict[tuple[str, str], str] = {}
    for index, link in enumerate(links):
        if link.to in stores and link.from_ and all(link.from_):
            picture = link.as_ or Item.parse(link.from_[0]).registry
            other = first.setdefault((link.to, picture), link.name)
            if other != link.name:
                document.fault(
                    ("links", index, "as"),
                    f"{picture!r} is the picture of {other!r} at {link.to} too; name this one otherwise, e.g. as: all",
                )
    for index, link in enumerate(links):
        for text in (one for one in link.from_ or () if one in stores):
            known = [f"{text}/{picture}" for to, picture in first if to == text]
            document.fault(
                ("links", index, "from"),
                f"{text} is all that any bridge publishes there, now or later, and would be merged unasked; name the "
                + (f"pictures that are meant, of this file's {', '.join(known)}" if known else f"picture: {text}/NAME"),
            )


def judge_pairs(document: Document, links: Sequence[Link], stores: Collection[str]) -> None:
    """Links that would meet under one name at a target, unless that keeps them apart as pictures (`stores`)."""
    first: dict[str, int] = {}
    for index, link in enumerate(links):
        if first.setdefault(link.name, index) != index:
            document.fault(
                ("links", index, "name"),
                f"{link.name!r} is the name of links[{first[link.name]}] too; should be unique",
            )
    for (_, one), (index, other) in combinations(enumerate(links), 2):
        shared = one.to is not None and one.to == other.to and one.to not in stores and _meeting(one, other)
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
        link.rename.format(name=bare, namespace=namespace or "{namespace}", registry=Item.parse(text).registry)
        for text in link.from_ or ()
    ]
