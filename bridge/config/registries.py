"""The blocks `registries` and `networks` of the file: each registry as its adapter wants it, secrets looked up."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bridge import adapter as interface
from bridge.config.bridge_block import REFERENCE, beside
from bridge.config.document import Document, Place, nearest
from bridge.config.kinds import adapter, kinds, make
from bridge.config.rules import (
    judge_ranges,
)
from bridge.config.schema import ForeignSync, Name, Network, Registry
from bridge.errors import ConfigError
from bridge.sources.networks import DEFAULT
from bridge.sources.scrub import Foreign
from mappings import foreign

FOREIGN = Foreign(foreign.KEYS, foreign.foreign_tool, foreign.without_marks)
# Keys of every registry's block, whatever its kind, each with its type and default.
COMMON: Mapping[str, tuple[Any, str]] = {"foreign_sync": (ForeignSync, "ignore"), "network": (Name, DEFAULT)}
FILE_KEYS = re.compile(r"path|ca|cert|key|kubeconfig|.+_file")
SECRET_KEYS = re.compile(
    r".*(password|passwd|passphrase|token|secret|credential|api_?key|private_?key).*", re.IGNORECASE
)
LOGIN = re.compile(r"://[^/@\s]*:(?!\$\{)[^/@\s]+@")


def registries_block(
    document: Document, block: Any, folder: Path, env: Mapping[str, str], made: dict[str, interface.Registry]
) -> dict[str, Registry | None]:
    """By name; None for one that is there and faulty. Those without a fault are `made`, so that each adapter judges."""
    place: Place = ("registries",)
    if not isinstance(block, dict) or not block:
        document.fault(place, "missing; should be a mapping of a name to a registry, at least one")
        return {}
    names = document.build(dict[Name, Any], block, place)
    return {name: _registry(document, name, block[name], (*place, name), folder, env, made) for name in names}


def _registry(
    document: Document,
    name: str,
    block: Any,
    place: Place,
    folder: Path,
    env: Mapping[str, str],
    made: dict[str, interface.Registry],
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
        key: _resolved(document, one, (*place, key), folder, env, revealed)
        for key, one in block.items()
        if key != "kind" and key not in COMMON
    }
    options = document.build(shape, given, place)
    common = {
        key: document.build(one, block.get(key, default), (*place, key)) for key, (one, default) in COMMON.items()
    }
    if len(document.faults) == before:
        adapters_own(document, place, lambda: made.__setitem__(name, make(name, kind, options, None)))
    document.faults[before:] = [_hide(fault, revealed) for fault in document.faults[before:]]
    if len(document.faults) > before:
        return None
    return Registry(name=name, kind=kind, options=options, **common)


def adapters_own(document: Document, place: Place, question: Callable[[], object]) -> None:
    """Notes the faults that only the adapter can find, each at the line of its key."""
    try:
        question()
    except ConfigError as error:
        for fault in error.found:
            document.fault((*place, *fault.key), fault.text)


def _resolved(
    document: Document, value: Any, place: Place, folder: Path, env: Mapping[str, str], revealed: dict[str, str]
) -> Any:
    """A registry's value with ${ENV} expanded and paths made absolute; plain secrets are faults."""
    if isinstance(value, dict):
        return {key: _resolved(document, one, (*place, key), folder, env, revealed) for key, one in value.items()}
    if isinstance(value, list):
        return [_resolved(document, one, (*place, index), folder, env, revealed) for index, one in enumerate(value)]
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
    return str(beside(folder, value)) if is_path and value else value


def _hide(text: str, revealed: Mapping[str, str]) -> str:
    for name, value in revealed.items():
        if len(value) > 3:  # shorter ones are no secret, and would mangle every text
            text = text.replace(value, f"${{{name}}}")
    return text


def networks_block(
    document: Document, block: Any, registries: Mapping[str, Registry | None]
) -> dict[str, tuple[str, ...]]:
    """The stated ranges of networks, by name; what is faulty is noted."""
    found = document.build(dict[Name, Network], block, ("networks",)) or {}
    ranges = {name: one.cidrs for name, one in found.items() if isinstance(one, Network) and one.cidrs is not None}
    judge_ranges(document, ranges, {one.network for one in registries.values() if one is not None})
    return ranges
