"""Dubbo's rules for one service (`INTERFACE:VERSION:GROUP.configurators`), merged with what others wrote there; pure.

Source: Dubbo 2.7.23 and 3.3.6, as seen. A rule with `side: consumer` changes what consumers make of a provider at the
interface and at the application level, and leaves the provider's own record alone; weight 0 takes it out of service
while another one weighs more. Broken YAML is ignored as a whole, so a rule that cannot be read is never written over.
A rule without `key` is ignored as well, by 3.3 also one with another key, and one of which an item lacks a parameter.
Our part is one item of `configs`, the last one, which is told by a parameter with the id of the bridge: readers before
2.7.9 refuse a rule with a key that they do not know, and take any parameter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import unquote_plus

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from bridge.errors import Rejected

SUFFIX = ".configurators"
OURS = "isthmus"  # the parameter that says whose item it is
_SAFE = re.compile(r"[\w.$-]*").fullmatch
_ADDRESS = re.compile(r"[\w.-]+:[0-9]{1,5}").fullmatch  # a bare IPv6 address in a rule was never seen to work
_EVERY = "0.0.0.0"  # noqa: S104  every consumer
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"
_OFF = ("false", "no", "off")


class Service(NamedTuple):
    """What a rule is of. Consumers listen for the rule of exactly the version and group that they ask for."""

    interface: str
    version: str = ""
    group: str = ""

    @property
    def node(self) -> str:
        """The name of its node. Raises Rejected where consumers would look for another one."""
        for what, text in (("interface", self.interface), ("version", self.version), ("group", self.group)):
            if not _SAFE(text):
                raise Rejected(f"{what} {text!r}: which rule its consumers read was never seen")
        return f"{self.interface}:{self.version}:{self.group}{SUFFIX}"

    @property
    def key(self) -> str:
        """As the rule itself says it (`group/interface:version`)."""
        group = f"{self.group}/" if self.group else ""
        return f"{group}{self.interface}" + (f":{self.version}" if self.version else "")

    @classmethod
    def of(cls, node: str) -> Service:
        """The opposite of `node`."""
        return cls(*node.removesuffix(SUFFIX).split(":"))


def is_address(text: str) -> bool:
    """Whether a rule can name a provider so."""
    return _ADDRESS(text) is not None


def taken_along(address: str, children: Iterable[str]) -> list[str]:
    """The other providers, of these nodes, that a rule with that one takes out as well.

    Dubbo 2.7 (not 3) looks for the address of each provider within the text of all that a rule names: as seen.
    """
    others = {unquote_plus(one).partition("://")[2].partition("/")[0].partition("?")[0] for one in children}
    return sorted(one for one in others - {address} if one and one in address)


def merged(content: bytes | None, of: Service, bridge: str, out: Collection[str]) -> bytes | None:
    """The rule in which exactly these providers (host:port) are out by that bridge; None: no rule is needed.

    The very same bytes where it says so already. Raises Rejected where what stands there cannot be merged with.
    """
    if content is None or not content.strip():
        return _written(_fresh(of, bridge, out)) if out else content
    root = _read(content)
    items = _items(root)
    if out:
        _counts(root, items, of)
    ours = [one for one in items if _owner(one) == bridge]
    if len(ours) == (1 if out else 0) and all(_addresses(one) == sorted(out) for one in ours):
        return content
    kept = [one for one in items if _owner(one) != bridge]
    if not out:
        return _written(_with(root, kept)) if kept or not _is_bare(root) else None
    return _written(_with(root, [*kept, _item(bridge, out)]))


def _counts(root: MappingNode, items: Iterable[Node], of: Service) -> None:
    """Raises Rejected where consumers of Dubbo 2.7 or 3 ignore the rule, and would ignore ours with it: as seen."""
    if (enabled := _of(root, "enabled")) is not None and str(enabled.value).lower() in _OFF:
        raise Rejected(f"the rule of {of.key} is switched off (enabled: {enabled.value}): ours would not count in it")
    if (scope := _of(root, "scope")) is not None and scope.value != "service":
        raise Rejected(f"the rule of {of.key} has scope {scope.value!r}, and should have scope service")
    if (key := _of(root, "key")) is None or key.value != of.key:
        found = "no key" if key is None else f"the key {key.value!r}"
        raise Rejected(f"the rule of {of.key} has {found}, and Dubbo ignores it: give it `key: {of.key}`")
    for one in items:
        said = _of(one, "parameters")
        if not isinstance(said, MappingNode) or not said.value or any(each.tag == _NULL for _, each in said.value):
            raise Rejected(f"an item of the rule of {of.key} lacks a parameter, and Dubbo ignores the whole rule")


def out_by(content: bytes | None, bridge: str) -> list[str]:
    """The providers that a rule has out by that bridge. Raises Rejected where it cannot be read."""
    if content is None or not content.strip():
        return []
    return [address for one in _items(_read(content)) if _owner(one) == bridge for address in _addresses(one)]


def _read(content: bytes) -> MappingNode:
    """As a tree: every scalar stays spelled as it is, for what it means is its reader's to say."""
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"the rule that stands there is no YAML, and Dubbo ignores it: {_first(error)}") from None
    if not isinstance(root, MappingNode):
        raise Rejected("the rule that stands there is no mapping, and Dubbo ignores it")
    return root


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _of(node: Node | None, key: str) -> Node | None:
    if not isinstance(node, MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _items(root: MappingNode) -> list[Node]:
    configs = _of(root, "configs")
    if configs is None or (isinstance(configs, ScalarNode) and configs.value in ("", "null", "~")):
        return []
    if not isinstance(configs, SequenceNode):
        raise Rejected("`configs` of the rule that stands there is no list, and Dubbo ignores it")
    return list(configs.value)


def _owner(item: Node) -> str | None:
    said = _of(_of(item, "parameters"), OURS)
    return str(said.value) if isinstance(said, ScalarNode) else None


def _addresses(item: Node) -> list[str]:
    said = _of(item, "providerAddresses")
    return sorted(str(one.value) for one in said.value) if isinstance(said, SequenceNode) else []


def _is_bare(root: MappingNode) -> bool:
    """Whether nothing but what Isthmus writes is in a rule that has no items: somebody else's may have more."""
    return {str(name.value) for name, _ in root.value} <= {"configVersion", "scope", "key", "enabled", "configs"}


def _with(root: MappingNode, items: list[Node]) -> MappingNode:
    configs = _of(root, "configs")
    if isinstance(configs, SequenceNode):
        style = configs.flow_style if items else True
        made: Node = SequenceNode(configs.tag, items, flow_style=style)
    else:
        made = SequenceNode("tag:yaml.org,2002:seq", items, flow_style=not items)
    pairs = [(name, made if name.value == "configs" else value) for name, value in root.value]
    if configs is None:
        pairs.append((_text("configs"), made))
    return MappingNode(root.tag, pairs, flow_style=root.flow_style)


def _fresh(of: Service, bridge: str, out: Iterable[str]) -> MappingNode:
    plain = {"configVersion": "v2.7", "scope": "service", "key": of.key}
    pairs: list[tuple[Node, Node]] = [(_text(key), _text(value)) for key, value in plain.items()]
    pairs.append((_text("enabled"), ScalarNode("tag:yaml.org,2002:bool", "true")))
    pairs.append((_text("configs"), SequenceNode("tag:yaml.org,2002:seq", [_item(bridge, out)], flow_style=False)))
    return MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)


def _item(bridge: str, out: Iterable[str]) -> MappingNode:
    """All values are texts: a reader that takes parameters for texts fails at a number."""

    def several(texts: Iterable[str]) -> SequenceNode:
        return SequenceNode("tag:yaml.org,2002:seq", [_text(one, '"') for one in texts], flow_style=True)

    parameters = [(_text("weight"), _text("0", '"')), (_text(OURS), _text(bridge, '"'))]
    pairs: list[tuple[Node, Node]] = [
        (_text("side"), _text("consumer")),
        (_text("addresses"), several([_EVERY])),
        (_text("providerAddresses"), several(sorted(out))),
        (_text("parameters"), MappingNode("tag:yaml.org,2002:map", parameters, flow_style=False)),
    ]
    return MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)


def _text(value: str, style: str | None = None) -> ScalarNode:
    return ScalarNode(_TEXT, value, style=style)


def _written(root: MappingNode) -> bytes:
    made: str = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=1_000_000)
    return made.encode()
