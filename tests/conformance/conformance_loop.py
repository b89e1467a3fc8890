"""Every method of every operator, on every problem, against truth: the loop that tests go through."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hograd_bench import problems
from torch import Tensor

import hograd_core
from hograd_core import Method, Operator, UnsupportedError, reference

SIZES = {"n": 3, "depth": 2, "batch": 2}
# Highest order in each dtype, and for networks: 1.001 must be told from 1 in the first two.
ORDERS = {torch.float64: (4, 3), torch.float32: (3, 2), torch.bfloat16: (2, 2), torch.float16: (2, 1)}
HALF = (torch.bfloat16, torch.float16)


def orders(problem: str, dtype: torch.dtype) -> range:
    """The orders to try."""
    return range(1, ORDERS[dtype][problems.get(problem).family == "network"] + 1)


def affordable(operator: Operator, n: int, order: int) -> bool:
    """Whether a derivative of that order in n variables takes little enough for a test."""
    if not operator.takes_order:
        return True
    if operator.result == "x * order":
        return n**order <= (5_000 if order <= 2 else 220)
    return order <= 2 or n <= 12


@dataclasses.dataclass(frozen=True)
class Case:
    """An instance in the dtype that is tested and the same in float64."""

    problem: str
    instance: problems.Instance
    precise: problems.Instance
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one method on one case: status is ok, unsupported, wrong or failed."""

    operator: str
    method: str
    problem: str
    order: int
    dtype: str
    status: str
    reason: str = ""

    def __str__(self) -> str:
        at = f"{self.operator}[{self.method}] on {self.problem}, order {self.order}, {self.dtype}"
        return f"{self.status}: {at}: {self.reason}"


def make_case(name: str, dtype: torch.dtype, n: int | None = None) -> Case:
    """The problem of that name at a small size; a network of width 1 has tens of parameters already."""
    problem = problems.get(name)
    n = n or (1 if problem.family == "network" else SIZES["n"])
    spec = problems.Spec(n, *(SIZES[size] if size in problem.sizes else 1 for size in ("depth", "batch")))
    return Case(name, problem.instance(spec, dtype), problem.instance(spec, dtype, precise=True), dtype)


def reshaped(case: Case, *shape: int) -> Case:
    """The same problem as a function of a tensor of another shape."""

    def reshape(instance: problems.Instance) -> problems.Instance:
        original = instance.x.shape
        assert instance.v is not None
        return problems.Instance(
            f=lambda x: instance.f(x.reshape(original)), x=instance.x.reshape(shape), v=instance.v.reshape(shape)
        )

    return Case(case.problem, reshape(case.instance), reshape(case.precise), case.dtype)


def fits(operator: Operator, instance: problems.Instance) -> bool:
    """Whether the instance has the operator's arguments, which it finds by name."""
    return set(operator.inputs) <= {"f", "x", "v", *instance.extras}


