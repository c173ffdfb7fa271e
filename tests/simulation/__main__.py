"""`python -m tests.simulation`: plays histories by seed or by name, as they are or under a mutant."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time

from tests.kit.mutants import applied
from tests.simulation import groups, moving, streams
from tests.simulation.deploys import DAYS, count
from tests.simulation.mutants import MUTANTS, hunt
from tests.simulation.run import Report, play
from tests.simulation.scenarios import SCENARIOS

ANY = SCENARIOS | DAYS | {moving.moved_anyhow.__name__: moving.moved_anyhow}
CHANCES = 3  # seeds for each scenario
GROUP_CHANCES = 12  # seeds for each mutant of a group
FALSE_HOLDS = 40  # days of each kind


def main() -> int:
    """0: every promise was kept, and every mutant that was asked for was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this history alone")
    parser.add_argument("--seeds", default="0:200", help="FIRST:BEFORE, e.g. 0:200")
    parser.add_argument("--scenario", choices=ANY, help="play this one instead, with the seed's chances")
    parser.add_argument("--scenarios", action="store_true", help="play all that are written by hand")
    parser.add_argument("--mutant", choices=MUTANTS, help="break the core in this way until a history finds it")
    parser.add_argument("--mutants", action="store_true", help="break it in every way, one after the other")
    parser.add_argument("--holds", action="store_true", help="count false holds in days without a fault")
    parser.add_argument("--streams", type=int, help="play so many histories of a stream, and those written by hand")
    parser.add_argument("--stream-mutant", choices=streams.MUTANTS, help="break the stream until that is seen")
    parser.add_argument("--groups", type=int, help="play so many histories of a group, and those written by hand")
    parser.add_argument(
        "--group-mutant", choices=groups.MUTANTS, help="break the members of a group until that is seen"
    )
    parser.add_argument("--migrations", type=int, help="play so many histories of migrations")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell the story")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of names must have one order, or no seed replays
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})
    if options.holds:
        return false_holds()
    if options.streams or options.groups:
        logging.disable(logging.CRITICAL)  # of what goes wrong on purpose
        return streams_broken(options.streams) if options.streams else groups_broken(options.seed or 0, options.groups)
    if options.stream_mutant or options.group_mutant:
        logging.disable(logging.CRITICAL)
        return (
            stream_survives(options.stream_mutant) if options.stream_mutant else member_survives(options.group_mutant)
        )
    if options.mutants:
        return sum([survives(name, options) for name in MUTANTS])
    if options.mutant and options.seed is None:
        return survives(options.mutant, options)
    return 1 if broken(options) else 0


def streams_broken(count: int) -> int:
    """Plays so many seeds of each history of a stream; 0: every promise was kept."""
    failed = 0
    for name, scenario in streams.SCENARIOS.items():
        for seed in range(count if scenario is streams.anything else CHANCES):
            broken = streams.play(scenario, seed)
            failed += bool(broken)
            print(*(f"{name}, seed {seed}: {text}" for text in broken), sep="\n", end="")
    print(f"{failed} histories of a stream broken")
    return 1 if failed else 0


def stream_survives(name: str) -> int:
    """Breaks what writes a stream; 0: a history has shown it."""
    mutant = streams.MUTANTS[name]
    with applied(mutant):
        broken = [text for seed in range(CHANCES) for text in streams.play(streams.SCENARIOS[mutant.found_by], seed)]
    print(f"{name}: {broken[0] if broken else 'survives'}")
    return 0 if broken else 1


def groups_broken(first: int, count: int) -> int:
    """Plays so many seeds of what members go through, and some of the rest; 0: every promise was kept."""
    failed = 0
    for name, scenario in groups.SCENARIOS.items():
        for seed in range(first, first + (count if scenario is groups.any_member else CHANCES)):
            broken = groups.play(scenario, seed)
            failed += bool(broken)
            print(*(f"{name}, seed {seed}: {text}" for text in broken[:8]), sep="\n", end="\n" if broken else "")
    print(f"{failed} histories of a group broken")
    return 1 if failed else 0


def member_survives(name: str) -> int:
    """Breaks a rule of the members; 0: a history has shown it."""
    mutant = groups.MUTANTS[name]
    scenario = groups.SCENARIOS[mutant.found_by]
    with applied(mutant):
        found = next((text for seed in range(GROUP_CHANCES) for text in groups.play(scenario, seed)), "survives")
    print(f"{name}: {found}")
    return found == "survives"


def histories(options: argparse.Namespace) -> list[tuple[str, int]]:
    """What to play: a scenario or "", and the seed."""
    if options.migrations:
        first = options.seed or 0
        return [(moving.moved_anyhow.__name__, seed) for seed in range(first, first + options.migrations)]
    if options.scenarios:
        return [(name, seed) for name in SCENARIOS for seed in range(CHANCES)]
    if options.seed is not None or options.scenario:
        return [(options.scenario or "", options.seed or 0)]
    first, before = map(int, options.seeds.split(":"))
    return [("", seed) for seed in range(first, before)]


def broken(options: argparse.Namespace) -> int:
    """Plays them; how many broke a promise."""
    failed = 0
    began = time.process_time()
    played = histories(options)
    with applied(MUTANTS[options.mutant]) if options.mutant else contextlib.nullcontext():
        for scenario, seed in played:
            report = play(seed, ANY.get(scenario))
            failed += bool(report.broken)
            words = (f"--mutant {options.mutant}" if options.mutant else "", f"--seed {seed}")
            tell(" ".join(filter(None, (*words, scenario and f"--scenario {scenario}"))), report, options)
    print(f"{len(played)} histories, {failed} broken, {time.process_time() - began:.1f} s of CPU")
    return failed


def false_holds() -> int:
    """A table of what was held though it was right; 0: rolling deployments were never held."""
    broken = []
    for day in DAYS:
        removed, held, texts = count(day, range(FALSE_HOLDS))
        broken += texts
        print(f"{day:<12} {removed:>5} removals, {held:>4} held though right: {100.0 * held / max(1, removed):.1f} %")
    print("\n".join(broken))
    return 1 if broken else 0


def survives(name: str, options: argparse.Namespace) -> bool:
    """Whether no history finds the mutant."""
    found = hunt(name)
    if found is None:
        print(f"SURVIVES {name}: {MUTANTS[name].breaks}")
    else:
        tell(*found, options)
    return found is None


def tell(what: str, report: Report, options: argparse.Namespace) -> None:
    """The end of one history, and its story if it is asked for."""
    if options.verbose:
        print("\n".join(report.story))
    if report.broken:
        print(f"BROKEN python -m tests.simulation {what}")
        for text in report.broken[:8]:
            print(f"    {text}")


if __name__ == "__main__":
    sys.exit(main())
