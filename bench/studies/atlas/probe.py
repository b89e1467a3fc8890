"""One case by every method and order: what PyTorch makes of it.

The kernels are called without the guard that refuses what is known to be wrong (``hazards.ignored``).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import hograd_core
from hograd_core._entrance import entered
from hograd_core._unsupported import UnsupportedError, pytorch_limit
from hograd_core.hazards import ignored
from studies.atlas.cases import Case, scalar
from studies.atlas.truth import DoubtError, Truth, truth

ORDERS = (2, 3)
OPERATORS = ("derivative_tensor", "derivative_vector_product", "directional_derivative")
TOLERANCE = {2: 1e-3, 3: 1e-2}
MARGIN = 3.0
"""Errors within this factor of the tolerance are near it: another CPU may see another status."""
GLUE = re.compile(
    r"^(Add|Mul|Mv|View|Sum|Dot|Exp|UnsafeView|Real|Imag|Reshape|Select|ViewAsReal)Backward\d+$|AccumulateGrad"
)


@dataclass(frozen=True)
class Outcome:
    """What a method makes of a case at an order.

    Attributes:
        method, order: who.
        status: right, unsupported, wrong, nonfinite, raised.
        error: relative error of a finite result.
        message: first line of what was raised.
    """

    method: str
    order: int
    status: str
    error: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Finding:
    """A case with its outcomes, or why there is no truth.

    Attributes:
        sample: the case's sample in words.
        doubts: order -> why nothing is judged there; order 0: at any.
        nodes: names of the nodes of f's graph without those of the sum around the operator.
        outcomes: one for each method and order with a truth.
    """

    sample: str
    doubts: dict[int, str]
    nodes: tuple[str, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)


def methods() -> list[tuple[str, str]]:
    """Operator and method names, all of them that are exact; their own names are unique."""
    table = hograd_core.operators()
    return [(o, m.name) for o in OPERATORS for m in table[o].methods.values() if m.exact]


def clean(error: BaseException) -> str:
    """First line of a message without addresses, and of what was modified in place no more than that."""
    lines = str(error).strip().splitlines() or [""]
    message = re.sub(r"(modified by an inplace operation).*", r"\1", lines[0])
    return re.sub(r"0x[0-9a-f]+", "0x…", message)[:160]


def nodes(f: Callable[[Tensor], Tensor], z: Tensor) -> tuple[str, ...]:
    """Names of the nodes that the operator puts on the tape."""
    y = f(z.clone().requires_grad_())
    seen, stack, found = set(), [y.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if not GLUE.search(node.name()):
            found.add(node.name())
        stack.extend(before for before, _ in node.next_functions)
    return tuple(sorted(found))


def _errors(operator: str, result: Tensor, want: Truth, order: int) -> float:
    """Relative error; of a tensor the worst over which slot is left open."""
    v, expected = want.v, want.products[order]
    if operator == "directional_derivative":
        return abs(float(result) - float(expected @ v)) / want.scale(order)
    if operator == "derivative_vector_product":
        return float((result - expected).norm()) / want.scale(order)
    found = []
    for slot in range(order):
        contracted = result.movedim(slot, 0)
        for _ in range(order - 1):
            contracted = contracted @ v
        found.append(float((contracted - expected).norm()) / want.scale(order))
    return max(found)


def judge(operator: str, method: str, order: int, result: Tensor, wants: list[Truth]) -> Outcome:
    """Hold one result for each direction against the truth; the worst counts."""
    if not bool(result.isfinite().all()):
        return Outcome(method, order, "nonfinite")
    error = max(_errors(operator, r, want, order) for r, want in zip(result, wants, strict=True))
    return Outcome(method, order, "right" if error <= TOLERANCE[order] else "wrong", error)


def attempt(
    operator: str, method: str, order: int, f: Callable[[Tensor], Tensor], z: Tensor, wants: list[Truth]
) -> Outcome:
    """One method at one order."""
    record = hograd_core.operators()[operator]
    kernel: Callable[..., Any] = record.methods[method].function
    try:
        with warnings.catch_warnings(), ignored(), entered():
            warnings.simplefilter("ignore")
            if operator == "derivative_tensor":
                result = kernel(*record.guard(f, z, order), order=order)
                results = torch.stack([result.detach()] * len(wants))
            else:
                results = torch.stack(
                    [kernel(*record.guard(f, z, want.v, order), order=order).detach() for want in wants]
                )
    except UnsupportedError as error:
        return Outcome(method, order, "unsupported", message=re.sub(r"\s+", " ", error.reason)[:200])
    except Exception as error:
        limit = pytorch_limit(error)
        if limit is not None:
            return Outcome(method, order, "unsupported", message=limit[:200])
        return Outcome(method, order, "raised", message=f"{type(error).__name__}: {clean(error)}")
    return judge(operator, method, order, results, wants)


def probe(case: Case, only: tuple[str, ...] = ()) -> Finding:
    """A case by every method (or by ``only``) at every order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f, z = scalar(case)
            generator = torch.Generator().manual_seed(1)
            wants = []
            for _ in range(2):
                v = torch.randn(z.shape, generator=generator, dtype=z.dtype)
                wants.append(truth(f, z, v / v.norm(), ORDERS))
    except DoubtError as doubt:
        return Finding(case.sample, {0: str(doubt)})
    except Exception as error:
        return Finding(case.sample, {0: f"{type(error).__name__}: {clean(error)}"})
    doubts = {order: why for want in wants for order, why in want.doubts.items()}
    outcomes = [
        # One direction is random enough at order 3, where each costs most.
        attempt(operator, method, order, f, z, wants if order == 2 else wants[:1])
        for order in ORDERS
        if order not in doubts
        for operator, method in methods()
        if hograd_core.operators()[operator].methods[method].supports(order) and (not only or method in only)
    ]
    return Finding(case.sample, doubts, nodes(f, z), outcomes)
