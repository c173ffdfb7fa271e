"""How many file descriptors this process may have, and which part of them others may take."""

from __future__ import annotations

import contextlib
import resource

WANTED = 65_536  # a registry takes a few, a connection of a standby or a scrape one each; the rest is reserve
SHARE = 8  # connections of others take at most an eighth: the rest is kept for registries and the disk


def raise_descriptors() -> int:
    """Raises the soft limit towards WANTED, as far as the hard limit lets it; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def share_of_descriptors(most: int) -> int:
    """How many connections one listener may hold: `most`, or its share of a small limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft // SHARE))
