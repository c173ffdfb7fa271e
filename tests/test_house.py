"""Rules of the layout that neither ruff nor the layer law can hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CODE = ("bridge", "adapters", "mappings", "tests", "deploy")
CITED = re.compile(r"(safety )?\b(rule|fault)s? (\d+)(?: and (\d+))?\b")
ELSEWHERE = re.compile(r"\((?:conventions|design|reliability)\b[^)]*\d|reference/\w+\.md")
MOST_LINES = 40  # of a function's body, without its docstring: one screen
LONGEST = 75  # characters of a test's name: it must be read whole in a terminal and in a report
SHARED = {  # what may be imported of the tests, by folder
    "bench": ("tests.bench", "tests.kit", "tests.servers"),
    "kit": ("tests.kit", "tests.servers"),
}


def modules(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield str(path.relative_to(TESTS)), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


def test_no_test_has_a_name_that_is_too_long_to_read() -> None:
    long = [
        f"{where}: {node.name}"
        for where, tree in modules(TESTS)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > LONGEST
    ]
    assert long == []


def test_no_function_is_longer_than_a_screen() -> None:
    """Tests are exempt: a history that is told in its order is read in one piece."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines"
        for folder in CODE
        if folder != "tests"
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.endswith("_pb2.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := lines_of(node)) > MOST_LINES
    ]
    assert long == []


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("folder", SHARED)
def test_benchmarks_and_kit_import_no_tests(folder: str) -> None:
    others = [
        f"{where}: {name}"
        for where, tree in modules(TESTS / folder)
        if not Path(where).name.startswith("test_")
        for name in imported(tree)
        if name.startswith("tests.") and not name.startswith(SHARED[folder])
    ]
    assert others == []


def test_no_test_patches_a_constant() -> None:
    """What a test needs shorter or smaller is an argument. A mutant is a fault put in on purpose, wherever it is."""
    patched = [
        f"{where}:{line}: {name}"
        for where, tree in modules(TESTS)
        if where != "simulation/mutants.py"
        for node in ast.walk(tree)
        for line, name in constants_set(node)
    ]
    assert patched == []


def constants_set(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The constants of something else that a statement or a call gives another value, each with its line."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("setattr", "object"):
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        yield from ((node.lineno, text) for text in texts[:1] if text.rpartition(".")[2].isupper())
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (
            (node.lineno, each.attr) for each in targets if isinstance(each, ast.Attribute) and each.attr.isupper()
        )


def test_no_benchmark_is_collected_as_a_test() -> None:
    assert list((TESTS / "bench").rglob("test_*.py")) == []


def test_code_cites_only_rules_and_faults_that_the_safety_page_has() -> None:
    page = (ROOT / "docs" / "safety.md").read_text()
    anchors = set(re.findall(r'id="(rule|fault)-(\d+)"', page))
    wrong = []
    for path in (each for folder in CODE for each in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        for safety, kind, *numbers in CITED.findall(text):
            wrong += [f"{path}: {kind} {n}" for n in numbers if n and (not safety or (kind, n) not in anchors)]
    assert wrong == []


def test_code_cites_no_document_that_is_not_in_the_repository() -> None:
    found = [
        f"{path}: {match[0]}"
        for folder in CODE
        for path in (ROOT / folder).rglob("*.py")
        for match in ELSEWHERE.finditer(path.read_text())
    ]
    pages = re.compile(r"docs/[\w/-]+\.md")
    found += [
        f"{path}: {page}"
        for folder in CODE
        for path in (ROOT / folder).rglob("*.py")
        for page in pages.findall(path.read_text())
        if not (ROOT / page).exists()
    ]
    assert found == []


def test_the_page_for_contributors_names_what_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:bridge|adapters|mappings|tests|docs)/[\w/.-]+)`", page))
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
    rooms = {path.parent.name for path in (ROOT / "bridge").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", page, re.M))


def test_no_two_decisions_have_one_number() -> None:
    numbers = [path.name.partition("-")[0] for path in (ROOT / "docs" / "adr").glob("*.md")]
    assert sorted(numbers) == sorted({number for number in numbers if re.fullmatch(r"\d{4}", number)})
