"""No adapter offers an optional side of the interfaces by accident, with a method that only has the same name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import adapters
from bridge import adapter


def sides() -> list[type]:
    """The interfaces that are recognised by the names of their methods alone."""
    found = [one for _, one in inspect.getmembers(adapter, inspect.isclass)]
    return [one for one in found if getattr(one, "_is_runtime_protocol", False)]


# What the core asks for sides: sources, sinks and registries, each told by its own methods.
ASKED = ({"watch", "read"}, {"canonical", "held", "apply"}, {"scopes", "sink", "reach"})


def classes() -> Iterator[type]:
    """Every source, sink and registry that an adapter defines."""
    for module in pkgutil.walk_packages(adapters.__path__, "adapters."):
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if one.__module__ == module.name and any(names <= set(dir(one)) for names in ASKED):
                yield one


def methods(side: type) -> dict[str, list[str]]:
    """What a side has that is called, with the names of what is given to it."""
    return {name: _parameters(one) for name, one in vars(side).items() if inspect.isfunction(one) and name[0] != "_"}


def _parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", sides(), ids=lambda side: str(side.__name__))
def test_who_has_the_methods_of_a_side_takes_what_they_are_given(side: type) -> None:
    wanted = methods(side)
    for one in classes():
        if getattr(one, "_is_protocol", False) or not all(callable(getattr(one, name, None)) for name in wanted):
            continue
        for name, parameters in wanted.items():
            assert len(_parameters(getattr(one, name))) == len(parameters), f"{one.__module__}.{one.__name__}.{name}"
