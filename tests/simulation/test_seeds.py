"""The promises hold in every history: 200 seeds in `make test`, 1,000 more in soak; and no mutant survives."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.simulation import groups, streams
from tests.simulation.mutants import MUTANTS

CHUNK = 25  # histories in a process: enough to share the work, few enough to share it well
SEEDS, SOAK_SEEDS = int(os.environ.get("ISTHMUS_SEEDS", "200")), 1000


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, in which sets of names have one order, or no seed would replay."""
    command = [sys.executable, "-m", "tests.simulation", *words]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


def kept(*words: str) -> None:
    """No promise was broken; what is printed otherwise says how to replay it."""
    played = simulate(*words)
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds_in_every_history(first: int) -> None:
    kept("--seeds", f"{first}:{min(first + CHUNK, SEEDS)}")


def test_every_promise_holds_in_the_histories_written_by_hand() -> None:
    kept("--scenarios")


def test_rolling_deployments_are_never_held() -> None:
    kept("--holds")


def test_a_seed_replays_event_for_event() -> None:
    first, again = (simulate("--seed", "3", "-v").stdout.splitlines()[:-1] for _ in range(2))
    assert len(first) > 100
    assert first == again


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_does_not_survive(name: str) -> None:
    played = simulate("--mutant", name)
    assert played.returncode == 0, f"{MUTANTS[name].breaks}, and nothing noticed:\n{played.stdout}{played.stderr}"


def test_a_topic_is_the_live_picture_in_every_history_of_a_stream() -> None:
    kept("--streams", "10")


def test_every_promise_holds_in_every_history_of_a_migration() -> None:
    kept("--migrations", "25")


@pytest.mark.parametrize("name", streams.MUTANTS)
def test_a_mutant_of_the_stream_does_not_survive(name: str) -> None:
    kept("--stream-mutant", name)


def test_each_shard_has_one_writer_in_every_history_of_a_group() -> None:
    kept("--groups", "40")


@pytest.mark.parametrize("name", groups.MUTANTS)
def test_a_mutant_of_a_group_does_not_survive(name: str) -> None:
    kept("--group-mutant", name)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_each_shard_has_one_writer_in_many_histories(pytestconfig: pytest.Config) -> None:
    given = pytestconfig.getoption("--seed")
    first = given if given is not None else SEEDS + random.getrandbits(32)
    kept("--groups", "1000", "--seed", str(first))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_topic_is_the_live_picture_in_many_histories() -> None:
    kept("--streams", "1000")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_promise_holds_in_many_histories_of_migrations(pytestconfig: pytest.Config) -> None:
    given = pytestconfig.getoption("--seed")
    first = given if given is not None else SEEDS + random.getrandbits(32)
    kept("--migrations", "500", "--seed", str(first))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(10))
def test_every_promise_holds_in_new_histories(part: int, pytestconfig: pytest.Config) -> None:
    given = pytestconfig.getoption("--seed")
    first = given if given is not None else SEEDS + random.getrandbits(32)
    share = SOAK_SEEDS // 10
    kept("--seeds", f"{first + part * share}:{first + (part + 1) * share}")
