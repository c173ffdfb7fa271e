"""Which destinations several daemons of a bridge share (`bridge.group`), and what that asks of the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from string import Formatter

from bridge import adapter as interface
from bridge import link as core
from bridge.config.document import Document
from bridge.config.kinds import notes, seat
from bridge.config.schema import Bridge, Link
from bridge.errors import ConfigError
from bridge.link import Item, Policy
from bridge.shards import Divided, Shards


def streams(links: Iterable[Link | core.Link], made: Mapping[str, interface.Registry]) -> list[str]:
    """The registries that these links read whose shards can be read apart."""
    sources = (Item.parse(text).registry for link in links for text in link.from_ or () if text)
    return [name for name in dict.fromkeys(sources) if isinstance(made.get(name), Divided)]


def stream_of(name: str, links: Sequence[core.Link], made: Mapping[str, interface.Registry]) -> str:
    """The stream whose shards the members of a group write to a destination, "": one process writes it.

    That is so where a link to it writes, and reads a stream: of a file without faults no other one does.
    """
    mine = [link for link in links if link.to == name and link.policy is not Policy.OBSERVE]
    return next(iter(streams(mine, made)), "") if _may_be_shared(name, made) else ""


def group_of(bridge: Bridge, destination: str) -> str:
    """The name of the group of a destination, at the engine of its stream."""
    return f"isthmus.{bridge.id}.{bridge.group}.{destination}"


def _may_be_shared(name: str, made: Mapping[str, interface.Registry]) -> bool:
    """Every daemon serves an export; and what streams hold is filled by one daemon."""
    target = made.get(name)
    return target is not None and not isinstance(target, interface.Export) and not target.traits.pictures


def judge_group(
    document: Document, bridge: Bridge, links: Sequence[Link], made: Mapping[str, interface.Registry]
) -> None:
    """What a group asks of the links to each destination that its members share."""
    if bridge.group is None:
        return
    shared: set[str] = set()  # streams
    lenders: set[str] = set()  # registries that keep the locks
    for name in dict.fromkeys(link.to for link in links if link.to in made):
        mine = [(index, link) for index, link in enumerate(links) if link.to == name]
        found = streams([link for _, link in mine if link.policy is not Policy.OBSERVE], made)
        if not found or not _may_be_shared(name, made):
            continue
        shared.add(found[0])
        for index, link in mine:
            _judge_sources(document, index, link, found)
            _judge_name(document, index, link)
            _judge_lifetime(document, index, link, _seat_of(made[name], bridge.id))
        lenders |= _judge_locks(document, bridge, mine[0][0], name, made)
    if len(lenders) > 1 and bridge.seat is None:
        document.fault(
            ("bridge", "seat"),
            f"missing: the locks that the group shares are in {', '.join(sorted(lenders))}; name the one of them where "
            "its daemons keep what they tell each other",
        )
    for index, link in enumerate(links):
        _judge_reader(document, index, link, shared, made)
    if not shared:
        document.warn(("bridge", "group"), "no destination is written from a stream: there is nothing to share")


def _judge_sources(document: Document, index: int, link: Link, found: Sequence[str]) -> None:
    """All that goes to one destination is of one stream, or its services would lie in no shard, or in two."""
    registries = dict.fromkeys(Item.parse(text).registry for text in link.from_ or () if text)
    others = [one for one in registries if one != found[0]]
    if others:
        document.fault(
            ("links", index, "from"),
            f"{link.to} is shared by the group, which writes it from the stream {found[0]} alone; "
            f"fill {found[0]} from {', '.join(others)} too, or remove bridge.group",
        )


def _judge_reader(
    document: Document, index: int, link: Link, shared: Collection[str], made: Mapping[str, interface.Registry]
) -> None:
    """Whatever is not shared reads the whole: a member reads its shards alone."""
    read = [name for name in streams([link], made) if name in shared]
    if read and link.policy is not Policy.OBSERVE and link.to in made and not _may_be_shared(link.to, made):
        document.fault(
            ("links", index, "from"),
            f"each member of the group reads some shards of {read[0]} alone; feed {link.to} from its own registries, "
            "or by a bridge without a group",
        )


def _judge_name(document: Document, index: int, link: Link) -> None:
    """Without the name of its service, services of several shards would meet in one."""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(link.rename or "")}
    except ValueError:
        return  # noted already
    if "name" not in fields:
        document.fault(("links", index, "rename"), f"needs {{name}}: {link.to} is shared by the group")


def _judge_lifetime(document: Document, index: int, link: Link, own: interface.Seat | None) -> None:
    """Where entries die with the session that wrote them, those of a shard would die as it goes to another process."""
    if link.lifetime == "leased" and isinstance(own, Shards) and not own.leases:
        document.fault(
            ("links", index, "lifetime"),
            f"a leased entry of {link.to} ends with the process that wrote it, and its shard goes from one to another; "
            "should be lasting, or remove bridge.group",
        )


def _seat_of(registry: interface.Registry, bridge: str) -> interface.Seat | None:
    """Its own seat; None: it has none, or is only read, which is a fault already."""
    try:
        return seat(registry, bridge, registry.name)
    except ConfigError:
        return None


def _judge_locks(
    document: Document, bridge: Bridge, index: int, name: str, made: Mapping[str, interface.Registry]
) -> set[str]:
    """A shard has a lock and a note, and what operators decide is in notes by key. The registry that has the locks."""
    place = ("links", index, "to")
    try:
        own = seat(made[name], bridge.id, name)
        lender = made.get(bridge.seat or "") if own is None else made[name]
        found = own if own is not None or lender is None else seat(lender, bridge.id, name)
        if found is None or lender is None:
            document.fault(
                place, f"{name} cannot lock, so the group cannot share it; name a registry in bridge.seat that can"
            )
        elif isinstance(found, Shards) and notes(made.get(bridge.seat or "", lender), bridge.id) is not None:
            if own is None and found.ousts:
                document.warn(
                    ("bridge", "seat"),
                    f"a shard of {name} may go unwritten for 20 s after its daemon was killed: so long {lender.name} "
                    f"keeps a lock, and {name} compares none in its writes, so that nobody may take it sooner",
                )
            return {lender.name}
        else:
            document.fault(
                place,
                f"the locks of {name} are in {lender.name}, which keeps none by shard; remove bridge.group, or write "
                f"{name} by another bridge",
            )
    except ConfigError:
        pass  # of a registry that is only read, which is a fault already
    return set()
