"""Which tests name what: read from their source, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "hograd_core"
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


def _of_module(file: str, tree: ast.Module) -> list[TestUse]:
    modules, members = _imports(tree)
    definitions: dict[str, list[ast.AST]] = {}
    for node in tree.body:
        for name in _defines(node):
            definitions.setdefault(name, []).append(node)
    tests = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    result = []
    for test in tests:
        nodes = list(_closure(test, definitions))
        core = {members[n.id] for n in nodes if isinstance(n, ast.Name) and n.id in members}
        core |= {
            n.attr
            for n in nodes
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in modules
        }
        words = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        if any(isinstance(n, ast.Attribute) and n.attr == "methods" for n in nodes):
            words.add(EVERY_METHOD)
        result.append(TestUse(file, test.name, frozenset(core), frozenset(words)))
    return result


def _imports(tree: ast.Module) -> tuple[set[str], dict[str, str]]:
    """Names bound to hograd_core itself, and local name -> name of what is imported from it or its modules."""
    modules: set[str] = set()
    members: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == PACKAGE}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            members |= {alias.asname or alias.name: alias.name for alias in node.names}
    return modules, members


def _defines(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _closure(test: ast.FunctionDef, definitions: Mapping[str, list[ast.AST]]) -> Iterable[ast.AST]:
    """The nodes of a test and of the module's definitions that it reaches, by name or as a fixture."""
    waiting: list[ast.AST] = [test]
    seen: set[int] = set()
    while waiting:
        top = waiting.pop()
        if id(top) in seen:
            continue
        seen.add(id(top))
        for node in ast.walk(top):
            yield node
            name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else None
            if name is not None:
                waiting += definitions.get(name, [])
