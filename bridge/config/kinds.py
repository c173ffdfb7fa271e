"""The kinds of registry there are, and the adapter of each: the only place that makes a registry out of its block."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import msgspec

from bridge import adapter as interface
from bridge.errors import ConfigError, Fault

T = TypeVar("T")

KINDS = {
    "file": "adapters.file",
    "memory": "adapters.memory",
    "etcd": "adapters.etcd",
    "zookeeper": "adapters.zookeeper",
    "consul": "adapters.consul",
    "eureka": "adapters.eureka",
    "kubernetes": "adapters.kubernetes",
    "kafka": "adapters.kafka",
    "xds": "adapters.xds",
    "prometheus": "adapters.prometheus",
    "traefik": "adapters.traefik",
    "nginx": "adapters.nginx",
}
METERS = {"prometheus": "adapters.prometheus.query"}
COUNTERS = {"envoy": "adapters.xds.counting"}
ENTRY_POINTS = "isthmus.adapters"  # kinds that other distributions bring


def adapter(kind: str) -> ModuleType:
    """The adapter's module, with `Config` and `create`. Raises KeyError (unknown kind) or ImportError."""
    if kind in KINDS:
        return importlib.import_module(KINDS[kind])
    for point in entry_points(group=ENTRY_POINTS, name=kind):
        module = point.load()
        if not isinstance(module, ModuleType):
            raise ImportError(f"the entry point {kind} of {ENTRY_POINTS} names no module")
        return module
    raise KeyError(kind)


def kinds() -> frozenset[str]:
    """Every kind of registry there is, ours and those of other distributions."""
    return frozenset(KINDS.keys() | entry_points(group=ENTRY_POINTS).names)


def make(name: str, kind: str, options: Any, state: Path | None) -> interface.Registry:
    """A registry that is not open yet; `state` is where it may keep things. Raises ConfigError, and nothing else."""
    return _asked(lambda: cast(interface.Registry, adapter(kind).create(name, options, state)))


def in_one_place(kind: str, one: Any, other: Any) -> bool:
    """Whether two registries of a kind have a server in common, and one keeps its entries among the other's.

    The adapter says so by a function `place` of its `Config`; one without it keeps nothing that others could reach.
    """
    place = getattr(adapter(kind), "place", None)
    if not callable(place):  # a module of the adapter's may have that name
        return False
    (servers, root), (others, beside) = place(one), place(other)
    return bool(servers & others) and (root.startswith(beside) or beside.startswith(root))


def sink(registry: interface.Registry, bridge: str) -> interface.Sink:
    """The destination side of a registry. Raises ConfigError, and nothing else."""
    return _asked(lambda: registry.sink(bridge))


def seat(registry: interface.Registry, bridge: str, destination: str) -> interface.Seat | None:
    """The seat that a registry has for itself or lends to another destination. Raises ConfigError, and nothing else."""
    return _asked(lambda: registry.seat(bridge, destination))


def meter(kind: str, block: Mapping[str, Any], clock: Callable[[], float]) -> interface.Meter:
    """What answers the queries of a migration; `block`: the keys of its adapter's Config, as the file has them.

    Raises ConfigError, and nothing else.
    """
    module = importlib.import_module(METERS[kind])
    return _asked(lambda: cast(interface.Meter, module.create(msgspec.convert(block, module.Config), clock)))


def counter(kind: str, block: Mapping[str, Any]) -> interface.Counter:
    """What counts requests; `block`: the keys of its adapter's Config. Raises ConfigError, and nothing else."""
    module = importlib.import_module(COUNTERS[kind])
    return _asked(lambda: cast(interface.Counter, module.create(msgspec.convert(block, module.Config))))


def notes(registry: interface.Registry, bridge: str) -> interface.Notes | None:
    """Where the daemons of a bridge keep notes by key, None: that registry keeps none. Raises ConfigError."""
    return _asked(lambda: registry.notes(bridge) if isinstance(registry, interface.Keeper) else None)


def _asked(question: Callable[[], T]) -> T:
    try:
        return question()
    except ConfigError:
        raise
    except Exception as error:  # whatever an adapter raises here, the file that it is raised for cannot be used
        raise ConfigError(Fault(f"cannot be used, because its adapter fails: {str(error) or repr(error)}")) from error
