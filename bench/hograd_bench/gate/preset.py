"""The gate's cells: every method of every operator on a small problem. New operators are covered by being there.

Exact metrics are taken of all of them. Time is compared for a part (:func:`timed`): every operator by its default
method. Sizes are small, so that calls stay shorter than a
scheduler's time slice and even a loaded machine lets some run untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import hograd_core
from hograd_bench import peers, problems
from hograd_bench.cells import Cell
from hograd_bench.engine import child
from hograd_core import Method, Operator

# Products of the derivative families cost one call; most else costs n of them or more, so n is small there.
SMALL = {"n": 6, "depth": 2, "batch": 4}
SMALL_HIGHER = {"n": 3, "depth": 2, "batch": 4}
VECTOR = {"n": 16, "depth": 2, "batch": 4}
# First choice where it fits; else the first problem by name that provides what the operator needs.
PREFERRED = ("mlp", "mlp_loss")
HIGHER_ORDER = 3
# A structure of weights with the batch beside it, and samples one by one: what the entrance does for them is guarded.
STRUCTURED = ("params_loss", "sample_losses")


def _problems_for(operator: Operator) -> list[problems.Problem]:
    needs = set(operator.inputs) - {"f", "x", "v"}
    fitting = [p for p in problems.problems().values() if needs <= set(p.provides)]
    rank = {name: i for i, name in enumerate(PREFERRED)}
    return sorted(fitting, key=lambda p: (rank.get(p.name, len(rank)), p.name))


def _cell(operator: Operator, method: Method, problem: problems.Problem, order: int) -> Cell:
    small = SMALL if order < HIGHER_ORDER else SMALL_HIGHER
    sizes = VECTOR if operator.takes_order and not operator.result.startswith("x *") else small
    n, depth, batch = (sizes[size] if size in problem.sizes else 1 for size in ("n", "depth", "batch"))
    return Cell(operator.name, method.name, problem.name, n, order, depth, batch)


def cells(operators: Iterable[Operator] | None = None) -> list[Cell]:
    """The preset: each method once at order 2 (or the operator's own), each operator's default also at order 3.

    Derivatives also with arguments as people have them: see :data:`STRUCTURED`.

    Args:
        operators: those to cover; all that are registered where None.

    Returns:
        Cells in a fixed order. An operator that no problem fits has none.
    """
    chosen: list[Cell] = []
    for operator in operators if operators is not None else hograd_core.operators().values():
        fitting = _problems_for(operator)
        if not fitting:
            continue
        for method in operator.methods.values():
            orders = [2 if operator.order is None else operator.order]
            if operator.takes_order and method.name == operator.default:
                orders.append(HIGHER_ORDER)
            for order in orders:
                if not operator.takes_order or method.supports(order):
                    chosen.append(_cell(operator, method, fitting[0], order))
        if operator.takes_order and not set(operator.inputs) - {"f", "x", "v"}:
            vectorised = next(m for m in operator.methods.values() if m.functorch)
            for name, method in zip(STRUCTURED, (operator.method(operator.default), vectorised), strict=True):
                chosen.append(_cell(operator, method, problems.get(name), 2))
    return list(dict.fromkeys(chosen))


def timed(among: Iterable[Cell]) -> list[Cell]:
    """Those cells whose time is compared: every operator by its default method.

    What a run can tell depends on the time it has for each cell: more cells would each be seen less sharply. Other
    methods are compared when they are named (``--cell``), and their exact metrics always are.
    """
    kept = []
    for cell in among:
        operator, _ = hograd_core.resolve(cell.operator)
        if cell.method == operator.default and (cell.order < HIGHER_ORDER or not operator.takes_order):
            kept.append(cell)
    return kept


def with_methods(base: Sequence[Cell], a: str, b: str) -> list[tuple[Cell, Cell]]:
    """Pairs of cells that differ in the method alone, for operators that have both.

    Args:
        base: cells whose operator, problem and sizes are used.
        a: name of a method.
        b: name of another method of the same operator.

    Returns:
        One pair for every setting in ``base`` that both methods are defined for.

    Raises:
        ValueError: no operator in ``base`` has both methods.
    """
    pairs: dict[tuple[Cell, Cell], None] = {}
    for cell in base:
        operator, _ = hograd_core.resolve(cell.operator)
        if all(_has(operator, name, cell.order) for name in (a, b)):
            fields = cell.as_dict()
            pairs[Cell(**{**fields, "method": a}), Cell(**{**fields, "method": b})] = None
    if not pairs:
        met = [hograd_core.resolve(cell.operator)[0] for cell in base]
        known = {name for operator in met for name in (*operator.methods, *(m.name for m in peers.methods(operator)))}
        raise ValueError(
            f"methods: no operator of these cells has both {a!r} and {b!r} at its order; "
            f"methods here: {', '.join(sorted(known))}"
        )
    return list(pairs)


def _has(operator: Operator, name: str, order: int) -> bool:
    """Whether an operator has that method, hograd's or a peer's, at an order."""
    try:
        return peers.find(operator, name, order).supports(order)
    except ValueError:
        return False


_BUILTIN: dict[str, set[str]] = {}


def load_plugins(plugins: Sequence[str], roots: Sequence[str]) -> None:
    """Import what registers further operators, methods or problems, and remember what was there before.

    Args:
        plugins: modules or files.
        roots: folders put first on the module path.

    Raises:
        ValueError: a plugin cannot be imported.
    """
    _BUILTIN.clear()
    _BUILTIN.update(
        methods={f"{o.name}/{m}" for o in hograd_core.operators().values() for m in o.methods},
        problems=set(problems.problems()),
    )
    if not plugins:
        return
    sys.path[:0] = [r for r in roots if r not in sys.path]
    for plugin in plugins:
        try:
            child.load({"plugins": [plugin], "problem_files": []})
        except Exception as error:
            raise ValueError(f"--plugin: {plugin} cannot be imported ({type(error).__name__}: {error})") from error


def added() -> list[Cell]:
    """Cells of what plugins registered: their methods in the preset's setting, defaults on their problems."""
    fresh = [c for c in cells() if f"{c.operator}/{c.method}" not in _BUILTIN["methods"]]
    for name, problem in problems.problems().items():
        if name in _BUILTIN["problems"]:
            continue
        for operator in hograd_core.operators().values():
            if set(operator.inputs) - {"f", "x", "v"} <= set(problem.provides):
                method = operator.method(operator.default)
                order = operator.order if operator.order is not None else 2
                fresh.append(_cell(operator, method, problem, order))
    return list(dict.fromkeys(fresh))


def foreign(cell: str) -> bool:
    """Whether the method or the problem of a cell's id is none of hograd's own: a plugin brings it, or brought it."""
    operator, method, problem, *_ = [*cell.split("/"), "", ""]
    return f"{operator}/{method}" not in _BUILTIN["methods"] or problem not in _BUILTIN["problems"]


def chosen(ids: Sequence[str], only: str, *, restricted: bool = False) -> list[Cell]:
    """The cells that a person asked for.

    Args:
        ids: cells by id; the preset where none is given.
        only: text that an id must contain.
        restricted: without ids, take what plugins added instead of the whole preset.

    Returns:
        Cells; never none.

    Raises:
        ValueError: an id is none, or nothing is left.
    """
    preset = added if restricted else cells
    picked = [Cell.parse(text) for text in ids] if ids else preset()
    kept = [c for c in dict.fromkeys(picked) if only in c.id]  # named twice, a cell would count every pair twice
    if not kept:
        raise ValueError(f"cells: no id of {len(picked)} cells contains {only!r}; `--only ''` keeps all of them")
    return kept
