"""Spin 6.5 as Debian ships it, the model checker: no server, and run by the tests as one runs a compiler."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.servers import provide

COMPILER_REMEDY = "install a C compiler (Debian: gcc and libc6-dev)"


def program() -> Path:
    """Spin itself, provided on first use; raises NotProvided, also where what it writes can't be compiled."""
    provide.tool("gcc", COMPILER_REMEDY)
    provide.tool("cpp", COMPILER_REMEDY)
    return provide.provided("spin-6.5", partial(provide.debian, "spin", "6.5")) / "usr/bin/spin"
