"""Metadata whose key looks like a secret is never taken over: not copied, logged, stored or explained."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from bridge.model import Instance


class Scrub:
    """Takes secret metadata out of instances; the very same object where there is none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """`patterns`: globs over metadata keys, whatever their case."""
        either = "|".join(fnmatch.translate(pattern) for pattern in patterns)
        matches = re.compile(either, re.IGNORECASE).match if patterns else (lambda _: None)
        self.is_secret = lru_cache(maxsize=10_000)(lambda key: matches(key) is not None)

    def __call__(self, instance: Instance) -> Instance:
        secret = self.is_secret
        for key in instance.metadata:
            if secret(key):
                break
        else:
            return instance
        kept = {key: value for key, value in instance.metadata.items() if not secret(key)}
        return msgspec.structs.replace(instance, metadata=kept)
