"""What is never taken over: metadata whose key looks like a secret, and the marks of other synchronisers.

Secrets are not copied, logged, stored or explained. Of another tool's marks its name stays, in `Instance.native`, for
the links to know what it wrote; of secrets, their keys.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bridge.model import CONFIDENTIAL, LOST, Instance, Traits

# A key with what is between it and its value, as JSON (in JSON, too), YAML and URLs (in URLs, too) write it.
_KEY = re.compile(r"""(?<![\w.-])(?:(?<=%)26)?([\w.-]+)\\*["']?(?:\s*[:=]\s*|%3[Dd])""")
_VALUE = re.compile(r"""\\+"[^"]*"|"(?:[^"\\]|\\.)*"|'[^']*'|(?:(?!%26)[^\s,}&"'])+""")


# In Instance.native: the name of the synchroniser that wrote it, and the keys of the secrets that it came with.
TOOL = "foreign-sync"
LEFT_OUT = "left-out"
_BETWEEN = ", "


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
        native = instance.native
        if tool is not None:
            native = {**native, TOOL: tool}
        if len(kept) < len(instance.metadata):
            native = {**native, LEFT_OUT: _BETWEEN.join(sorted(instance.metadata.keys() - kept.keys()))}
        return self._foreign.without(msgspec.structs.replace(instance, metadata=kept, native=native))


def written_by(instance: Instance) -> str | None:
    """The synchroniser that wrote it, of an instance that was scrubbed; None: none that is known."""
    return instance.native.get(TOOL) if instance.native else None


def left_out(instance: Instance) -> list[str]:
    """The keys of the secrets that it came with."""
    text = instance.native.get(LEFT_OUT, "") if instance.native else ""
    return text.split(_BETWEEN) if text else []


def lost(instance: Instance, traits: Traits) -> list[str]:
    """What its record says, and no copy at a place with these traits will: one text a thing, without secrets."""
    if not instance.native:
        return []
    found = [f"metadata {key} (bridge.secrets)" for key in left_out(instance)]
    found += [text for text in (instance.native.get(LOST, ""),) if text]
    for key in instance.native:
        if key.startswith(CONFIDENTIAL) and key != traits.confidential:
            found.append(f"what only {key.removeprefix(CONFIDENTIAL)} may know (a token)")
    return found


def as_written(instance: Instance, traits: Traits) -> Instance:
    """As it may be written at a place with these traits; the very same object where nothing is to be taken away."""
    return _but(instance, lambda key: key in (TOOL, LEFT_OUT, LOST) or _is_secret_of_others(key, traits))


def disclosed(instance: Instance) -> Instance:
    """As it may be kept on a disk; the very same object where nothing is to be taken away."""
    return _but(instance, lambda key: key.startswith(CONFIDENTIAL))


def _is_secret_of_others(key: str, traits: Traits) -> bool:
    return key.startswith(CONFIDENTIAL) and key != traits.confidential


def _but(instance: Instance, goes: Callable[[str], bool]) -> Instance:
    for key in instance.native:
        if goes(key):
            native = {key: value for key, value in instance.native.items() if not goes(key)}
            return msgspec.structs.replace(instance, native=native)
    return instance


def _either(globs: Sequence[str], flags: int = 0) -> Callable[[str], bool]:
    if not globs:
        return lambda _: False
    matches = re.compile("|".join(fnmatch.translate(glob) for glob in globs), flags).match
    return lambda key: matches(key) is not None
