"""Debian's libfaketime, unpacked into the cache and not installed: a daemon whose clock on the wall can be moved."""

from __future__ import annotations

from pathlib import Path

from tests.servers import provide


def environment(offset: Path) -> dict[str, str]:
    """For a process that shall believe the offset which stands in that file, e.g. `-3600`; raises NotProvided."""
    (library,) = provide.provided("libfaketime", _unpack).glob("usr/lib/*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # no clock that jumps moves this one
    }


def _unpack(folder: Path) -> None:
    apt = provide.tool("apt-get", "libfaketime is taken from Debian's package")
    download = folder.with_name("download")
    download.mkdir()
    try:
        provide.run(apt, "download", "libfaketime", folder=download)
    except provide.NotProvided:  # the package lists are missing or old
        provide.run(apt, "update")
        provide.run(apt, "download", "libfaketime", folder=download)
    (package,) = download.glob("libfaketime_*.deb")
    provide.run("dpkg-deb", "--extract", package, folder)
