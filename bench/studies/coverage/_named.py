"""Which tests name what: read from their source, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "hograd_core"
PATTERNS = "hograd_bench.patterns"  # the operators that the suite declares itself
EVERY_METHOD = ".methods"


@dataclass(frozen=True)
class TestUse:
    """One test function and what it names, itself or through what it uses of its module.

    Attributes:
        file: path below the folder of the tests, with forward slashes.
        name: of the function.
        core: public names of hograd_core.
        words: its string constants, and ``.methods`` where it goes through all methods of an operator.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    file: str
    name: str
    core: frozenset[str]
    words: frozenset[str]


def read_tests(folder: Path) -> list[TestUse]:
    """The test functions of every ``test_*.py`` below a folder.

    Raises:
        ValueError: there is none; the message names the folder.
    """
    found: list[TestUse] = []
    for path in sorted(folder.rglob("test_*.py")):
        found += _of_module(path.relative_to(folder).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
    if not found:
        raise ValueError(f"tests: found no test in {folder}, expected test_*.py files; run from the repository's root")
    return found


@dataclass(frozen=True)
class _Facts:
    """What one statement at the top of a module names: local names, names of hograd_core, strings."""

    names: frozenset[str]
    core: frozenset[str]
    words: frozenset[str]


def _of_module(file: str, tree: ast.Module) -> list[TestUse]:
    modules, members = _imports(tree)
    facts = [_facts(node, modules, members) for node in tree.body]
    definitions: dict[str, list[_Facts]] = {}
    for node, found in zip(tree.body, facts, strict=True):
        for name in _defines(node):
            definitions.setdefault(name, []).append(found)
    result = []
    for node, found in zip(tree.body, facts, strict=True):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            reached = _reached(found, definitions)
            core = frozenset().union(*(each.core for each in reached))
            words = frozenset().union(*(each.words for each in reached))
            result.append(TestUse(file, node.name, core, words))
    return result


def _imports(tree: ast.Module) -> tuple[set[str], dict[str, str]]:
    """Names bound to hograd_core itself, and local name -> name of what is imported from it or its modules."""
    modules: set[str] = set()
    members: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == PACKAGE}
        elif isinstance(node, ast.ImportFrom) and _declares(node.module or ""):
            members |= {alias.asname or alias.name: alias.name for alias in node.names}
    return modules, members


def _declares(module: str) -> bool:
    return module.split(".")[0] == PACKAGE or module == PATTERNS


def _defines(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _facts(statement: ast.stmt, modules: set[str], members: Mapping[str, str]) -> _Facts:
    names, core, words = set(), set(), set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):  # perhaps a fixture
            names.add(node.arg)
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                core.add(node.attr)
            if node.attr == "methods":
                words.add(EVERY_METHOD)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
    core |= {members[name] for name in names & set(members)}
    return _Facts(frozenset(names), frozenset(core), frozenset(words))


def _reached(start: _Facts, definitions: Mapping[str, list[_Facts]]) -> list[_Facts]:
    """A test and the module's definitions that it uses, directly or through others."""
    reached: list[_Facts] = []
    waiting, seen = [start], set[str]()
    while waiting:
        facts = waiting.pop()
        reached.append(facts)
        for name in facts.names - seen:
            seen.add(name)
            waiting += definitions.get(name, [])
    return reached
