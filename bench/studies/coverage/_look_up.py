"""coverage.toml -> what the registry, the tests, the presets and the claims say about each use."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hograd_bench import claim_cells, claims, plan, run
from hograd_bench.cells import Cell

import hograd_core
from hograd_core import curvature, solvers
from hograd_core.applications import gradient_penalty, maml, pinn
from studies.coverage._named import EVERY_METHOD, TestUse, read_tests

PUBLIC = (hograd_core, curvature, solvers, gradient_penalty, maml, pinn)
COVERAGE = Path(__file__).with_name("coverage.toml")


@dataclass(frozen=True)
class Use:
    """What a promise is kept by.

    Attributes:
        text: as the file has it: "operator", "operator/method" or "function()".
        orders: the derivative orders of cells that count, or None for all.
    """

    text: str
    orders: tuple[int, ...] | None = None

    @property
    def is_function(self) -> bool:
        """Whether it is a plain function: no methods, no cells."""
        return self.text.endswith("()")

    @property
    def name(self) -> str:
        """Operator, alias or function."""
        return self.text.removesuffix("()").partition("/")[0]

    @property
    def method(self) -> str | None:
        """The method, where one is named."""
        return self.text.partition("/")[2] or None


@dataclass(frozen=True)
class Item:
    """Part of a group: a title ("" where the group's says it all) and its uses."""

    title: str
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class Group:
    """A row that must be covered."""

    id: str
    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class World:
    """Everything that is looked into.

    Attributes:
        operators: the registry.
        functions: public names of hograd_core and of its public submodules.
        tests: what each test names.
        presets: name -> the cells that it attempts.
        claims: id of a claim -> the cells that it needs.
    """

    operators: Mapping[str, hograd_core.Operator]
    functions: frozenset[str]
    tests: Sequence[TestUse]
    presets: Mapping[str, Sequence[Cell]]
    claims: Mapping[str, Sequence[Cell]]


@dataclass(frozen=True)
class Found:
    """What there is of one use.

    Attributes:
        use: which.
        operator: canonical name, or None for a function.
        methods: names; empty for a function or where nothing exists.
        tests: those that name it.
        cells: preset -> its cells of it.
        claims: ids of claims with cells of it.
        lacking: what is missing, in sentences; claims are counted by the group.
    """

    use: Use
    operator: str | None
    methods: tuple[str, ...]
    tests: tuple[TestUse, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    claims: tuple[str, ...]
    lacking: tuple[str, ...]


def load(path: Path = COVERAGE) -> tuple[Group, ...]:
    """Read the groups.

    Raises:
        ValueError: a group without items, an item without uses, an unknown key, or an id that occurs twice.
    """
    groups = tuple(_group(table) for table in tomllib.loads(path.read_text(encoding="utf-8"))["group"])
    ids = [group.id for group in groups]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"{path.name}: id {twice[0]!r} occurs twice")
    return groups


def _group(table: Mapping[str, Any]) -> Group:
    name = str(table.get("id", "?"))
    items = []
    for item in table.get("item", ()):
        unknown = sorted(set(item) - {"title", "uses", "orders"})
        if unknown or not item.get("uses"):
            raise ValueError(f"{name}: got an item with keys {sorted(item)}, expected title, uses and perhaps orders")
        orders = tuple(item["orders"]) if "orders" in item else None
        items.append(Item(item.get("title", ""), tuple(Use(text, orders) for text in item["uses"])))
    if not items or set(table) - {"id", "title", "item"}:
        raise ValueError(f"{name}: got keys {sorted(table)}, expected id, item and perhaps title")
    return Group(name, table.get("title", ""), tuple(items))


def look_around(tests: Path) -> World:
    """The world as it is: registry, tests below a folder, presets and claims.

    Raises:
        ValueError: no tests there, or a preset or claim that names nothing.
    """
    needed = {name: [p.cell for p in run.planned(run.Asked(name)) if p.skip is None] for name in plan.load_presets()}
    by_claim = {claim.id: claim_cells.needed_cells(claim) for claim in claims.load()}
    public = {name for module in PUBLIC for name in module.__all__}
    return World(hograd_core.operators(), frozenset(public), read_tests(tests), needed, by_claim)


def find(use: Use, world: World) -> Found:
    """Look one use up."""
    if use.is_function:
        tests = tuple(t for t in world.tests if use.name in t.core)
        lacking = [] if use.name in world.functions else [f"{use.text} is not in hograd_core"]
        lacking += [] if tests else [f"no test names {use.text}"]
        return Found(use, None, (), tests, {}, (), tuple(lacking))
    record, order = _resolve(use.name, world.operators)
    if record is None:
        return Found(use, None, (), (), {}, (), (f"operator {use.name} is not in the registry",))
    if use.method is not None and use.method not in record.methods:
        return Found(use, record.name, (), (), {}, (), (f"method {use.text} is not in the registry",))
    methods = tuple(record.methods) if use.method is None else (use.method,)
    names = {record.name, *(alias for alias, fixed in record.aliases.items() if order in (None, fixed))}
    tests = tuple(
        t
        for t in world.tests
        if names & t.core and (use.method is None or use.method in t.words or EVERY_METHOD in t.words)
    )
    orders = use.orders if order is None else (order,)
    cells = {name: _of(planned, record.name, methods, orders) for name, planned in world.presets.items()}
    cells = {name: found for name, found in cells.items() if found}
    about = tuple(claim for claim, planned in world.claims.items() if _of(planned, record.name, methods, orders))
    lacking = [] if tests else [f"no test names {use.text}"]
    lacking += [] if cells else [f"no preset has a cell of {use.text}"]
    return Found(use, record.name, methods, tests, cells, about, tuple(lacking))


def _resolve(
    name: str, operators: Mapping[str, hograd_core.Operator]
) -> tuple[hograd_core.Operator | None, int | None]:
    if name in operators:
        return operators[name], None
    return next(((o, o.aliases[name]) for o in operators.values() if name in o.aliases), (None, None))


def _of(
    cells: Iterable[Cell], operator: str, methods: tuple[str, ...], orders: tuple[int, ...] | None
) -> tuple[Cell, ...]:
    return tuple(
        c for c in cells if c.operator == operator and c.method in methods and (orders is None or c.order in orders)
    )


def faults(groups: Iterable[Group], world: World) -> list[str]:
    """Every promise that is not kept, a sentence each; empty where all are."""
    said = []
    for group in groups:
        found = [find(use, world) for item in group.items for use in item.uses]
        said += [f"{group.id}: {sentence}" for each in found for sentence in each.lacking]
        if not any(each.claims for each in found):
            names = ", ".join(sorted({each.operator for each in found if each.operator}))
            said.append(f"{group.id}: no claim has cells of {names or 'its uses'}; add a part to claims.toml")
    return said
