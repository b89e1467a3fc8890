"""Presets -> cells, with a reason for every skip. A preset is data (presets.toml); nothing here runs a kernel."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import hograd_core
from hograd_bench import measure, peers, problems
from hograd_bench.cells import DTYPES, PREPARATIONS, Cell
from hograd_bench.facts import at

PRESETS = Path(__file__).with_name("presets.toml")
FAMILIES = measure.ALL
MEMORY_BUDGET = 2**30
"""Bytes that a cell may be predicted to need before it is skipped; `hograd run --memory-budget` changes it."""

_ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
SIZES = ("n", "depth", "batch")


@dataclass(frozen=True)
class Planned:
    """A cell with the metric families wanted of it.

    Attributes:
        cell: what to measure.
        families: names of metric families.
        skip: why it is not attempted; None: it is.
        numel: entries of x; None where nobody asked, or the problem could not say.
    """

    cell: Cell
    families: tuple[str, ...] = FAMILIES
    skip: str | None = None
    numel: int | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_json` reads it back."""
        return {"cell": self.cell.id, "families": list(self.families), "skip": self.skip}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Planned:
        """Inverse of :meth:`to_json`."""
        return cls(Cell.parse(data["cell"]), tuple(data["families"]), data["skip"])


@dataclass(frozen=True)
class Sweep:
    """A cartesian product of cells. "*" means every one that fits; a list names them.

    Among methods, "exact" means hograd's but for approximations, "peers" those that peers provide (``peers``).

    Attributes:
        operator: name or alias; an alias ("hvp") fixes the order.
        methods, problems: names, or ("*",).
        n, depth, batch, order: sizes; a problem is not swept over a size that it does not have.
        dtype, device, threads, preparation: as in a cell.
        families: metric families wanted.
    """

    operator: str
    methods: tuple[str, ...] = ("*",)
    problems: tuple[str, ...] = ("*",)
    n: tuple[int, ...] = (8,)
    depth: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = (1,)
    order: tuple[int, ...] = (2,)
    dtype: tuple[str, ...] = ("float32",)
    device: tuple[str, ...] = ("cpu",)
    threads: tuple[int, ...] = (1,)
    preparation: tuple[str, ...] = ("eager",)
    families: tuple[str, ...] = FAMILIES

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "sweep") -> Sweep:
        """A sweep from a TOML table: every value may be a scalar or a list.

        Raises:
            ValueError: an unknown key, or no operator; the message names it and ``where``.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(table) - known)
        if unknown:
            raise ValueError(f"{where}: unknown key {unknown[0]!r}, expected some of {', '.join(sorted(known))}")
        if "operator" not in table:
            raise ValueError(f"{where}: no operator")
        given: dict[str, Any] = {k: tuple(v if isinstance(v, list) else [v]) for k, v in table.items()}
        return cls(**{**given, "operator": table["operator"]})


def expand(sweep: Sweep) -> list[Planned]:
    """Every cell of a sweep, in a fixed order, those that cannot be with the reason as ``skip``.

    Raises:
        ValueError: an unknown operator, method, problem, dtype or family; or a named problem that does not
            provide what the operator needs.
    """
    operator, fixed = hograd_core.resolve(sweep.operator)
    if fixed is None and operator.order is not None:
        fixed = operator.order
    orders = sweep.order if fixed is None else (fixed,)
    methods = list(dict.fromkeys(name for given in sweep.methods for name in _named(operator, given)))
    choices = (
        (sweep.dtype, DTYPES, "dtype"), (sweep.families, FAMILIES, "families"),
        (sweep.preparation, PREPARATIONS, "preparation"),
    )  # fmt: skip
    for given, allowed, label in choices:
        for value in given:
            if value not in allowed:
                raise ValueError(f"{label}: got {value!r}, expected one of {', '.join(allowed)}")
    cells: dict[Cell, Planned] = {}
    for problem in _fitting(operator, sweep.problems):
        axes = [getattr(sweep, size) if size in problem.sizes else (1,) for size in SIZES]
        for n, depth, batch in itertools.product(*axes):
            for order, dtype, device, count, preparation, name in itertools.product(
                orders, sweep.dtype, sweep.device, sweep.threads, sweep.preparation, methods
            ):
                cell = Cell(
                    operator.name, name, problem.name, n, order, depth, batch, dtype, device, count, preparation
                )  # fmt: skip
                found = peers.find(operator, name, order)
                if preparation != "eager" and "eager" in sweep.preparation and isinstance(found, peers.PeerMethod):
                    continue  # the same again: see _by_itself
                skip = _undefined(found, order) or _absent(found) or _by_itself(found, preparation)
                cells[cell] = Planned(cell, sweep.families, skip)
    return list(cells.values())


def _named(operator: hograd_core.Operator, given: str) -> list[str]:
    """The methods that a word of a sweep stands for."""
    if given == "exact":
        return [m.name for m in operator.methods.values() if m.exact]
    if given == "peers":
        return [m.name for m in peers.methods(operator)]
    return list(operator.methods) if given == "*" else [given]


def _fitting(operator: hograd_core.Operator, names: Sequence[str]) -> list[problems.Problem]:
    """The problems of those names that provide the operator's inputs."""
    chosen = list(problems.problems().values()) if tuple(names) == ("*",) else [problems.get(n) for n in names]
    needs = set(operator.inputs) - {"f", "x", "v"}
    fits = [p for p in chosen if needs <= set(p.provides)]
    if tuple(names) != ("*",) and len(fits) < len(chosen):
        lacking = next(p for p in chosen if p not in fits)
        missing = ", ".join(sorted(needs - set(lacking.provides)))
        raise ValueError(f"problem: {lacking.name!r} does not provide {missing}, which {operator.name} needs")
    return fits


