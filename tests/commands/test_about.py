"""What the commands say of themselves: help with examples, versions, and the schema of the configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from bridge.cli.main import MODULES, main
from bridge.config import load as config
from bridge.config.kinds import KINDS
from tests.commands.conftest import Pair
from tests.kit.running import ROOT, isthmus

COMMANDS = {name: main.get_command(click.Context(main), name) for name in MODULES}
# Those that do something: of a command with commands of its own these.
DOING = {name: one for name, one in COMMANDS.items() if one is not None and not isinstance(one, click.Group)} | {
    f"{name} {verb}": one
    for name, each in COMMANDS.items()
    if isinstance(each, click.Group)
    for verb, one in each.commands.items()
}


def test_every_command_of_the_table_is_defined_where_it_says() -> None:
    assert {name: one.name for name, one in COMMANDS.items() if one} == {name: name for name in MODULES}


@pytest.mark.parametrize("command", sorted({*COMMANDS, *DOING}))
def test_help_has_an_example_in_one_line_and_the_exit_codes(command: str) -> None:
    ran = CliRunner().invoke(main, [*command.split(), "--help"], terminal_width=80)
    assert ran.exit_code == 0
    (example,) = ran.output.partition("Example:\n")[2].splitlines()
    assert f"isthmus {command}" in example
    assert "\n  Exit codes: 0" in ran.output


def test_what_each_command_does_is_said_in_one_line() -> None:
    ran = CliRunner().invoke(main, ["--help"], terminal_width=80)
    lines = {line.split()[0]: line for line in ran.output.partition("Commands:\n")[2].splitlines()}
    assert lines.keys() == COMMANDS.keys()
    assert not [line for line in lines.values() if line.endswith("...")]


FILES = {"schema", "init", "completion", "bootstrap", "migrate targets"}  # what these print is a file


@pytest.mark.parametrize("command", sorted(DOING.keys() - FILES - {"run"}))
def test_every_command_prints_tables_or_json(command: str) -> None:
    (output,) = [each for each in DOING[command].params if each.name == "output"]
    assert output.opts == ["-o"]


@pytest.mark.parametrize("words", [("nonsense",), ("plan", "x.yaml"), ("plan", "--nonsense"), ("freeze",)])
async def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    ran = await isthmus(*words)
    assert ran.code == 2
    assert "Usage" in ran.err
    assert ran.out == ""


async def test_a_file_given_as_an_argument_is_answered_with_the_new_form() -> None:
    ran = await isthmus("explain", "x.yaml", "pay-api/i1")
    assert ran.code == 2
    assert "isthmus explain -f x.yaml pay-api/i1" in ran.err


async def test_without_an_option_the_file_is_looked_for_and_named(pair: Pair, folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    ran = await isthmus("check", cwd=empty)
    assert ran.code == 2
    assert "no -f FILE, no $ISTHMUS_FILE, no isthmus.yaml here, and no /etc/isthmus/isthmus.yaml" in ran.err
    ran = await isthmus("status", cwd=empty, ISTHMUS_FILE=str(pair.bridge.file))
    assert f"file: {pair.bridge.file} ($ISTHMUS_FILE)" in ran.err and "no daemon" in ran.err
    (empty / "isthmus.yaml").write_text(pair.bridge.file.read_text())
    assert "file: isthmus.yaml" in (await isthmus("status", cwd=empty)).err


async def test_what_needs_only_the_daemon_reads_no_registry(pair: Pair) -> None:
    pair.bridge.registries["inventory"]["kind"] = "a-kind-that-is-not-installed"
    pair.bridge.write()
    ran = await pair.bridge.isthmus("holds")
    assert ran.code == 1 and "no daemon answers" in ran.err


async def test_a_file_that_is_not_there_is_exit_code_2_and_says_so(folder: Path) -> None:
    ran = await isthmus("check", "-f", folder / "none.yaml")
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
    assert kinds.keys() == KINDS.keys()
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


async def test_init_writes_a_file_that_observes_and_has_no_fault(folder: Path) -> None:
    (folder / "inventory").mkdir()
    words = ("--id", "b1", "--from", "inventory=file:./inventory", "--to", "core=etcd/kratos:http://127.0.0.1:2379")
    ran = await isthmus("init", *words, "--state", str(folder / "state"), cwd=folder)
    assert ran.code == 0, ran.err
    made = config.load(folder / "isthmus.yaml")
    assert [(link.name, str(link.policy)) for link in made.links] == [("inventory-to-core", "observe")]
    again = await isthmus("init", *words, cwd=folder)
    assert again.code == 1 and "is there already" in again.err
    ran = await isthmus("init", "-f", "other.yaml", *words[:4], "--to", "core=consul", cwd=folder)
    assert ran.code == 2 and not (folder / "other.yaml").exists()
    ran = await isthmus("init", "-f", "other.yaml", cwd=folder)
    assert ran.code == 2 and "--id" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_a_shell_completes_the_commands(shell: str) -> None:
    ran = await isthmus("completion", shell)
    assert ran.code == 0 and "_ISTHMUS_COMPLETE" in ran.out


async def test_a_file_is_judged_without_registries_secrets_or_variables(folder: Path) -> None:
    text = """
bridge: {id: b1, state: "${STATE}"}
registries:
  inventory: {kind: file, path: ./nowhere}
  core: {kind: etcd, endpoints: ["http://192.0.2.1:2379"], layout: kratos, user: u, password: "${SECRET}"}
links:
  - {from: inventory, to: core, policy: sync, services: {include: ["*"]}}
"""
    (folder / "x.yaml").write_text(text)
    ran = await isthmus("check", "--offline", "-f", folder / "x.yaml", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["links"][0]["pair"]["inventory"].startswith("lossy")
    (folder / "x.yaml").write_text(text.replace("policy: sync", "policy: snyc").replace("kind: file", "kind: flie"))
    ran = await isthmus("check", "--offline", "-f", folder / "x.yaml")
    assert ran.code == 2 and "snyc" in ran.err and "flie" in ran.err


async def test_a_variable_in_the_state_folders_name_is_replaced_or_a_fault(pair: Pair, folder: Path) -> None:
    pair.bridge.bridge["state"] = "${WHERE}/s"
    pair.bridge.write()
    ran = await isthmus("status", "-f", pair.bridge.file, WHERE=str(folder))
    assert f"no daemon answers at {folder}/s/admin.sock" in ran.err
    ran = await isthmus("status", "-f", pair.bridge.file)
    assert ran.code == 2 and "the environment has no WHERE" in ran.err
