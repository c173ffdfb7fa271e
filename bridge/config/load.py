"""The configuration file, read and judged with all its faults at once; its types are in `bridge.config.schema`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bridge import adapter as interface
from bridge.config.bridge_block import bridge_block
from bridge.config.document import Document, nearest
from bridge.config.links import links_block
from bridge.config.migrations import migrations_block
from bridge.config.overrides import overrides_block
from bridge.config.registries import networks_block, registries_block
from bridge.config.schema import Bridge, Configuration
from bridge.errors import ConfigError

OF_HOST = ("state", "listen", "token_file")  # keys of `bridge` in which the daemons of one bridge may differ
OF_EXPORT = ("listen",)  # likewise, of the block of an export
TOP = ("bridge", "registries", "networks", "links", "overrides", "migrations")
KEYS = 400  # of a file whose hashes other hosts get one by one


def load(path: Path, env: Mapping[str, str] = os.environ, *, ephemeral: bool = False) -> Configuration:
    """Reads and judges the file; raises ConfigError with every fault there is.

    `ephemeral`: bridge.state may be missing. Paths inside the file are relative to the file's folder.
    """
    return parse(path, Document.read(path), env, ephemeral=ephemeral)


def parse(path: Path, document: Document, env: Mapping[str, str], *, ephemeral: bool) -> Configuration:
    """As `load`, for a text that is read in the place of the file at `path`, e.g. the last accepted one."""
    top = document.data
    if not isinstance(top, dict):
        raise ConfigError(f"{document.name}:1: should be a mapping with the keys bridge, registries and links")
    for key in top.keys() - set(TOP):
        document.fault((key,), f"unknown key; {nearest(key, TOP)}")
    bridge = bridge_block(document, top.get("bridge"), path.parent, env, ephemeral)
    made: dict[str, interface.Registry] = {}
    registries = registries_block(document, top.get("registries"), path.parent, env, made)
    ranges = networks_block(document, top.get("networks", {}), registries)
    links = links_block(document, top.get("links", []), registries, made, bridge)
    moves = top.get("migrations", [])
    migrations = migrations_block(document, moves, registries, links, bridge, path.parent)
    overrides = overrides_block(document, top.get("overrides", []), registries, links)
    if document.faults:
        raise ConfigError(*sorted(document.faults, key=_line))
    shared = {
        **top,
        "bridge": {key: value for key, value in top["bridge"].items() if key not in OF_HOST},
        "registries": {name: _shared(block, made.get(name)) for name, block in top["registries"].items()},
    }
    return Configuration(
        bridge=bridge,
        registries={name: one for name, one in registries.items() if one is not None},
        links=tuple(link.for_core() for link in links),
        warnings=tuple(sorted(document.warnings, key=_line)),
        hash=_digest(shared)[:12],
        path=path,
        keys=_keys(shared),
        ranges=ranges,
        migrations=migrations,
        overrides=overrides,
    )


def _shared(block: Any, registry: interface.Registry | None) -> Any:
    """What the daemons of one bridge have in common of a registry's block: each serves an export at its own address."""
    if not isinstance(registry, interface.Export):
        return block
    return {key: value for key, value in block.items() if key not in OF_EXPORT}


def _digest(block: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(block, order="deterministic")).hexdigest()


def _keys(top: Mapping[str, Any]) -> dict[str, str]:
    """A hash by key, for whoever compares two files; by block alone where there are too many to be told to others."""
    blocks = [block for block in TOP if isinstance(top.get(block), dict)]
    found = {f"{block}.{key}": one for block in blocks for key, one in top[block].items()}
    for one in top.get("links", []):
        found[f"links.{_outlined(one)}"] = one
    if top.get("overrides"):
        found["overrides"] = top["overrides"]
    return {key: _digest(one)[:8] for key, one in (found if len(found) <= KEYS else top).items()}


class Outline(NamedTuple):
    """What a file says of the bridge itself, and the names in it; its registries are neither read nor judged."""

    path: Path
    bridge: Bridge
    registries: tuple[str, ...]
    links: tuple[str, ...]


def outline(path: Path, env: Mapping[str, str] = os.environ) -> Outline:
    """The outline of a file; raises ConfigError for faults of its bridge block alone."""
    document = Document.read(path)
    top = document.data if isinstance(document.data, dict) else {}
    bridge = bridge_block(document, top.get("bridge"), path.parent, env, ephemeral=True)
    if document.faults:
        raise ConfigError(*sorted(document.faults, key=_line))
    registries, links = top.get("registries"), top.get("links")
    return Outline(
        path,
        bridge,
        tuple(registries) if isinstance(registries, dict) else (),
        tuple(_outlined(one) for one in links if isinstance(one, dict)) if isinstance(links, list) else (),
    )


def _outlined(block: dict[str, Any]) -> str:
    sources = block.get("from")
    names = [sources] if isinstance(sources, str) else sources if isinstance(sources, list) else []
    return str(block.get("name") or f"{'-'.join(map(str, names))}-to-{block.get('to')}")


def _line(fault: str) -> int:
    match = re.search(r":(\d+): ", fault)
    return int(match[1]) if match else 0