def _undefined(method: hograd_core.Method, order: int) -> str | None:
    if method.supports(order):
        return None
    top = "" if method.max_order is None else f" to {method.max_order}"
    return f"{method.name} is defined for orders from {method.min_order}{top}"


def _absent(method: hograd_core.Method) -> str | None:
    return method.peer.absence if isinstance(method, peers.PeerMethod) else None


def _by_itself(method: hograd_core.Method, preparation: str) -> str | None:
    """A peer's method is prepared by the peer, whatever the field says."""
    return None if preparation == "eager" or not isinstance(method, peers.PeerMethod) else "a peer prepares by itself"


def merge(plans: Iterable[Planned]) -> list[Planned]:
    """One entry a cell, in order of first appearance, with the union of the families wanted."""
    merged: dict[Cell, Planned] = {}
    for planned in plans:
        known = merged.get(planned.cell)
        if known is not None:
            wanted = tuple(f for f in FAMILIES if f in known.families or f in planned.families)
            planned = replace(planned, families=wanted, skip=known.skip or planned.skip)
        merged[planned.cell] = planned
    return list(merged.values())


Sized = tuple[str, int, int, int]
"""An instance: problem, n, depth, batch."""
Census = Callable[[Sequence[Sized]], Sequence[int | None]]
"""Entries of x, of each; None where a problem does not say."""


@functools.cache
def _numel(at: Sized) -> int | None:
    return problems.numels([at], Exception)[0]


def census_here(instances: Sequence[Sized]) -> list[int | None]:
    """By calling the factories in this process, once each."""
    return [_numel(at) for at in instances]


def _instance(cell: Cell) -> Sized:
    return cell.problem, cell.n, cell.depth, cell.batch


def predicted_bytes(planned: Planned) -> int:
    """A lower bound on the bytes that the cell's result takes: numel^order entries for a full tensor, else numel.

    Deliberately only what is certain before anything ran (0 where x is not known); peaks of earlier runs know more
    (`run.py` asks them).
    """
    cell = planned.cell
    operator, _ = hograd_core.resolve(cell.operator)
    exponent = cell.order if operator.result == "x * order" else 1
    return int((planned.numel or 0) ** exponent) * _ITEMSIZE[cell.dtype]


