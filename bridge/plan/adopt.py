"""Handing entries over in place, without a removal: from another owner or a native to this bridge, or to nobody."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from bridge.adapter import Change, Entry, Held
from bridge.link import Link
from bridge.model import Instance, Mark, ServiceName, Traits
from bridge.plan.route import Wanted, target_of


class Left(NamedTuple):
    """An entry that is not taken over, and why not."""

    service: ServiceName
    id: str
    why: str


class Adoption(NamedTuple):
    """What would be taken over, and what is left."""

    changes: list[Change]
    left: list[Left]


def plan_adoption(
    entries: Mapping[ServiceName, Mapping[str, Entry]],
    wanted_of: Callable[[ServiceName], Mapping[str, Wanted]],
    us: str,
    link: Link,
    owner: str | None,
    sources: Collection[tuple[str, str]],
    *,
    traits: Traits,
) -> Adoption:
    """Natives that are what the link would write, or (`owner`) what that bridge copied from the link's sources.

    `entries`: all that stands at the target, which has these `traits`; `wanted_of(name)`: what should. `us`: this
    bridge. `sources`: the registries that the link reads, each with its identity.
    """
    adoption = Adoption([], [])
    for name, standing in sorted(entries.items()):
        wanted = wanted_of(name) if owner is None else {}
        for key, entry in sorted(standing.items()):
            if owner is None and entry.mark is None and key in wanted and wanted[key].mark.link == link.name:
                if differing := _differing(entry.instance, wanted[key].instance):
                    adoption.left.append(Left(name, key, f"the native differs in {', '.join(differing)}"))
                else:
                    adoption.changes.append(_adopt(name, key, entry, wanted[key].mark))
            elif entry.mark is not None and entry.mark.owner == owner:
                if why := _strange(entry.mark, name, link, sources, traits):
                    adoption.left.append(Left(name, key, why))
                else:
                    mark = replace(entry.mark, owner=us, link=link.name)
                    adoption.changes.append(_adopt(name, key, entry, mark))
    return adoption


def plan_release(held: Held, owner: str, link: str) -> list[Change]:
    """Everything that the link wrote becomes nobody's, and stays."""
    return [
        Change(name, key, entry, mark=entry.mark, forget=True)
        for name, entries in sorted(held.services.items())
        for key, entry in sorted(entries.items())
        if entry.mark is not None and (entry.mark.owner, entry.mark.link) == (owner, link)
    ]


def _adopt(name: ServiceName, key: str, entry: Entry, mark: Mark) -> Change:
    return Change(name, key, entry, entry.instance, mark, adopt=True)


def _differing(one: Instance, other: Instance) -> list[str]:
    return [field for field in Instance.__struct_fields__ if getattr(one, field) != getattr(other, field)]


def _strange(mark: Mark, name: ServiceName, link: Link, sources: Collection[tuple[str, str]], traits: Traits) -> str:
    """Why the link would never have written this; "" if it would."""
    came = [registry for registry, identity in sources if identity == mark.path[-1]]
    if not came:
        return f"it came from {mark.path[-1]}, which the link does not read"
    if all(target_of(link, registry, mark.service, traits)[0] != name for registry in came):
        return f"the link does not send {mark.service} there"
    return ""
