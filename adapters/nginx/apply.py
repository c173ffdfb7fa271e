"""`isthmus-nginx`: root's part under systemd: takes over the files of a bridge that has no rights, tests, and reloads.

The bridge's folder is its user's, and nginx reads what it includes as root. So nothing of it is included: what is there
is read without following links, has to be an upstream of servers by IP address and nothing else, and is written again
into root's folder. What the test refuses is taken back.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.nginx.files import END, bring
from bridge.errors import Unavailable
from mappings import nginx as mapping

REQUEST = ".request"  # in the bridge's folder: what it asks for, which the path unit watches
LARGEST = 4 << 20  # bytes of one file
MOST = 20_000  # files

_LINE = re.compile(r"    server (\[[0-9a-f:.]+\]|[0-9.]+):([0-9]{1,5})(?: weight=[0-9]{1,10})?(?: down)?;").fullmatch


class Result(msgspec.Struct, frozen=True):
    """What became of a request. `wrong`: why it was not carried out, "" if it was; `reloaded`: whether it had to be."""

    request: str
    wrong: str
    at: float
    reloaded: bool = False


def main(words: Sequence[str] | None = None) -> int:
    """Carries out one request; exit status 1 where it could not, and the result says why in both cases."""
    parser = argparse.ArgumentParser(prog="isthmus-nginx", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="the folder that the bridge writes")
    parser.add_argument("target", type=Path, help="the folder that nginx includes, which nobody but root may write")
    parser.add_argument("result", type=Path, help="the file that says what became of it")
    parser.add_argument("--test", default="nginx -t", help="accepts the files")
    parser.add_argument("--reload", default="nginx -s reload", help="has nginx read them")
    said = parser.parse_args(words)
    request = ""
    try:
        said.target.mkdir(exist_ok=True)
        request = read(said.source / REQUEST).decode(errors="replace")[:200].strip()
        reloaded = bring(said.target, upstreams(said.source), shlex.split(said.test), shlex.split(said.reload))
        found = Result(request, "", time.time(), reloaded)
    except (OSError, subprocess.SubprocessError, ValueError, Unavailable) as error:
        found = Result(request, str(error)[:1000], time.time())
    draft = said.result.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(found))
    draft.chmod(0o644)
    draft.replace(said.result)
    if found.wrong:
        sys.stderr.write(f"isthmus-nginx: {found.wrong}\n")
    return 1 if found.wrong else 0


def upstreams(source: Path) -> dict[str, bytes]:
    """The files of the bridge by upstream. Raises ValueError where one is not what a bridge writes, or OSError."""
    paths = sorted(source.glob(f"*{END}"))
    if len(paths) > MOST:
        raise ValueError(f"{len(paths)} files: at most {MOST} are taken")
    found = {}
    for path in paths:
        content = read(path)
        if fault := wrong(path.stem, content):
            raise ValueError(f"{path}: {fault}, which no bridge writes: nothing is taken over")
        found[path.stem] = content
    return found


def read(path: Path) -> bytes:
    """A regular file of at most LARGEST bytes, no link. Raises OSError or ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path} is longer than {LARGEST} bytes")
    return content


def wrong(upstream: str, content: bytes) -> str:
    """What is not as `mappings.nginx` writes it, "" if all is; never the content itself, which may be a secret's."""
    head, *lines = content.decode(errors="replace").split("\n")
    if not mapping.is_safe(upstream) or head != mapping.HEAD or lines[:1] != [f"upstream {upstream} {{"]:
        return "its first lines are no upstream's of its name"
    if lines[-2:] != ["}", ""] or len(lines) < 4:
        return "it does not end as an upstream does"
    for number, line in enumerate(lines[1:-2], start=3):
        server = _LINE(line)
        if server is None or not _is_place(server[1], server[2]):
            return f"line {number} is no server by IP address and port"
    return ""


def _is_place(host: str, port: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return 0 < int(port) < 65536


if __name__ == "__main__":
    sys.exit(main())
