"""The JSON Schema of the file, for editors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from bridge.config.kinds import KINDS, adapter
from bridge.config.registries import COMMON
from bridge.config.schema import Bridge, Link, Network
from bridge.migration.block import Migration
from bridge.override import Override
from bridge.units import ALSO


def schema(kinds: Iterable[str] = KINDS) -> dict[str, Any]:
    """The JSON Schema of the whole file, with these kinds of registry, for editors; by default every built-in one."""
    shapes = {kind: adapter(kind).Config for kind in kinds}
    (bridge, link, network, override, migration, *configs), parts = msgspec.json.schema_components(
        (Bridge, Link, Network, Override, Migration, *shapes.values()), ref_template="#/$defs/{name}"
    )
    for one in parts["GuardFor"]["properties"].values():
        one.pop("default", None)  # what it does not say is as in `guard`
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
            "networks": {"type": "object", "additionalProperties": network},
            "links": {"type": "array", "items": link},
            "migrations": {"type": "array", "items": migration},
            "overrides": {"type": "array", "items": override},
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
    common = {key: {**msgspec.json.schema(shape), "default": default} for key, (shape, default) in COMMON.items()}
    return {
        **config,
        "title": kind,
        "properties": {"kind": {"const": kind}, **config["properties"], **common},
        "required": ["kind", *config.get("required", ())],
    }