def within_budget(plans: Iterable[Planned], budget: int = MEMORY_BUDGET, census: Census = census_here) -> list[Planned]:
    """The same plans with what is known of x; those whose result alone exceeds ``budget`` bytes carry that as ``skip``.

    Args:
        plans: the cells.
        budget: bytes.
        census: says how many entries x has.
    """
    plans = list(plans)
    instances = sorted({_instance(p.cell) for p in plans if p.skip is None and p.numel is None})
    known = dict(zip(instances, census(instances), strict=True))
    checked = []
    for planned in plans:
        if planned.skip is None:
            planned = replace(planned, numel=planned.numel or known[_instance(planned.cell)])
            need = predicted_bytes(planned)
            if need > budget:
                planned = replace(
                    planned, skip=f"the result alone needs {need:,} B, over the memory budget of {budget:,} B"
                )
        checked.append(planned)
    return checked


def load_presets(path: Path = PRESETS) -> dict[str, dict[str, Any]]:
    """The presets of a TOML file: name -> {"description": ..., "sweep": [tables]}."""
    with path.open("rb") as file:
        return dict(tomllib.load(file))


def sweeps(name: str) -> list[Sweep]:
    """The sweeps of a preset.

    Raises:
        ValueError: no such preset; the message lists those that exist.
    """
    known = load_presets()
    if name not in known:
        raise ValueError(f"preset: got {name!r}, expected one of {', '.join(known)}")
    tables = known[name]["sweep"]
    return [Sweep.from_table(t, f"presets.toml [{name}] sweep {i + 1}") for i, t in enumerate(tables)]


def changed(sweep: Sweep, on: Sequence[str] = (), **axes: tuple[Any, ...]) -> Sweep | None:
    """A sweep over other problems, where they fit its operator, and other sizes; None where no problem fits.

    Args:
        sweep: the one to change.
        on: names of problems; none: those of the sweep.
        axes: fields of a sweep with what to put there; nothing: what it has.
    """
    given: dict[str, Any] = {name: values for name, values in axes.items() if values}
    if on:
        operator, _ = hograd_core.resolve(sweep.operator)
        needs = set(operator.inputs) - {"f", "x", "v"}
        given["problems"] = tuple(name for name in on if needs <= set(problems.get(name).provides))
        if not given["problems"]:
            return None
    return replace(sweep, **given)


def of_cell(cell: Cell) -> Sweep:
    """A sweep of one cell."""
    return Sweep(
        cell.operator, (cell.method,), (cell.problem,), (cell.n,), (cell.depth,), (cell.batch,), (cell.order,),
        (cell.dtype,), (cell.device,), (cell.threads,), (cell.preparation,),
    )  # fmt: skip


def cells_of(sweeps: Iterable[Sweep | None]) -> list[Planned]:
    """The cells of sweeps, each once."""
    return merge(itertools.chain.from_iterable(expand(sweep) for sweep in sweeps if sweep is not None))


def preset(name: str, budget: int = MEMORY_BUDGET) -> list[Planned]:
    """The plan of a preset.

    Args:
        name: its name.
        budget: bytes that a cell's result may take.

    Raises:
        ValueError: no such preset; the message lists those that exist.
    """
    return within_budget(cells_of(sweeps(name)), budget)


def selected(plans: Iterable[Planned], text: str) -> list[Planned]:
    """The plans that a text means: the cells of an operator or alias of that name, or those whose id contains it."""
    try:
        operator, order = hograd_core.resolve(text)
    except ValueError:
        return [p for p in plans if text in p.cell.id]
    return [p for p in plans if p.cell.operator == operator.name and order in (None, p.cell.order)]


def facts(cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
    """What readers of these cells' rows must know of operators, problems and peers (facts.py), as JSON has it."""
    cells = list(cells)
    met = {c.operator: hograd_core.resolve(c.operator)[0] for c in cells}
    operators = {o.name: dict(o.aliases) for o in {**hograd_core.operators(), **met}.values()}
    operations: dict[str, int] = {}
    for name, n, depth, batch in sorted({(c.problem, c.n, c.depth, c.batch) for c in cells}):
        record = problems.problems().get(name)
        if record is not None and record.operations is not None:
            with contextlib.suppress(Exception, SystemExit):  # of somebody else's problem: then nobody has counted
                counted = record.operations(problems.Spec(n, depth, batch))
                operations[at(name, n, depth, batch)] = sum(map(int, counted.values()))
    theirs = peers.facts(cells)
    return {"operators": operators, "operations": operations, **({"peers": theirs} if theirs else {})}
