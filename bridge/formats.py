"""What is kept outside this process says its format: one of a newer isthmus is refused, with the program to run."""

from __future__ import annotations

import msgspec

from bridge.errors import ConfigError


class Formatted(msgspec.Struct, frozen=True):
    """What everything kept says of itself: its format, and the version that wrote it ("": nobody knows)."""

    format: int = 0
    version: str = ""


def format_of(what: str, content: bytes, known: int) -> int:
    """The format of a note. Raises ConfigError where it is above the one that is `known`, ValueError (no note)."""
    said = msgspec.json.decode(content, type=Formatted)
    refuse_newer(f"{what} has", said, known)
    return said.format


def refuse_newer(whose: str, said: Formatted, known: int, or_else: str = "") -> None:
    """Raises ConfigError where a format is above the one that is known. `or_else`: what else may be done about it."""
    if said.format > known:
        raise ConfigError(
            f"{whose} format {said.format}, and this isthmus knows none above {known}; "
            f"run {_newer_one(said.version)}{or_else}"
        )


def _newer_one(version: str) -> str:
    return f"isthmus {version}, which wrote it, or a newer one" if version else "the newer isthmus that wrote it"
