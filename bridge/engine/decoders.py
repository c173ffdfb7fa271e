"""The types of all that is decoded are prepared before any thread decodes: msgspec is not safe while it prepares one.

The first time that a type is decoded msgspec (seen in 0.22.0) makes a table of its fields, and lets other threads use
it while it is half made: the process dies of a null pointer, at its start, where threads decode beside the loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

prepared: set[type[msgspec.Struct]] = set()


def prepare() -> frozenset[type[msgspec.Struct]]:
    """Prepares every type of the modules that are imported by now, in this thread; those that cannot be decoded."""
    refused = set()
    for kind in _below(msgspec.Struct):
        if kind not in prepared:
            prepared.add(kind)
            try:
                msgspec.json.Decoder(kind)
            except (TypeError, NameError):  # nobody can decode it, in any thread
                refused.add(kind)
    return frozenset(refused)


def _below(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
