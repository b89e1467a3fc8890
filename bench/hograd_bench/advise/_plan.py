"""From a target's description to cells: which, in which order, and what each will cost. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hograd_bench.cells import Cell
from hograd_bench.laws.frames import ITEMSIZE

NEEDS = ("gradient", "hvp", "hessian_diagonal", "hessian")
"""What is advised on unless somebody asks for more, cheapest first."""
FULL: tuple[str, ...] = ("accuracy", "guarded", "memory", "time")
COUNTED: tuple[str, ...] = ("accuracy", "memory")
"""Metric families of a cell that is ranked, and of one that a law is made of."""
PREPARED = (*FULL, "preparation")
PREPARATIONS = {"graph": 1.0, "compiled": 15.0}
"""What is done once before many calls, and about how many seconds it takes, a check against truth included."""
FORETOLD = "not measured: "
"""How the reason of a skipped cell begins that was not begun."""
_TRUTH = 2.0
"""Products that an entry of the truth takes: it is computed in float64, one after another."""
_TRUTHS, _SWEEPS = 0.05, 64
"""Of the budget, what the truth of one operator may take; and sweeps that it may always take."""
CALLS = 14
"""How often a measured cell calls its method: warm-up, truth, instruments that slow it, and five rounds."""


@dataclass(frozen=True)
class Need:
    """An operator at an order, as a user asks for it.

    Attributes:
        name: an alias or the operator's own name.
        operator: canonical name.
        order: derivative order.
        full: whether the result has numel^order entries; else it has at most numel.
    """

    name: str
    operator: str
    order: int
    full: bool

    def entries(self, numel: int) -> int:
        """Entries of the result."""
        return int(numel**self.order) if self.full else numel

    def calls(self, numel: int) -> int:
        """Products that it amounts to."""
        return max(1, self.entries(numel) // numel) if self.full or self.operator != "hessian_diagonal" else numel


def needs(described: Mapping[str, Any], names: Sequence[str] = NEEDS, order: int | None = None) -> list[Need]:
    """What is advised on.

    Args:
        described: of the target.
        names: operators or aliases.
        order: also the derivatives of that order, from 3 on.

    Raises:
        ValueError: no such operator, or one that needs what the target does not have.
    """
    found = [_need(described, name, None) for name in names]
    if order is not None:
        found += [
            _need(described, name, order)
            for name in ("directional_derivative", "derivative_vector_product", "derivative_tensor")
        ]
    return found


def _need(described: Mapping[str, Any], name: str, order: int | None) -> Need:
    operators: Mapping[str, Any] = described["operators"]
    for operator, record in operators.items():
        fixed = record["order"] if name == operator else record["aliases"].get(name)
        if name != operator and fixed is None:
            continue
        lacking = set(record["inputs"]) - {"f", "x", "v"}
        if lacking and (described["form"] != "module" or not lacking <= {"module", "loss", "inputs", "targets"}):
            raise ValueError(
                f"operator: {name} takes {', '.join(record['inputs'])}; give a factory that returns (module, loss, "
                "inputs, targets)"
            )
        return Need(name, operator, order or fixed or 2, record["result"] == "x * order")
    known = sorted([*operators, *(alias for record in operators.values() for alias in record["aliases"])])
    raise ValueError(f"operator: got {name!r}, expected one of {', '.join(known)}")


def methods(described: Mapping[str, Any], need: Need) -> list[Mapping[str, Any]]:
    """The methods that are defined for a need; what auto takes first, so that it is measured whatever time is left."""
    record = described["operators"][need.operator]
    fit = [
        m
        for m in record["methods"]
        if m["min_order"] <= need.order and (m["max_order"] is None or need.order <= m["max_order"])
    ]
    first = {name: place for place, name in enumerate(record["first"])}
    return sorted(fit, key=lambda m: (first.get(m["name"], len(first)), not m["exact"]))


def cell(described: Mapping[str, Any], problem: str, need: Need, method: str, n: int | None = None) -> Cell:
    """The cell of a method, at the target's own size or another."""
    return Cell(
        need.operator, method, problem, n or described["n"], need.order, dtype=described["dtype"],
        device=described["device"],
    )  # fmt: skip


def ranked(described: Mapping[str, Any], problem: str, wanted: Sequence[Need]) -> Iterator[tuple[Need, Cell]]:
    """Every compatible method of every need at the target's own size; the first of each need before any second."""
    turns = itertools.zip_longest(*([(need, m["name"]) for m in methods(described, need)] for need in wanted))
    for need, method in filter(None, itertools.chain.from_iterable(turns)):
        yield need, cell(described, problem, need, method)


def prepared(
    described: Mapping[str, Any], problem: str, wanted: Sequence[Need], preparations: Sequence[str]
) -> Iterator[tuple[Need, Cell]]:
    """The exact ones made ready for many calls, where x is one tensor and f a function of it alone."""
    if described["leaves"] or described["has_args"]:
        return
    for need, planned in ranked(described, problem, wanted):
        exact = {m["name"] for m in methods(described, need) if m["exact"]}
        if planned.method in exact and set(described["operators"][need.operator]["inputs"]) <= {"f", "x", "v"}:
            for preparation in preparations:
                yield need, replace(planned, preparation=preparation)


def result_bytes(described: Mapping[str, Any], need: Need) -> int:
    """What the result alone takes."""
    return need.entries(described["numel"]) * ITEMSIZE[described["dtype"]]


def product_seconds(described: Mapping[str, Any]) -> float:
    """Of an HVP, or a guess where there is none."""
    return float(described["hvp_seconds"] or 5 * described["gradient_seconds"])


def sweeps(described: Mapping[str, Any], budget: float) -> int:
    """Sweeps that a float64 truth may take within a budget of seconds; results that need more are held at samples."""
    return max(_SWEEPS, int(_TRUTHS * budget / (_TRUTH * product_seconds(described))))


def foretold_seconds(described: Mapping[str, Any], need: Need, method: str) -> float | None:
    """What a call takes that nobody made, from one product: of methods that make them one after another; else None."""
    mode = next(m["mode"] for m in described["operators"][need.operator]["methods"] if m["name"] == method)
    if not mode.endswith(("a sweep an entry", "one product a column")) or described["hvp_seconds"] is None:
        return None
    return float(described["hvp_seconds"] * 3.0 ** (need.order - 2) * need.calls(described["numel"]))


def seconds(
    described: Mapping[str, Any], need: Need, method: str, budget: float, n: int | None = None, *, truth: bool = True
) -> float:
    """About what measuring a method of a need takes, from the time of a gradient and of an HVP.

    Args:
        described: of the target.
        need: what is computed.
        method: by which; one that vectorises is taken to make a product in a quarter of the time.
        budget: in seconds, by which the truth is sampled.
        n: another size than the target's, where x and f are taken to grow in proportion.
        truth: whether the float64 truth is still to be computed, entry by entry.
    """
    scale = (n or described["n"]) / described["n"]
    product = product_seconds(described)
    one = described["gradient_seconds"] if need.order == 1 else product * 3.0 ** (need.order - 2)
    calls = need.calls(max(1, round(described["numel"] * scale)))
    mode = next(m["mode"] for m in described["operators"][need.operator]["methods"] if m["name"] == method)
    mine = max(1.0, calls / 4) if "vectorised" in mode else calls
    return float(max(scale, 0.1) * one * (CALLS * mine + _TRUTH * min(calls, sweeps(described, budget)) * truth))
