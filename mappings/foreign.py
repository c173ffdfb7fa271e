"""The marks by which other synchronisers know what they wrote: recognised, and never copied.

A copy of such a mark makes its tool believe that the copy is its own: nacos-sync deletes what carries its
`sourceClusterId`, consul-k8s what carries its tag.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from bridge.model import Instance


class Mark(NamedTuple):
    """A metadata key, or the beginning of one (`*`), that a tool writes; `values`: only these say so, none: any."""

    tool: str
    key: str
    values: frozenset[str] = frozenset()


MARKS = (
    Mark("consul-k8s", "external-source", frozenset({"kubernetes"})),
    Mark("consul-k8s", "external-k8s-*"),
    Mark("consul-aws", "external-source", frozenset({"aws"})),
    Mark("consul-aws", "external-aws-*"),
    Mark("nacos-sync", "sourceClusterId"),
    Mark("nacos-sync", "syncSource"),
    Mark("nacos-sync", "destClusterId"),
    Mark("nacos-sync", "sync.instance.tag"),
    Mark("fsm", "fsm.connector.*"),
    Mark("polaris-sync", "META_SYNC"),
)

# A native registration says with these who made it, which is no mark of a synchroniser; a copy was made by a bridge.
_ORIGINS = ("preserved.register.source",)

KEYS = tuple(dict.fromkeys([*(mark.key for mark in MARKS), *_ORIGINS]))

# Tags, unlike keys, are common words: they are taken away only from what that tool wrote.
_TAGS = {"consul-k8s": frozenset({"k8s"})}


def foreign_tool(instance: Instance) -> str | None:
    """The synchroniser that wrote this instance, None: none that is known. Tags `key=value` count as metadata."""
    for key, value in instance.metadata.items():
        if tool := _tool(key, value):
            return tool
    for tag in instance.tags:
        key, equals, value = tag.partition("=")
        if equals and (tool := _tool(key, value)):
            return tool
    return None


def without_marks(instance: Instance) -> Instance:
    """The instance as it may be copied; the very same object where there is nothing to take away."""
    tags = _TAGS.get(foreign_tool(instance) or "", frozenset())
    kept = {key: value for key, value in instance.metadata.items() if not _is_mark(key)}
    tagged = tuple([tag for tag in instance.tags if tag not in tags and not _is_mark(tag.partition("=")[0])])
    if len(kept) == len(instance.metadata) and len(tagged) == len(instance.tags):
        return instance
    return msgspec.structs.replace(instance, metadata=kept, tags=tagged)


def _tool(key: str, value: str) -> str | None:
    # nacos-sync itself takes a blank value for none.
    return _tool_of(key, value) if _is_mark(key) and value.strip() else None


def _tool_of(key: str, value: str) -> str | None:
    for mark in MARKS:
        if _matches(mark.key, key) and (not mark.values or value in mark.values):
            return mark.tool
    return None


@lru_cache(maxsize=8192)
def _is_mark(key: str) -> bool:
    return any(_matches(known, key) for known in KEYS)


def _matches(known: str, key: str) -> bool:
    return key.startswith(known[:-1]) if known.endswith("*") else key == known
