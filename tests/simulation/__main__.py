"""`python -m tests.simulation`: plays histories by seed, by name, or under a mutant."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation.run import Report, play


def main() -> int:
    """0: every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this history alone")
    parser.add_argument("--seeds", default="0:200", help="FIRST:BEFORE, e.g. 0:200")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell the story")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of names must have one order, or no seed replays
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})
    first, before = (options.seed, options.seed + 1) if options.seed is not None else map(int, options.seeds.split(":"))
    failed = 0
    began = time.process_time()
    for seed in range(first, before):
        report = play(seed)
        failed += bool(report.broken)
        tell(f"--seed {seed}", report, verbose=options.verbose)
    print(f"{before - first} histories, {failed} broken, {time.process_time() - began:.1f} s of CPU")
    return 1 if failed else 0


def tell(what: str, report: Report, *, verbose: bool) -> None:
    """The end of one history, and its story if it is asked for."""
    if verbose:
        print("\n".join(report.story))
    if report.broken:
        print(f"BROKEN python -m tests.simulation {what}")
        for text in report.broken[:8]:
            print(f"    {text}")


if __name__ == "__main__":
    sys.exit(main())
