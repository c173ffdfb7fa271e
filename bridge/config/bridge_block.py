"""The block `bridge` of the file: who the bridge is, and where it keeps its things on this host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bridge.config.document import Document
from bridge.config.rules import (
    judge_access,
    judge_globs,
)
from bridge.config.schema import Bridge

OF_FOLDER = ("state", "token_file")  # keys of `bridge` that are paths, beside the file where they are relative
LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|::1|localhost")
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def bridge_block(document: Document, block: Any, folder: Path, env: Mapping[str, str], ephemeral: bool) -> Bridge:
    """The block, with ${ENV} replaced and paths made absolute; what is faulty is noted."""
    if block is None:
        document.fault(("bridge",), "missing; should be a mapping with at least an id")
        return Bridge(id="")
    if isinstance(block, dict):
        block = {key: _expanded(document, one, key, env) for key, one in block.items()}
    bridge = document.build(Bridge, block, ("bridge",))
    if not isinstance(bridge, Bridge):
        return Bridge(id="")
    if bridge.state is None and not ephemeral:
        document.fault(
            ("bridge", "state"), "missing; should be a folder, e.g. /var/lib/isthmus (or run with --ephemeral)"
        )
    if bridge.listen is not None:
        _listen(document, bridge)
    judge_globs(document, bridge.secrets, ("bridge", "secrets"))
    judge_access(document, bridge.access)
    paths = {key: str(beside(folder, path)) for key in OF_FOLDER if (path := getattr(bridge, key)) is not None}
    return msgspec.structs.replace(bridge, **paths)


def _expanded(document: Document, value: Any, key: str, env: Mapping[str, str]) -> Any:
    """A text of the bridge's block with each ${ENV} replaced; what the environment lacks is a fault."""
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        if match[1] not in env:
            document.fault(("bridge", key), f"the environment has no {match[1]}; set it before the start")
        return env.get(match[1], match[0])

    return REFERENCE.sub(lookup, value)


def address(listen: str) -> tuple[str, int]:
    """ "127.0.0.1:9797" or "[::1]:9797" -> host and port. Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is no address and port; write e.g. 127.0.0.1:9797")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether nobody on another machine can reach this host of `listen`."""
    return LOOPBACK.fullmatch(host) is not None


def _listen(document: Document, bridge: Bridge) -> None:
    try:
        host, _ = address(bridge.listen or "")
    except ValueError as error:
        document.fault(("bridge", "listen"), str(error))
        return
    if not is_loopback(host) and bridge.token_file is None:
        document.warn(
            ("bridge", "listen"),
            f"{host} can be reached from outside: without bridge.token_file it answers no /metrics",
        )


def beside(folder: Path, path: str) -> Path:
    """The path, from that folder on where it is relative."""
    return Path(os.path.abspath(folder / Path(path).expanduser()))
