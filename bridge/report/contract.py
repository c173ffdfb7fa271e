"""What other tools may rely on of a stream: an AsyncAPI 3 document with the JSON Schemas of all events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bridge.report.happenings import NOTED, OBSERVED, PREFIX, TYPES, Happening

VERSION = "1.0.0"  # the first number changes with what breaks readers: never, for types are versioned by name
OPTIONAL = {"ce_traceparent": {"type": "string"}}  # CloudEvents' extension "Distributed Tracing"
HEADERS = ("specversion", "id", "source", "type", "subject", "time", "partitionkey", "sequence")


def contract(state: Mapping[str, type | None]) -> dict[str, Any]:
    """The whole document. `state`: the events of the state topic by type, with their data; None: a tombstone."""
    logged = sorted({PREFIX + name for name in (*OBSERVED, *TYPES.values(), NOTED)})
    shapes = [one for one in state.values() if one is not None]
    found, schemas = msgspec.json.schema_components((*shapes, Happening), ref_template="#/components/schemas/{name}")
    payloads: dict[str, Any] = dict(zip((name for name, one in state.items() if one is not None), found, strict=False))
    messages = {name: _message(name, payloads.get(name)) for name in state}
    messages |= {name: _message(name, found[-1]) for name in logged}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Isthmus: what it publishes on Kafka",
            "version": VERSION,
            "description": "CloudEvents 1.0 in binary mode. Readers ignore properties and types that they do not know.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "state": _channel("isthmus.state", "The latest of every instance; compacted.", state),
            "changes": _channel("isthmus.changes", "What happened, in the order of each service.", logged),
        },
        "operations": {
            name: {"action": "receive", "channel": {"$ref": f"#/channels/{name}"}} for name in ("state", "changes")
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def _channel(address: str, description: str, types: Any) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in types},
    }


def _message(name: str, payload: Any) -> dict[str, Any]:
    required = {f"ce_{header}": {"type": "string"} for header in HEADERS}
    return {
        "name": name,
        "headers": {
            "type": "object",
            "properties": {**required, "ce_type": {"const": name}, "ce_cause": {"type": "string"}, **OPTIONAL},
            "required": sorted(required.keys() - {"ce_subject"}),
        },
        "payload": payload if payload is not None else {"type": "null"},
    }
