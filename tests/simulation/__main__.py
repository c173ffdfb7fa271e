"""`python -m tests.simulation`: plays histories by seed, by name, or under a mutant."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain

from tests.simulation.mutants import MUTANTS
from tests.simulation.run import Report, Scenario, play
from tests.simulation.scenarios import SCENARIOS

HUNT = 120  # histories in which a mutant must be found


def main() -> int:
    """0: every promise was kept, and every mutant that was asked for was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this history alone")
    parser.add_argument("--seeds", default="0:200", help="FIRST:BEFORE, e.g. 0:200")
    parser.add_argument("--scenario", choices=SCENARIOS, help="play this one, which is written by hand")
    parser.add_argument("--mutant", choices=MUTANTS, help="break the core in this way")
    parser.add_argument("--mutants", action="store_true", help="break it in every way, one after the other")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell the story")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of names must have one order, or no seed replays
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})
    if options.mutants or options.mutant:
        return sum([survives(name, options) for name in ([options.mutant] if options.mutant else MUTANTS)])
    return 1 if played(histories(options), options) else 0


def histories(options: argparse.Namespace) -> Iterator[tuple[str, int, Scenario | None]]:
    """What to play: how it is asked for, the seed, and the scenario if it is one."""
    if options.scenario:
        yield f"--scenario {options.scenario}", options.seed or 1, SCENARIOS[options.scenario]
        return
    first, before = (options.seed, options.seed + 1) if options.seed is not None else map(int, options.seeds.split(":"))
    for seed in range(first, before):
        yield f"--seed {seed}", seed, None


def played(which: Iterable[tuple[str, int, Scenario | None]], options: argparse.Namespace) -> int:
    """How many were broken."""
    failed, reports = 0, 0
    began = time.process_time()
    for asked, seed, scenario in which:
        reports += 1
        report = play(seed, scenario)
        failed += bool(report.broken)
        tell(asked, report, verbose=options.verbose)
    print(f"{reports} histories, {failed} broken, {time.process_time() - began:.1f} s of CPU")
    return failed


def survives(name: str, options: argparse.Namespace) -> bool:
    """Plays until some history finds the mutant; whether none did. With --seed or --scenario, only that one."""
    if options.seed is not None or options.scenario:
        which = histories(options)
    else:
        by_hand = ((f"--scenario {one}", 1, scenario) for one, scenario in SCENARIOS.items())
        which = chain(by_hand, ((f"--seed {seed}", seed, None) for seed in range(HUNT)))
    with MUTANTS[name].at_work():
        for asked, seed, scenario in which:
            report = play(seed, scenario)
            if any(not text.startswith("bug") for text in report.broken):  # a mutant that only crashes proves nothing
                tell(f"{asked} --mutant {name}", report, verbose=options.verbose)
                return False
    print(f"SURVIVES {name}: {MUTANTS[name].breaks}")
    return True


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
