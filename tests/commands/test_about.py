"""What the commands say of themselves: help with examples, versions, and the schema of the configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from bridge import config
from bridge.cli import main
from tests.running import ROOT, isthmus

COMMANDS = (
    *("run", "check", "plan", "diff", "services", "explain", "status", "log", "holds", "approve"),
    *("freeze", "unfreeze", "purge", "schema", "version"),
)


def test_there_is_every_command() -> None:
    assert {*COMMANDS} <= main.commands.keys()


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_has_an_example_in_one_line_and_the_exit_codes(command: str) -> None:
    ran = CliRunner().invoke(main, [command, "--help"], terminal_width=80)
    assert ran.exit_code == 0
    (example,) = ran.output.partition("Example:\n")[2].splitlines()
    assert f"isthmus {command}" in example
    assert "\n  Exit codes: 0" in ran.output


def test_what_each_command_does_is_said_in_one_line() -> None:
    ran = CliRunner().invoke(main, ["--help"], terminal_width=80)
    lines = {line.split()[0]: line for line in ran.output.partition("Commands:\n")[2].splitlines()}
    assert lines.keys() == main.commands.keys()
    assert not [line for line in lines.values() if line.endswith("...")]


@pytest.mark.parametrize("command", sorted(main.commands.keys() - {"run", "schema"}))
def test_every_command_prints_tables_or_json(command: str) -> None:
    (output,) = [each for each in main.commands[command].params if each.name == "output"]
    assert output.opts == ["-o"]


@pytest.mark.parametrize("words", [("check",), ("nonsense",), ("plan", "x.yaml", "--nonsense"), ("freeze", "x.yaml")])
async def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    ran = await isthmus(*words)
    assert ran.code == 2
    assert "Usage" in ran.err
    assert ran.out == ""


async def test_a_file_that_is_not_there_is_exit_code_2_and_says_so(folder: Path) -> None:
    ran = await isthmus("check", folder / "none.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "none.yaml" in ran.err


async def test_version_names_the_program_the_state_and_the_ledger() -> None:
    ran = await isthmus("version", "-o", "json")
    assert ran.code == 0
    assert ran.json.keys() == {"program", "state", "ledger"}


async def test_the_schema_knows_every_kind_and_every_key_of_the_readmes_example(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = (await isthmus("schema")).json
    example = re.findall(r"```yaml\n(bridge:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    blocks = yaml.safe_load(example)
    assert blocks.keys() <= schema["properties"].keys()
    kinds = {one["properties"]["kind"]["const"]: one for one in _alternatives(schema)}
    assert kinds.keys() == config.KINDS.keys()
    for block in blocks["registries"].values():
        assert block.keys() <= kinds[block["kind"]]["properties"].keys()
    link = schema["$defs"]["Link"]["properties"]
    assert all(one.keys() <= link.keys() for one in blocks["links"])
    (folder / "isthmus.yaml").write_text(example)
    assert config.load(folder / "isthmus.yaml").links[0].name == "inventory-to-core"


def _alternatives(schema: dict[str, object]) -> list[dict[str, dict[str, dict[str, str]]]]:
    text = json.dumps(schema["properties"])
    found: list[dict[str, dict[str, dict[str, str]]]] = json.loads(text)["registries"]["additionalProperties"]["oneOf"]
    return found
