"""The Containerfile says what a careful cluster asks for; there is no engine here that could build it."""

from __future__ import annotations

import re

from tests.kit.running import ROOT

FILE = ROOT / "deploy/container/Containerfile"


def steps() -> list[tuple[str, str]]:
    """Each instruction with its words; a line that ends with a backslash goes on."""
    text = re.sub(r"\\\n\s*", "", FILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_it_runs_as_a_numbered_user_that_is_not_root() -> None:
    user = [rest for word, rest in steps() if word == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_it_becomes_the_program_which_so_gets_the_signals() -> None:
    said = dict(steps())
    assert said["ENTRYPOINT"] == '["isthmus"]' and said["CMD"].startswith("[")


def test_it_installs_what_is_locked_and_all_that_is_imported() -> None:
    runs = " ".join(rest for word, rest in steps() if word == "RUN")
    copies = {rest.split()[-1] for word, rest in steps() if word == "COPY"}
    assert "--require-hashes -r requirements/run.txt" in runs
    assert {"bridge", "adapters", "mappings"} <= copies
    for word, rest in steps():
        if word == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest


def test_nothing_is_fetched_by_address() -> None:
    assert not re.search(r"https?://|^ADD ", FILE.read_text(), re.MULTILINE)
