"""The configuration file, read and judged with all its faults at once; its types are in `bridge.blocks`."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

from bridge.blocks import Bridge, Configuration, ForeignSync, Link, Name, Registry
from bridge.document import ALSO, Document, Place, nearest
from bridge.errors import ConfigError
from bridge.judge import judge_globs, judge_link, judge_pairs
from bridge.link import Unhealthy
from bridge.model import Traits
from bridge.secrets import Foreign
from mappings import foreign, pairs

__all__ = ["Bridge", "Configuration", "Registry", "adapter", "load", "parse", "schema"]

KINDS = {
    "file": "adapters.file",
    "memory": "adapters.memory",
    "etcd": "adapters.etcd",
    "zookeeper": "adapters.zookeeper",
}
ENTRY_POINTS = "isthmus.adapters"  # kinds that other distributions bring

FOREIGN = Foreign(foreign.KEYS, foreign.foreign_tool, foreign.without_marks)
FOREIGN_SYNC = {**msgspec.json.schema(ForeignSync), "default": "ignore"}

LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|::1|localhost")
FILE_KEYS = re.compile(r"path|ca|cert|key|.+_file")
SECRET_KEYS = re.compile(
    r".*(password|passwd|passphrase|token|secret|credential|api_?key|private_?key).*", re.IGNORECASE
)
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
LOGIN = re.compile(r"://[^/@\s]*:(?!\$\{)[^/@\s]+@")


def load(path: Path, env: Mapping[str, str] = os.environ, *, ephemeral: bool = False) -> Configuration:
    """Reads and judges the file; raises ConfigError with every fault there is.

    `ephemeral`: bridge.state may be missing. Paths inside the file are relative to the file's folder.
    """
    return parse(path, Document.read(path), env, ephemeral=ephemeral)


def parse(path: Path, document: Document, env: Mapping[str, str], *, ephemeral: bool) -> Configuration:
    """As `load`, for a text that comes from elsewhere (the last accepted file) and stands for the file at `path`."""
    top = document.data
    if not isinstance(top, dict):
        raise ConfigError(f"{document.name}:1: should be a mapping with the keys bridge, registries and links")
    for key in top.keys() - {"bridge", "registries", "links"}:
        document.fault((key,), f"unknown key; {nearest(key, ('bridge', 'registries', 'links'))}")
    bridge = _bridge(document, top.get("bridge"), path.parent, ephemeral)
    registries = _registries(document, top.get("registries"), path.parent, env)
    links = _links(document, top.get("links", []), registries)
    if document.faults:
        raise ConfigError(*sorted(document.faults, key=_line))
    digest = hashlib.sha256(msgspec.json.encode(top, order="deterministic")).hexdigest()[:12]
    return Configuration(
        bridge=bridge,
        registries={name: one for name, one in registries.items() if one is not None},
        links=tuple(link.settled() for link in links),
        warnings=tuple(sorted(document.warnings, key=_line)),
        hash=digest,
        path=path,
    )


def adapter(kind: str) -> ModuleType:
    """The adapter's module, with `Config` and `create`. Raises KeyError (unknown kind) or ImportError."""
    if kind in KINDS:
        return importlib.import_module(KINDS[kind])
    for point in entry_points(group=ENTRY_POINTS, name=kind):
        module = point.load()
        if not isinstance(module, ModuleType):
            raise ImportError(f"the entry point {kind} of {ENTRY_POINTS} names no module")
        return module
    raise KeyError(kind)


def kinds() -> frozenset[str]:
    """Every kind of registry there is, ours and those of other distributions."""
    return frozenset(KINDS.keys() | entry_points(group=ENTRY_POINTS).names)


def schema() -> dict[str, Any]:
    """The JSON Schema of the whole file, with every built-in kind of registry, for editors."""
    shapes = {kind: adapter(kind).Config for kind in KINDS}
    (bridge, link, *configs), parts = msgspec.json.schema_components(
        (Bridge, Link, *shapes.values()), ref_template="#/$defs/{name}"
    )
    registries = [
        _with_kind(kind, parts[config["$ref"].rpartition("/")[2]]) for kind, config in zip(shapes, configs, strict=True)
    ]
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Isthmus",
        "type": "object",
        "properties": {
            "bridge": bridge,
            "registries": {"type": "object", "minProperties": 1, "additionalProperties": {"oneOf": registries}},
            "links": {"type": "array", "items": link},
        },
        "required": ["bridge", "registries"],
        "additionalProperties": False,
        "$defs": parts,
    }
    return cast("dict[str, Any]", _either(whole))


