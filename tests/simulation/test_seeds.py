"""The promises hold in every history: 200 seeds in `make test`, 1,000 in soak; and every mutant is found by some."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.scenarios import SCENARIOS

CHUNK = 25
SEEDS, SOAK_SEEDS = 200, 1000


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, in which sets of names have one order, or no seed would replay."""
    command = [sys.executable, "-m", "tests.simulation", *words]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds_in_every_history(first: int) -> None:
    played = simulate("--seeds", f"{first}:{first + CHUNK}")
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_promise_holds_in_the_histories_written_by_hand(name: str) -> None:
    played = simulate("--scenario", name)
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(SEEDS, SOAK_SEEDS, 100))
def test_every_promise_holds_in_many_more_histories(first: int) -> None:
    played = simulate("--seeds", f"{first}:{first + 100}")
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_does_not_survive(name: str) -> None:
    played = simulate("--mutant", name)
    assert played.returncode == 0, f"{MUTANTS[name].breaks}, and nothing noticed:\n{played.stdout}{played.stderr}"
