"""Traefik's HTTP provider: every service that leads here, at `/traefik`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from string import Formatter

from adapters.common.document import Document
from adapters.common.export import ExportRegistry, picture
from adapters.common.serving import Http, Listening
from bridge.errors import ConfigError, Fault
from mappings import traefik as mapping
from mappings.common import naming


class Config(Listening, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Traefik asks (see `Listening`), and what it is told.

    `service`: the name of a service, from {name}, {namespace} and {port}. `rule`: a router's rule for each service,
    with {service} in it (``Host(`{service}.example`)``); without it there are no routers. `entry_points`: those of
    routers.
    """

    service: str = "{name}"
    rule: str | None = None
    entry_points: tuple[str, ...] = ()


def create(name: str, config: Config, state: Path | None) -> ExportRegistry:
    """The registry of one block of the file. Raises ConfigError."""
    found = list(_faults(config))
    if found:
        raise ConfigError(*found)
    shown, names = picture(state, name), naming.Naming(config.service)
    rule = mapping.Rule(config.rule, config.entry_points) if config.rule is not None else None
    document = Document(shown, partial(mapping.part, names, rule), mapping.document)
    server = Http(config, shown, {"/traefik": lambda query: document.body()})
    form = partial(mapping.canonical, names)
    return ExportRegistry(name, mapping.NAME, mapping.traits(names), form, shown, server)


def _faults(config: Config) -> Iterator[Fault]:
    yield from config.faults()
    yield from naming.faults(config.service, "service")
    if config.rule is not None:
        try:
            fields = [field for _, field, _, _ in Formatter().parse(config.rule) if field is not None]
        except ValueError as error:
            yield Fault(f"is no template: {error}", ("rule",))
            return
        if fields != ["service"] * len(fields) or not fields:
            yield Fault("should have {service} in it, and nothing else in braces", ("rule",))
    elif config.entry_points:
        yield Fault("goes together with rule", ("entry_points",))