def leaves(result: Any) -> Iterator[Tensor]:
    """The tensors of a result."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, dict):
        for value in result.values():
            yield from leaves(value)
    elif isinstance(result, tuple | list):
        for value in result:
            yield from leaves(value)


def check(operator: Operator, method: Method, case: Case, order: int, true: list[reference.Truth]) -> Outcome:
    """Run one method on one case, as its user has the arguments, and hold its result at every point against truth."""
    arguments, given = case.instance.call(operator)
    outcome = functools.partial(Outcome, operator.name, method.name, case.problem, order, str(case.dtype)[6:])
    points = list(leaves(case.instance.own.x))
    before = [t.clone() for t in points]
    keywords: dict[str, Any] = {"order": order} if operator.takes_order else {}
    drawn = {"samples": 256} if "samples" in method.options else {}
    torch.manual_seed(0)  # estimators draw from the global generator: as the suite's, whatever tests ran before
    try:
        result = operator(*arguments, method=method.name, **given, **keywords, **drawn)
    except UnsupportedError as error:
        return outcome("unsupported", error.reason)
    except Exception as error:
        return outcome("failed", f"{type(error).__name__}: {error}")
    if not all(map(torch.equal, before, points)) or any(t.grad is not None for t in points):
        return outcome("wrong", "the method changed x or its .grad")
    if any(t.requires_grad for t in leaves(result)) or any(t.is_inference() for t in leaves(result)):
        return outcome("wrong", "the result carries a graph")
    if any(t.is_floating_point() and t.dtype != case.dtype for t in leaves(result)):
        return outcome("wrong", f"the result has dtype {[t.dtype for t in leaves(result)]}")
    found = zip(case.instance.flat(result, operator, order), true, strict=True)
    deviation = max(reference.relative_error(one, t.value, t.scale) for one, t in found)
    allowed = reference.tolerance(method, case.dtype, order)
    if drawn:  # some hundred draws have to come near
        allowed = min(allowed, 1.0)
    return outcome("ok") if deviation <= allowed else outcome("wrong", f"error {deviation:.3g} > {allowed:.3g}")


def orders_of(operator: Operator, case: Case, tried: range) -> list[int]:
    """Those of the orders that the operator has and that take little enough on the case."""
    candidates = tried if operator.takes_order else [operator.order or 1]
    return [order for order in candidates if affordable(operator, case.precise.x.numel(), order)]


def loop(case: Case, operators: dict[str, Operator], tried: range) -> Iterator[Outcome]:
    """Every method of the operators that the case has arguments for, at every order."""
    for operator in operators.values():
        if not fits(operator, case.precise) or not reference.has_truth(operator.name):
            continue
        derivative = operator.takes_order or operator.order == 1
        # Eigenvalues and linear solves: LAPACK has no half precision, and one precision is enough where they are slow.
        if not derivative and (case.dtype in HALF or (case.dtype == torch.float32 and case.precise.x.numel() > 12)):
            continue
        for order in orders_of(operator, case, tried):
            methods = [m for m in operator.methods.values() if m.supports(order)]
            at = order if operator.takes_order else None
            true = [reference.true_value(operator.name, *point, order=at) for point in case.precise.each(operator)]
            for method in methods:
                yield check(operator, method, case, order, true)


def near(result: Tensor, truth: Tensor, reference: Tensor) -> bool:
    """Whether a result is as near to float64 truth as the eager one, within a few roundings."""
    eps = torch.finfo(result.dtype).eps
    scale = truth.abs().max()
    allowed = 4 * (reference.double() - truth).abs().max() + 64 * eps * scale
    return bool(((result.double() - truth).abs() <= allowed).all())


# --- what PyTorch cannot do ---------------------------------------------------------------------------------


def expected_unsupported() -> set[tuple[str, str, str, int, str]]:
    """unsupported.toml, one tuple for each combination."""
    entries = tomllib.loads((Path(__file__).parent / "unsupported.toml").read_text(encoding="utf-8"))
    return {
        (operator, method, entry["problem"], order, kind)
        for entry in entries["unsupported"]
        for kind in [entry["kind"]]
        for key, orders in entry["combinations"].items()
        for operator, method in [key.split("/")]
        for order in orders
    }


def listed(entries: set[tuple[str, str, str, int, str]]) -> str:
    """One line for each."""
    return "\n".join(map(str, sorted(entries)))


def agrees(name: str, dtype: torch.dtype) -> None:
    """Assert that every method is right on a problem, or unsupported where the table says so."""
    outcomes = list(loop(make_case(name, dtype), hograd_core.operators(), orders(name, dtype)))
    assert outcomes
    wrong = [str(o) for o in outcomes if o.status in ("wrong", "failed")]
    assert not wrong, "\n".join(wrong)
    seen = {
        (o.operator, o.method, o.problem, o.order, o.reason.partition(":")[0])
        for o in outcomes
        if o.status == "unsupported"
    }
    tried = {(o.operator, o.method, o.problem, o.order) for o in outcomes}
    expected = {entry for entry in expected_unsupported() if entry[:4] in tried}
    new, gone = (listed(difference) for difference in (seen - expected, expected - seen))
    assert not new, f"newly unsupported: a regression, or entries for unsupported.toml:\n{new}"
    assert not gone, f"supported now: take out of unsupported.toml:\n{gone}"
