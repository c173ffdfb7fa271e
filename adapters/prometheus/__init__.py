"""The HTTP discovery of Prometheus: every service that leads here as groups of targets, at `/targets`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adapters.common.document import Document
from adapters.common.export import ExportRegistry, picture
from adapters.common.serving import Http, Listening
from bridge.errors import ConfigError
from mappings import prometheus as mapping


class Config(Listening, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Prometheus asks; see `Listening`."""


def create(name: str, config: Config, state: Path | None) -> ExportRegistry:
    """The registry of one block of the file. Raises ConfigError."""
    found = list(config.faults())
    if found:
        raise ConfigError(*found)
    shown = picture(state, name)
    document = Document(shown, mapping.groups, mapping.document)

    def targets(query: Mapping[str, str]) -> bytes:
        wanted = query.get("service")
        return document.body() if wanted is None else document.parts(lambda name: wanted in (str(name), name.name))

    server = Http(config, shown, {"/targets": targets})
    return ExportRegistry(name, mapping.NAME, mapping.TRAITS, mapping.canonical, shown, server)
