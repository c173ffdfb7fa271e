"""What the machine and a process spent, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class Times(NamedTuple):
    """Seconds of all cores since boot: busy in any way, and stolen by other machines on the same hardware."""

    busy: float
    stolen: float


def cpu(pid: int) -> float:
    """Seconds of user and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def pss(pid: int) -> int:
    """Bytes of memory, what is shared counted in proportion."""
    return _kib(f"/proc/{pid}/smaps_rollup", "Pss:")


def peak(pid: int) -> int:
    """The most bytes that were ever resident."""
    return _kib(f"/proc/{pid}/status", "VmHWM:")


def _kib(path: str, field: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{path} has no {field}")


def times() -> Times:
    """See `Times`."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return Times((user + nice + system + irq + soft + steal) / TICK, steal / TICK)


def load() -> float:
    """Processes that ran or waited to, on average over the last minute."""
    return os.getloadavg()[0]


def described() -> dict[str, object]:
    """What figures of different runs are to be compared by."""
    model = next(
        (
            row.partition(":")[2].strip()
            for row in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in row
        ),
        "",
    )
    kernel = os.uname()
    return {"cpu": model, "cores": os.cpu_count(), "kernel": kernel.release, "machine": kernel.machine}
