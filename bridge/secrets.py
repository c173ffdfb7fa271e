"""Metadata whose key looks like a secret is never taken over: not copied, logged, stored or explained."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from bridge.model import Instance


# A key with what stands between it and its value, as JSON (in JSON, too), YAML and URLs (in URLs, too) write it.
_KEY = re.compile(r"""(?<![\w.-])(?:(?<=%)26)?([\w.-]+)\\*["']?(?:\s*[:=]\s*|%3[Dd])""")
_VALUE = re.compile(r"""\\+"[^"]*"|"(?:[^"\\]|\\.)*"|'[^']*'|(?:(?!%26)[^\s,}&"'])+""")


class Scrub:
    """Takes secret metadata out of instances; the very same object where there is none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """`patterns`: globs over metadata keys, whatever their case."""
        either = "|".join(fnmatch.translate(pattern) for pattern in patterns)
        matches = re.compile(either, re.IGNORECASE).match if patterns else (lambda _: None)
        self.is_secret = lru_cache(maxsize=10_000)(lambda key: matches(key) is not None)

    def hidden(self, text: str) -> str:
        """A raw record with the values of such keys masked."""
        shown, end = "", 0
        for key in _KEY.finditer(text):
            if key.start() >= end and self.is_secret(key[1]) and (value := _VALUE.match(text, key.end())):
                shown, end = f"{shown}{text[end : key.end()]}***", value.end()
        return shown + text[end:]

    def __call__(self, instance: Instance) -> Instance:
        secret = self.is_secret
        for key in instance.metadata:
            if secret(key):
                break
        else:
            return instance
        kept = {key: value for key, value in instance.metadata.items() if not secret(key)}
        return msgspec.structs.replace(instance, metadata=kept)
