"""Deliberate breakages of the code under test, each of which some history must find."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from unittest import mock

By = TypeVar("By")

Replacements = Sequence[tuple[Any, str, Any]]  # owner, attribute, by what


class Mutant(NamedTuple, Generic[By]):
    """What is replaced, what that breaks, and by which histories that is to be found."""

    breaks: str
    found_by: By
    replaced: Callable[[], Replacements]


@contextlib.contextmanager
def applied(mutant: Mutant[Any]) -> Iterator[None]:
    """Inside, the code is broken in this way."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, value in mutant.replaced():
            stack.enter_context(mock.patch.object(owner, attribute, value))
        yield
