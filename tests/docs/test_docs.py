"""What docs/ says is what the program does: generated pages, examples, columns, links, and the unit of systemd."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bridge.cli.bounds import BOUNDS
from bridge.cli.reference import outdated
from bridge.config import load as config
from bridge.config.document import Document
from tests.kit.natives import Etcd as Natives
from tests.kit.natives import Folder
from tests.kit.running import ROOT, isthmus
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.etcd import Etcd

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = [
    (path, number, text)
    for path in PAGES
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL))
    if re.search(r"^bridge:", text, re.MULTILINE)
]


def test_the_generated_pages_say_what_the_code_says() -> None:
    assert outdated(ROOT / "docs") == [], "run `make docs`"


# Numbers that bound nothing: how work is cut into parts and how much of it is under way, where the rest waits its turn.
PACES = frozenset(
    [
        "AHEAD",
        "ASKED_AT_ONCE",
        "ATTEMPTS",
        "AT_ONCE",
        "AUDIT_PAGE",
        "BACKLOG",
        "BATCH",
        "BLOCK",
        "BURST",
        "CHANGES",
        "CHUNK",
        "ENTRIES",
        "FEW",
        "FLIGHTS",
        "HERD_COUNT",
        "INDEXED",
        "IN_FLIGHT",
        "LEAD",
        "LEAST",
        "LOOK",
        "NAMES",
        "ONE_BY_ONE",
        "OPERATIONS",
        "OPINIONS",
        "OTHERS",
        "PACKET",
        "PAGE",
        "PATHS",
        "PLACES",
        "PLAN_SLICE",
        "READS",
        "READS_AT_ONCE",
        "RECEIVE",
        "ROUNDS",
        "SAID",
        "SHARE",
        "SLICE",
        "SMALL",
        "SWEEP_READS",
        "TAIL",
        "WINDOW",
        "YIELDED",
        "PARTS",
    ]
)
# Numbers that formats, protocols and stores give.
GIVEN = frozenset(
    [
        "FAILED",
        "FORMAT",
        "OK",
        "WRONG",
        "ATTENTION",
        "LEDGER_FORMAT",
        "MINUTE",
        "MOST",
        "EVERYONE",
        "GONE",
        "OUR_LEASES",
        "RENEWAL",
        "LASTING",
        "PAIRS",
        "KEY_BYTES",
        "VALUE_BYTES",
        "MARK_PAIRS",
        "PLAIN_PAIRS",
        "LONGEST_KEY",
        "LONGEST_LABEL",
        "MOST_WEIGHT",
        "MOST_FORMER",
        "TTL",
        "LOCK_TTL",
        "WIDTH",
        "NARROW",
        "LAST",
        "READ",
        "WRITE",
        "CREATE",
        "DELETE",
        "PERSISTENT",
        "EPHEMERAL",
        "SEQUENTIAL",
        "CONTAINER",
        "CREATED",
        "DELETED",
        "CHANGED",
    ]
)
NO_BOUNDS = {
    ("adapters.kafka.client", "TOPIC"),
    ("adapters.kafka.fetching", "FETCH"),
    ("adapters.kafka.topics", "WEEK"),
    ("adapters.kafka.working_copy", "MODULUS"),
    ("bridge.admin.access", "ROOT"),
    ("bridge.shards", "WHOLE"),
    ("bridge.admin.protocol", "NOT_PERMITTED"),
    ("bridge.admin.server", "SO_PEERGROUPS"),
    ("adapters.kubernetes.client", "KEPT"),
    ("adapters.file.disk", "THREADS"),
    ("adapters.zookeeper.readers", "MASK"),
    ("bridge.migration.natives", "PARTS"),
}
BITS = ROOT / "adapters/file/notice.py"  # of <sys/inotify.h>


def _numbers(path: Path) -> set[str]:
    """The whole numbers that a module names for itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            for name, value in zip(names, values, strict=False):
                words = [one for one in ast.walk(value) if isinstance(one, ast.Name | ast.Call | ast.Attribute)]
                if isinstance(name, ast.Name) and name.id.isupper() and name.id[0] != "_" and not words:
                    said = eval(compile(ast.Expression(value), str(path), "eval"))
                    found |= {name.id} if type(said) is int else set()
    return found


def test_every_bound_of_the_code_is_on_the_page_of_limits() -> None:
    listed = {(bound.module, bound.constant) for bound in BOUNDS}
    modules = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("bridge", "adapters", "mappings")
        for path in (ROOT / folder).rglob("*.py")
        if path != BITS and not path.name.endswith("_pb2.py")
    }
    numbers = {(module, name) for path, module in modules.items() for name in _numbers(path)}
    assert len(numbers) > 100
    unlisted = {one for one in numbers - listed - NO_BOUNDS if one[1] not in PACES | GIVEN}
    assert unlisted == set(), "say in bridge/cli/bounds.py what happens beyond it, and run `make docs`"


