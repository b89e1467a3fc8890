"""Prepared kernels on every problem, against float64 truth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conformance_loop import Case, make_case, near
from hograd_bench import problems
from prepare_fakes import EVERY, needs_compiler
from torch import Tensor

import hograd_core as h
from hograd_core import UnsupportedError, prepare
from hograd_core._registry import resolve
from hograd_core.arguments import mapped
from hograd_core.prepare.graphs import _trace
from hograd_core.prepare.inductor import _compile

pytestmark = [pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")]
QUICK = {"log_sum_exp", "powers", "separable_exp", "quadratic", "mlp"}
PROBLEMS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(problems.problems())]
UNPREPARED = {"sdpa_attention_loss": "PyTorch's fused attention has no second derivative"}

DRAWING = {"sdpa_attention_loss"}
"""PyTorch says of its fused attention that it draws random numbers, which it does for dropout."""


@pytest.mark.parametrize("preparation", EVERY)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem(name: str, preparation: str) -> None:
    case = make_case(name, torch.float32)
    own, precise = case.instance.own, case.precise
    if own.in_dims is not None:  # a prepared kernel is of one point: the first one's function
        own = case.instance
    if name in UNPREPARED:
        with pytest.raises(UnsupportedError):
            prepare(h.hvp, own.f, own.x, args=own.args, preparation=preparation)
        return
    calls: list[tuple[Any, bool]] = [(h.hvp, True)]
    if preparation == "graph" or name in QUICK:  # a product's graph holds the gradient's
        calls.append((h.gradient, False))
    if case.precise.x.numel() <= 16:
        calls.append((h.hessian, False))
    for operator, takes_v in calls:
        given = (own.x, own.v) if takes_v else (own.x,)
        p = prepare(operator, own.f, own.x, args=own.args, preparation=preparation)
        assert p.preparation == preparation, p.explain()
        truth = operator(precise.f, precise.x, *([precise.v] if takes_v else [])).reshape(-1)
        eager = flat(case, operator, operator(own.f, *given, args=own.args))
        assert near(flat(case, operator, p(*given, args=own.args)), truth, eager)
        if not takes_v:
            continue
        bound = p.bind(own.x, args=own.args)
        assert near(flat(case, operator, bound(own.v)), truth, eager)
        both = bound(mapped(lambda leaf: torch.stack([leaf, -leaf]), own.v), in_dims=0)
        assert not any(binding is None for binding in bound.bindings.values())
        for i, sign in enumerate((1, -1)):
            one = flat(case, operator, mapped(lambda leaf, i=i: leaf[i], both))
            assert near(sign * one, truth, eager)


def flat(case: Case, operator: Any, result: Any) -> Tensor:
    """The numbers of a result at one point, in the order of the elements of x."""
    record, order = resolve(operator.__name__)
    whole = [result] if case.instance.own.in_dims is not None else case.instance.flat(result, record, order or 1)
    numbers: Tensor = whole[0].reshape(-1)
    return numbers


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("operator", [h.hvp, h.hessian])
@pytest.mark.parametrize("averted", [True, False])
def test_a_fault_of_inductor_is_averted_or_noticed(
    operator: Any, averted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Hessians of traces (pytorch #190855) and of windows are silently wrong in torch 2.13."""
    if not averted:
        monkeypatch.setattr(_compile, "_write_to_whole", lambda module: None)
        monkeypatch.setattr(_trace, "_INSTEAD", {})

    scale = 2.0 + averted  # a kernel of its own: what lies on the disk is found

    def trace(x: Tensor) -> Tensor:
        return scale * torch.trace(x.view(3, 3) @ x.view(3, 3)) ** 2

    def windows(x: Tensor) -> Tensor:
        return scale * x.unfold(0, 3, 1).prod(1).sum()

    x, v = torch.linspace(0.5, 1.5, 9), torch.linspace(1, 2, 9)
    more = (v,) if operator is h.hvp else ()
    for f in (trace, windows):
        p = prepare(operator, f, x, preparation="compiled")
        assert torch.allclose(p(x, *more), operator(f, x, *more), rtol=1e-4, atol=1e-5), p.explain()
        assert p.preparation == "compiled" or not averted, p.explain()


@pytest.mark.parametrize("name", PROBLEMS)
def test_taylor_passes_of_every_problem(name: str) -> None:
    """Order 3, or 2 of losses, whose parameters are many."""
    case = make_case(name, torch.float32)
    instance, precise = case.instance, case.precise
    order = 3 if instance.x.numel() <= 64 else 2
    truth = h.directional_derivative(precise.f, precise.x, precise.v, order, method="taylor")
    eager = h.directional_derivative(instance.f, instance.x, instance.v, order, method="taylor")
    p = prepare(h.directional_derivative, instance.f, instance.x, order=order, method="taylor", preparation="graph")
    assert p.preparation == ("eager" if name in DRAWING else "graph"), p.explain()
    assert ("draws random numbers" in p.explain()) == (name in DRAWING)
    assert instance.v is not None
    result = p(instance.x, instance.v)
    allowed = 4 * (eager.double() - truth).abs() + 4**order * 64 * torch.finfo(torch.float32).eps * truth.abs()
    assert (result.double() - truth).abs() <= allowed, p.explain()
