"""What is never taken over: metadata whose key looks like a secret, and the marks of other synchronisers.

Secrets are not copied, logged, stored or explained. Of another tool's marks its name stays, in `Instance.native`, for
the links to know what it wrote.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bridge.model import Instance

# A key with what stands between it and its value, as JSON (in JSON, too), YAML and URLs (in URLs, too) write it.
_KEY = re.compile(r"""(?<![\w.-])(?:(?<=%)26)?([\w.-]+)\\*["']?(?:\s*[:=]\s*|%3[Dd])""")
_VALUE = re.compile(r"""\\+"[^"]*"|"(?:[^"\\]|\\.)*"|'[^']*'|(?:(?!%26)[^\s,}&"'])+""")


TOOL = "foreign-sync"  # in Instance.native: the name of the synchroniser that wrote it


class Foreign(NamedTuple):
    """How other synchronisers are known: `keys` are globs over metadata keys, and over tags up to their `=`.

    `tool` names the one that wrote an instance; `without` is the instance less its marks.
    """

    keys: Sequence[str] = ()
    tool: Callable[[Instance], str | None] = lambda _: None
    without: Callable[[Instance], Instance] = lambda instance: instance


NOBODY = Foreign()


class Scrub:
    """Takes secrets and foreign marks out of instances; the very same object where there is none."""

    def __init__(self, patterns: Sequence[str], foreign: Foreign = NOBODY) -> None:
        """`patterns`: globs over metadata keys, whatever their case."""
        secret, mark = _either(patterns, re.IGNORECASE), _either(foreign.keys)
        self.is_secret = lru_cache(maxsize=10_000)(secret)
        # One question a key is all that the way of a change can afford.
        self._is_special = lru_cache(maxsize=10_000)(lambda key: secret(key) or mark(key))
        self._is_mark = lru_cache(maxsize=10_000)(lambda tag: mark(tag.partition("=")[0]))
        self._foreign = foreign

    def hidden(self, text: str) -> str:
        """A raw record with the values of such keys masked."""
        shown, end = "", 0
        for key in _KEY.finditer(text):
            if key.start() >= end and self.is_secret(key[1]) and (value := _VALUE.match(text, key.end())):
                shown, end = f"{shown}{text[end : key.end()]}***", value.end()
        return shown + text[end:]

    def __call__(self, instance: Instance) -> Instance:
        special = self._is_special
        for key in instance.metadata:
            if special(key):
                return self._without(instance)
        for tag in instance.tags:
            if self._is_mark(tag):
                return self._without(instance)
        return instance

    def _without(self, instance: Instance) -> Instance:
        tool = self._foreign.tool(instance)
        kept = {key: value for key, value in instance.metadata.items() if not self.is_secret(key)}
        native = {**instance.native, TOOL: tool} if tool is not None else instance.native
        return self._foreign.without(msgspec.structs.replace(instance, metadata=kept, native=native))


def written_by(instance: Instance) -> str | None:
    """The synchroniser that wrote it, of an instance that was scrubbed; None: none that is known."""
    return instance.native.get(TOOL) if instance.native else None


def without_tool(instance: Instance) -> Instance:
    """As it may be written elsewhere; the very same object where nothing is known of its tool."""
    if TOOL not in instance.native:
        return instance
    native = {key: value for key, value in instance.native.items() if key != TOOL}
    return msgspec.structs.replace(instance, native=native)


def _either(globs: Sequence[str], flags: int = 0) -> Callable[[str], bool]:
    if not globs:
        return lambda _: False
    matches = re.compile("|".join(fnmatch.translate(glob) for glob in globs), flags).match
    return lambda key: matches(key) is not None
