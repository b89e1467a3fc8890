"""A target as a problem: at every size the same function, at its own precision and in float64 for the truth."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hograd_bench.problems import Draw, Instance, Spec, problem
from hograd_bench.targets._load import Loaded, Target, TargetError, load
from hograd_bench.targets._request import Request
from hograd_bench.targets._wide import wide
from hograd_core import from_module
from hograd_core.arguments import leaves
from hograd_core.reference import TruthError

PROBLEM = "target"
"""What the problem is called in cells, in processes that hold one target."""
_COUNT = itertools.count(1)


def declare(
    request: Request | Mapping[str, Any],
    name: str = PROBLEM,
    held: list[Target] | None = None,
    sweeps: int | None = None,
) -> None:
    """Declare a target as a problem of that name.

    It is loaded when it is first built: what its code does then, it does within the limits of a cell.

    Args:
        request: which target; or what :meth:`Request.to_json` made of that.
        name: of the problem.
        held: the target itself, where it is here already.
        sweeps: what its truths may take; as an ``Instance`` has it.
    """
    asked = request if isinstance(request, Request) else Request.from_json(request)
    targets = [] if held is None else held
    made: dict[int, Loaded] = {}

    def loaded(n: int) -> Loaded:
        if not targets:
            targets.append(load(asked))
        if n not in made:
            made.clear()  # one size at a time, which may be large
            made[n] = targets[0].at(n)
        return made[n]

    @problem(
        name,
        formula=asked.target,
        source="yours",
        family="application",
        sizes={"n": "size of the target"},
    )
    def build(spec: Spec, draw: Draw) -> Instance:
        here = loaded(spec.n)
        if draw.precise:
            precise = _precise(here)
            _check_same(here, precise)
            return precise
        if here.x.dtype != draw.dtype:
            raise TargetError(f"dtype: got a cell of {draw.dtype}, but x is {here.x.dtype}")
        own = here.given
        if own is None or len({(leaf.dtype, leaf.device) for leaf in leaves(own.x)}) > 1:  # a cell has one of each
            return Instance(here.f, here.x, extras=here.extras, sweeps=sweeps)
        return Instance(own.f, own.x, args=own.args, sweeps=sweeps)


@contextlib.contextmanager
def declared(target: Target, sweeps: int | None = None) -> Iterator[str]:
    """The name of a problem that a target of this process is inside the block; afterwards it is let go of."""
    held = [target]
    name = f"{PROBLEM}-{next(_COUNT)}"  # what is remembered of a problem, is remembered by its name
    declare(target.request, name, held, sweeps)
    try:
        yield name
    finally:
        held.clear()


def _precise(made: Loaded) -> Instance:
    """In float64 on the CPU, at exactly the values that methods see."""
    x = made.x.to("cpu", torch.float64)
    if not made.extras:
        return Instance(wide(made.f), x)
    module: nn.Module = copy.deepcopy(made.extras["module"]).to("cpu", torch.float64)
    inputs, targets = tree_map(_precisely, (made.extras["inputs"], made.extras["targets"]))
    loss = made.extras["loss"]
    f, _ = from_module(module, loss, (inputs, targets))
    return Instance(wide(f), x, extras={"module": module, "loss": loss, "inputs": inputs, "targets": targets})


def _check_same(made: Loaded, precise: Instance) -> None:
    """Hold the value in float64 against the value that f gives.

    Raises:
        TruthError: they are of different functions.
    """
    value = made.f(made.x).detach().double().cpu()
    point = precise.x.requires_grad_()
    exact = precise.f(point)
    slope = torch.zeros_like(point)
    if exact.requires_grad:
        (slope,) = torch.autograd.grad(exact, point, allow_unused=True, materialize_grads=True)
    # What cancels in f is of the size of its terms, of which x times the gradient tells.
    scale = exact.detach().abs() + (slope * point.detach()).abs().sum()
    precise.x = point.detach()
    allowed = torch.finfo(made.x.dtype).eps ** 0.5 * scale
    if bool((value - exact.detach()).abs() > allowed):
        raise TruthError(
            f"f is {value.item():.6g} in {made.x.dtype} and {exact.item():.6g} in float64: it depends on the dtype, "
            "on state, or on chance"
        )


def _precisely(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to("cpu", torch.float64) if value.is_floating_point() else value.cpu()
