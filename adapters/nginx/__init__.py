"""nginx: a file for each upstream in one folder, tested and loaded again when their bytes changed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec

from adapters.common.export import ExportRegistry, picture
from adapters.nginx.writing import Commands, Unit, Writing
from bridge.errors import ConfigError, Fault
from mappings import nginx as mapping
from mappings.common import naming

Command = tuple[str, ...]
TEST: Command = ("nginx", "-t")
RELOAD: Command = ("nginx", "-s", "reload")


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A folder of files that nginx includes (`include PATH/*.conf;`), and how it is told.

    `test`: a command that accepts the files (exit 0) before `reload` is run; each is a list of words, no shell.
    `result`: instead of commands: where a path unit of root's (deploy/systemd) says what became of the files in `path`.
    `at_most_every`: seconds between two reloads: each costs keep-alive clients their connections.
    `upstream`: the name of an upstream, from {name}, {namespace} and {port}.
    """

    path: str
    test: Command = TEST
    reload: Command = RELOAD
    result: str | None = None
    at_most_every: Annotated[float, msgspec.Meta(ge=0.1, le=3600, extra={"unit": "s"})] = 5.0
    upstream: str = "{name}"


def create(name: str, config: Config, state: Path | None) -> ExportRegistry:
    """The registry of one block of the file. Raises ConfigError."""
    found = list(_faults(config))
    if found:
        raise ConfigError(*found)
    shown, names = picture(state, name), naming.Naming(config.upstream)
    folder = Path(config.path)
    by: Commands | Unit = Commands(folder, config.test, config.reload)
    if config.result is not None:
        by = Unit(folder, Path(config.result))
    writing = Writing(shown, partial(mapping.files, names), by, config.at_most_every)
    form = partial(mapping.canonical, names)
    return ExportRegistry(name, mapping.NAME, mapping.traits(names), form, shown, writing, writing.left)


def _faults(config: Config) -> Iterator[Fault]:
    if not Path(config.path).is_absolute():
        yield Fault(f"{config.path!r} is no absolute path", ("path",))
    if config.result is not None and not Path(config.result).is_absolute():
        yield Fault(f"{config.result!r} is no absolute path", ("result",))
    if config.result is not None and (config.test, config.reload) != (TEST, RELOAD):
        yield Fault("leaves nothing to `test` and `reload`: the path unit's service has them", ("result",))
    for key, command in (("test", config.test), ("reload", config.reload)):
        if not command:
            yield Fault("is empty; write e.g. [nginx, -t]", (key,))
    yield from naming.faults(config.upstream, "upstream")
