"""Disks that refuse or hang, for the tests of what is written: real ones, where the tests may mount them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBC = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2  # of <sys/mount.h>


@contextlib.contextmanager
def tiny(folder: Path, size: str = "256k", inodes: int = 1024) -> Iterator[Path]:
    """A file system of that size, with so many files at most, in memory at `folder`; skips where nobody may mount."""
    folder.mkdir(exist_ok=True)
    options = f"size={size},nr_inodes={inodes},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "isthmus-test", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the options of a file system of `tiny`, e.g. to "ro"."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def fill(folder: Path) -> Path:
    """Leaves no byte free; returns the file to be removed."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


def crowd(folder: Path) -> list[Path]:
    """Leaves no room for one more file; returns those to be removed."""
    made: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            path = folder / f"ballast-{len(made)}"
            path.touch()
            made.append(path)
    return made


@contextlib.contextmanager
def hung(folder: Path, within: float = 20.0) -> Iterator[None]:
    """A disk that answers nothing is mounted over `folder`: whoever looks at a path in it waits until this is left.

    A file system in user space whose server says nothing; skips where nobody may mount. Where somebody still waits
    after `within` seconds though the test goes on only behind it, the disk fails, and so does the test.
    """
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no file system in user space here: {error}")
    ended = threading.Event()
    late = False

    def let_go() -> None:
        nonlocal late
        late = not ended.wait(within)
        os.close(server)  # everybody who waits gets an error

    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    if LIBC.mount(b"isthmus-test", os.fsencode(folder), b"fuse", 0, options):
        os.close(server)
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    watching = threading.Thread(target=let_go)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
        LIBC.umount2(os.fsencode(folder), MNT_DETACH)
    assert not late, f"nothing went on for {within:g} s while a disk hung"