def _either(part: Any) -> Any:
    """The schema with "also" beside "type" made one list of types."""
    if isinstance(part, list):
        return [_either(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: _either(one) for key, one in part.items() if key != ALSO}
    return made | {"type": [part["type"], part[ALSO]]} if ALSO in part else made


def _with_kind(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        **config,
        "title": kind,
        "properties": {"kind": {"const": kind}, **config["properties"], "foreign_sync": FOREIGN_SYNC},
        "required": ["kind", *config.get("required", ())],
    }


def _line(fault: str) -> int:
    match = re.search(r":(\d+): ", fault)
    return int(match[1]) if match else 0


# --- the bridge block


def _bridge(document: Document, block: Any, folder: Path, ephemeral: bool) -> Bridge:
    if block is None:
        document.fault(("bridge",), "missing; should be a mapping with at least an id")
        return Bridge(id="")
    bridge = document.build(Bridge, block, ("bridge",))
    if not isinstance(bridge, Bridge):
        return Bridge(id="")
    if bridge.state is None and not ephemeral:
        document.fault(
            ("bridge", "state"), "missing; should be a folder, e.g. /var/lib/isthmus (or run with --ephemeral)"
        )
    if bridge.listen is not None:
        _listen(document, bridge.listen)
    judge_globs(document, bridge.secrets, ("bridge", "secrets"))
    if bridge.state is None:
        return bridge
    return msgspec.structs.replace(bridge, state=str(_beside(folder, bridge.state)))


def address(listen: str) -> tuple[str, int]:
    """ "127.0.0.1:9797" or "[::1]:9797" -> host and port. Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is no address and port; write e.g. 127.0.0.1:9797")
    return host, int(port)


def _listen(document: Document, listen: str) -> None:
    try:
        host, _ = address(listen)
    except ValueError as error:
        document.fault(("bridge", "listen"), str(error))
        return
    if not LOOPBACK.fullmatch(host):
        document.warn(("bridge", "listen"), f"{host} can be reached from outside; 127.0.0.1 cannot")


def _beside(folder: Path, path: str) -> Path:
    return Path(os.path.abspath(folder / Path(path).expanduser()))


# --- the registries


def _registries(document: Document, block: Any, folder: Path, env: Mapping[str, str]) -> dict[str, Registry | None]:
    """By name; None for one that is there and faulty."""
    place: Place = ("registries",)
    if not isinstance(block, dict) or not block:
        document.fault(place, "missing; should be a mapping of a name to a registry, at least one")
        return {}
    names = document.build(dict[Name, Any], block, place)
    return {name: _registry(document, name, block[name], (*place, name), folder, env) for name in names}


def _registry(
    document: Document, name: str, block: Any, place: Place, folder: Path, env: Mapping[str, str]
) -> Registry | None:
    kind = block.get("kind", "") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        document.fault(place, "should be a mapping with at least a kind")
        return None
    try:
        shape = adapter(kind).Config
    except KeyError:
        said = f"{kind!r} is unknown" if kind else "missing"
        document.fault((*place, "kind"), f"{said}; {nearest(kind, kinds())}")
        return None
    except ImportError as error:
        document.fault((*place, "kind"), f"{kind} cannot be used here: {error}; install what it needs")
        return None
    before = len(document.faults)
    revealed: dict[str, str] = {}
    given = {
        key: _settle(document, one, (*place, key), folder, env, revealed)
        for key, one in block.items()
        if key not in ("kind", "foreign_sync")
    }
    options = document.build(shape, given, place)
    foreign_sync = document.build(ForeignSync, block.get("foreign_sync", "ignore"), (*place, "foreign_sync"))
    document.faults[before:] = [_hide(fault, revealed) for fault in document.faults[before:]]
    if len(document.faults) > before:
        return None
    return Registry(name=name, kind=kind, options=options, foreign_sync=foreign_sync)


def _settle(
    document: Document, value: Any, place: Place, folder: Path, env: Mapping[str, str], revealed: dict[str, str]
) -> Any:
    """A registry's value with ${ENV} expanded and paths made absolute; plain secrets are faults."""
    if isinstance(value, dict):
        return {key: _settle(document, one, (*place, key), folder, env, revealed) for key, one in value.items()}
    if isinstance(value, list):
        return [_settle(document, one, (*place, index), folder, env, revealed) for index, one in enumerate(value)]
    key = next((step for step in reversed(place) if isinstance(step, str)), "")
    is_path = FILE_KEYS.fullmatch(key) is not None
    secret = SECRET_KEYS.fullmatch(key) is not None and not is_path and value is not None
    if secret and not (isinstance(value, str) and REFERENCE.fullmatch(value)):
        document.fault(place, f"a secret must not stand in this file; write {key}_file: FILE or {key}: ${{ENV}}")
        return "***"
    if not isinstance(value, str):
        return value
    if LOGIN.search(value):
        document.fault(place, "a password must not stand in this file; write it as ${ENV} or use the keys for it")
        return "***"

    def lookup(match: re.Match[str]) -> str:
        if match[1] not in env:
            document.fault(place, f"the environment has no {match[1]}; set it before the start")
            return match[0]
        revealed[match[1]] = env[match[1]]
        return env[match[1]]

    value = REFERENCE.sub(lookup, value)
    return str(_beside(folder, value)) if is_path and value else value


def _hide(text: str, revealed: Mapping[str, str]) -> str:
    for name, value in revealed.items():
        if len(value) > 3:  # shorter ones are no secret, and would mangle every text
            text = text.replace(value, f"${{{name}}}")
    return text


# --- the links


def _links(document: Document, block: Any, registries: Mapping[str, Registry | None]) -> tuple[Link, ...]:
    if not isinstance(block, list):
        document.fault(("links",), "should be a list")
        return ()
    links: list[Link] = []
    for index, one in enumerate(block):
        if isinstance(one, dict) and isinstance(one.get("from"), str):
            one = {**one, "from": [one["from"]]}
        link = document.build(Link, one, ("links", index))
        if isinstance(link, Link):
            link = link if link.name else msgspec.structs.replace(link, name=_default_name(link))
            links.append(link)
            judge_link(document, link, ("links", index), registries)
            _judge_layouts(document, link, ("links", index), registries)
            _judge_target(document, link, ("links", index), registries)
    judge_pairs(document, links)
    used = {name for link in links for name in (*(link.from_ or ()), link.to)}
    for name in registries.keys() - used:
        document.warn(("registries", name), "no link names this registry")
    return tuple(links)


def pair_of(source: Registry, target: Registry) -> pairs.Pair | None:
    """What the table of pairs says of the layouts of two registries; None: it does not know them (kinds of others)."""
    one, other = (str(getattr(registry.options, "layout", registry.kind)) for registry in (source, target))
    return pairs.pair(one, other) if pairs.TRAITS.keys() >= {one, other} else None


def _judge_layouts(document: Document, link: Link, place: Place, registries: Mapping[str, Registry | None]) -> None:
    target = registries.get(link.to or "")
    for name in link.from_ or ():
        source = registries.get(name)
        pair = pair_of(source, target) if source and target else None
        if pair is not None and pair.verdict == "refused":
            document.fault((*place, "to"), f"{name} cannot be written to {link.to}: {pair.why}; use another layout")


def _judge_target(document: Document, link: Link, place: Place, registries: Mapping[str, Registry | None]) -> None:
    """What a link asks of its target that the target cannot do."""
    target = registries.get(link.to or "")
    if target is None:
        return
    traits: Traits = adapter(target.kind).create(target.name, target.options, None).traits
    if link.lifetime == "leased" and not traits.leases:
        document.fault((*place, "lifetime"), f"{target.kind} has no leases; should be lasting")
    if link.unhealthy is Unhealthy.MARK and not traits.has_health:
        document.fault((*place, "unhealthy"), f"{link.to} has no health to mark; should be withdraw")


def _default_name(link: Link) -> str:
    return f"{'-'.join(name or '' for name in link.from_ or ())}-to-{link.to}"