def test_what_the_page_of_limits_names_is_there() -> None:
    metrics = (ROOT / "bridge/daemon/metrics.py").read_text()
    named = {bound.metric.removesuffix("_total") for bound in BOUNDS if bound.metric}
    assert {name for name in named if f'"{name}' not in metrics} == set()
    assert len({bound.what for bound in BOUNDS}) == len(BOUNDS)


@pytest.mark.parametrize(("path", "number", "text"), EXAMPLES, ids=lambda value: getattr(value, "name", None))
def test_an_example_file_has_no_fault(path: Path, number: int, text: str, tmp_path: Path) -> None:
    (tmp_path / "inventory").mkdir()
    file = tmp_path / "isthmus.yaml"
    assert config.parse(file, Document(f"{path.name}#{number}", text), {}, ephemeral=False).links


def test_there_are_examples_where_a_beginner_looks() -> None:
    assert {path.name for path, _, _ in EXAMPLES} >= {"README.md", "start.md", "two-way.md"}


def _columns(path: Path) -> set[str]:
    """The columns of each table that a module prints."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print_table":
            groups = [*node.args[1:2], *(one.value for one in node.keywords if one.arg == "more")]
            words = [word for group in groups if isinstance(group, ast.Tuple) for word in group.elts]
            found |= {str(word.value) for word in words if isinstance(word, ast.Constant)}
    return found


def test_every_column_of_a_table_is_explained_and_none_twice() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text().partition("## Columns")[2]
    rows = re.findall(r"^\| ([A-Z, ]+) \|", text, re.MULTILINE)
    explained = Counter(name.strip() for row in rows for name in row.split(","))
    assert [name for name, times in explained.items() if times > 1] == []
    used = {name.upper().replace("_", " ") for path in (ROOT / "bridge/cli").glob("*.py") for name in _columns(path)}
    assert len(used) > 30
    assert used - explained.keys() == set()


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for path in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", path.read_text()):
            page = (path.parent / target) if target else path
            if not page.exists():
                broken.append(f"{path.name}: {target}")
            elif anchor and page.suffix == ".md" and anchor not in _anchors(page.read_text()):
                broken.append(f"{path.name}: {target}#{anchor}")
    assert broken == []


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    unit = (ROOT / "deploy/systemd/isthmus.service").read_text()
    assert "LimitNOFILE=65536" in unit and "isthmus run -f /etc/isthmus/isthmus.yaml" in unit
    # The program is not installed where the tests run; everything else is judged as it is.
    path = tmp_path / "isthmus.service"
    path.write_text(unit.replace("/usr/bin/isthmus", sys.executable))
    ran = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    assert [line for line in ran.stderr.splitlines() if "isthmus.service" in line] == []
    path.write_text(unit.replace("/usr/bin/isthmus", sys.executable).replace("WatchdogSec=60", "WatchdogSec=often"))
    ran = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    assert "often" in ran.stderr


async def test_the_commands_of_the_readme_run_as_written(etcd: Etcd, folder: Path) -> None:
    """In their order, over the readme's example; only the places of this machine are others."""
    readme = (ROOT / "README.md").read_text()
    (example,) = [text for path, _, text in EXAMPLES if path.name == "README.md"]
    (commands,) = re.findall(r"```sh\n(isthmus .*?)```", readme, re.DOTALL)
    words = [line.partition("#")[0].split() for line in commands.splitlines()]
    assert [one[1] for one in words] == ["check", "plan", "run", "status"]
    (port,) = ports.reserve(1)
    places = {"/var/lib/isthmus": str(folder / "state"), "http://127.0.0.1:2379": etcd.url, ":9797": f":{port}"}
    for written, here in places.items():
        assert written in example
        example = example.replace(written, here)
    file = folder / "isthmus.yaml"
    file.write_text(example)
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    check, plan, run, status = words
    ran = await isthmus(*check[1:], cwd=folder)
    assert ran.code == 0, ran.out + ran.err
    assert "file: isthmus.yaml" in ran.err
    ran = await isthmus(*plan[1:], cwd=folder)
    assert ran.code == 3 and "192.0.2.1" in ran.out
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge.cli.main", *run[1:]),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:

        async def answers() -> bool:
            return (await isthmus(*status[1:], cwd=folder)).code == 0

        await until(answers, "the daemon answers, and all is well")
        async with Natives(etcd.address) as natives:
            assert await natives.records() == {}
            assert "policy: observe" in example
            file.write_text(example.replace("policy: observe", "policy: sync"))
            daemon.send_signal(signal.SIGHUP)

            async def copied() -> bool:
                return len(await natives.records()) == 2

            await until(copied, "the link writes")
    finally:
        daemon.terminate()
        await daemon.wait()
    assert daemon.returncode == 0
    ports.release([port])
