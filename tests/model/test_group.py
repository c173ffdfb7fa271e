"""Several members share the writing of a destination: every history of the model, and each rule of it left out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import provided
from tests.servers import spin

MODEL = Path(__file__).with_name("group.pml")
SAFETY, SERVED, KEPT = "asserted", "served", "kept"
OPTIONS = {SAFETY: ["-DWRITES"], SERVED: [], KEPT: ["-DKAFKA_GONE"]}
# Assertions need no never claim; what holds in the end is searched for a cycle where each process has turns (-f).
COMPILE = {SAFETY: ["-DSAFETY", "-DNOCLAIM"], SERVED: ["-DNFAIR=3"], KEPT: ["-DNFAIR=3"]}
SEARCH = {SAFETY: [], SERVED: ["-a", "-f", "-N", SERVED], KEPT: ["-a", "-f", "-N", KEPT]}

# A rule of the model (`WITHOUT_...` leaves it out), and what is broken without it.
RULES = {
    "COMPARE": (SAFETY, "assertion violated (lock==i)"),
    "KEEPING": (SAFETY, "assertion violated ( !(should[i])||away[i])"),
    "WHOLE_CLAIM": (SAFETY, "assertion violated whole[c]"),
    "WITHDRAWAL": (SAFETY, "assertion violated whole[c]"),
    "CARETAKER": (SAFETY, "assertion violated (should[i]&& !(away[i]))"),
    "PICTURE": (SAFETY, "assertion violated (whole[i]&& !(unread[i]))"),
    "END": (SAFETY, "assertion violated (whole[i]&& !(unread[i]))"),
    "LEASE": (SERVED, "acceptance cycle"),
    "TICK": (SERVED, "acceptance cycle"),
    "LEAVING": (SERVED, "acceptance cycle"),
    "AWAY_CLAIM": (KEPT, "acceptance cycle"),
    "HAND_OVER": (KEPT, "acceptance cycle"),
}


def searched(folder: Path, promise: str, *, faults: int, without: str = "", ousts: bool = False) -> str:
    """What the search of all histories with at most so many faults said."""
    with provided():
        program = spin.program()
    options = [*OPTIONS[promise], f"-DFAULTS={faults}", *([f"-DWITHOUT_{without}"] if without else [])]
    options += ["-DOUSTS"] if ousts else []
    _run(folder, program, "-a", *options, MODEL)
    _run(folder, "gcc", "-O1", "-w", "-DCOLLAPSE", "-DMEMLIM=8000", *COMPILE[promise], "-o", "pan", "pan.c")
    return _run(folder, "./pan", "-m1000000", *SEARCH[promise])


def _run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def whole(said: str) -> bool:
    """Whether nothing was left unsearched: not for want of depth, of memory or of time."""
    return not re.search(r"max search depth too small|out of memory|aborted|Warning", said)


@pytest.mark.parametrize("ousts", [False, True])
@pytest.mark.parametrize("promise", OPTIONS)
def test_no_history_of_two_faults_breaks_what_a_group_promises(promise: str, ousts: bool, tmp_path: Path) -> None:
    said = searched(tmp_path, promise, faults=2, ousts=ousts)
    assert "errors: 0" in said and whole(said), said


@pytest.mark.soak
@pytest.mark.parametrize("ousts", [False, True])
@pytest.mark.parametrize("promise", OPTIONS)
def test_no_history_of_four_faults_breaks_what_a_group_promises(promise: str, ousts: bool, tmp_path: Path) -> None:
    said = searched(tmp_path, promise, faults=4, ousts=ousts)
    assert "errors: 0" in said and whole(said), said


def test_who_takes_a_lock_from_the_living_needs_writes_that_compare_it(tmp_path: Path) -> None:
    said = searched(tmp_path, SAFETY, faults=2, without="COMPARE", ousts=True)
    assert "assertion violated (lock==i)" in said and "errors: 1" in said, said


@pytest.mark.parametrize("rule", RULES)
def test_a_group_needs_each_of_its_rules(rule: str, tmp_path: Path) -> None:
    promise, broken = RULES[rule]
    said = searched(tmp_path, promise, faults=3, without=rule)
    assert broken in said and "errors: 1" in said, said


def test_every_rule_of_the_model_is_left_out_once() -> None:
    assert set(re.findall(r"#ifdef WITHOUT_(\w+)", MODEL.read_text())) == set(RULES)
