"""Prepared kernels at points that are structures of tensors: parameters of modules among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import close, needs_compiler
from torch import Tensor, nn
from torch.func import functional_call

import hograd_core as h
from hograd_core import prepare
from hograd_core.arguments import leaves

Params = dict[str, Any]


def f(x: Params, scale: Tensor) -> Tensor:
    a, (b, c) = x["a"], x["rest"]
    return ((a @ b).tanh() * c).square().sum() * scale + c.pow(4).sum()


SCALE = torch.tensor(1.5, dtype=F64)


def point(seed: int = 0) -> Params:
    return {"a": normal(2, 3, seed=seed), "rest": [normal(3, 2, seed=seed + 1), normal(2, seed=seed + 2)]}


def same(found: Any, expected: Any) -> bool:
    pairs = zip(leaves(found), leaves(expected), strict=True)
    return type(found) is type(expected) and all(a.shape == b.shape and close(a, b) for a, b in pairs)


COMPILED_HVP = pytest.param(h.hvp, True, "compiled", marks=needs_compiler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "takes_v", "preparation"),
    [(h.hvp, True, "graph"), (h.gradient, False, "graph"), (h.hessian, False, "graph"), COMPILED_HVP],
)
def test_results_are_structures(operator: Any, takes_v: bool, preparation: str) -> None:
    x, more = point(), [point(5)] * takes_v
    p = prepare(operator, f, x, args=(SCALE,), preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    for at in (x, point(9)):
        assert same(p(at, *more, args=(SCALE,)), operator(f, at, *more, args=(SCALE,)))
    assert p.traces == 1


@pytest.mark.slow
def test_a_bound_structure_sees_its_updates() -> None:
    x, v = point(), point(5)
    p = prepare(h.hvp, f, x, args=(SCALE,), preparation="graph")
    b = p.bind(x, args=(SCALE,))
    assert same(b(v), h.hvp(f, x, v, args=(SCALE,)))
    x["rest"][0].mul_(0.5)
    assert same(b(v), h.hvp(f, x, v, args=(SCALE,)))
    x["a"].data = normal(2, 3, seed=20)
    assert same(b(v), h.hvp(f, x, v, args=(SCALE,)))
    x["rest"][1] = normal(2, seed=21)
    assert same(b(v), h.hvp(f, x, v, args=(SCALE,)))
    several = {"a": normal(4, 2, 3, seed=6), "rest": [normal(4, 3, 2, seed=7), normal(4, 2, seed=8)]}
    rows = [{"a": a, "rest": [b_, c]} for a, b_, c in zip(*leaves(several), strict=True)]
    expected = [h.hvp(f, x, row, args=(SCALE,)) for row in rows]
    found = b(several, in_dims=0)
    assert same(found["rest"][1], torch.stack([e["rest"][1] for e in expected]))
    assert found["a"].shape == (4, 2, 3)
    assert p.traces == 1


def test_inside_a_larger_derivative() -> None:
    x, v = point(), point(5)
    p = prepare(h.hvp, f, x, args=(SCALE,), preparation="graph")
    expected = h.gradient(lambda y: h.hvp(f, y, v, args=(SCALE,))["a"].sum(), x)
    assert same(h.gradient(lambda y: p(y, v, args=(SCALE,))["a"].sum(), x), expected)
    assert same(h.gradient(lambda y: p.bind(y, args=(SCALE,))(v)["a"].sum(), x), expected)


class Block(nn.Module):
    """Attention with a norm and a skip connection; one matrix serves twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4, bias=False)
        self.heads = nn.ModuleDict({"value": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + (self.mix(y) @ self.mix(y).mT).softmax(-1) @ self.heads["value"](y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "preparation"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), "graph"),
        (nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Softplus(), nn.AvgPool1d(3)), "graph"),
        (Block(), "graph"),
        pytest.param(Block(), "compiled", marks=needs_compiler),
        (nn.Bilinear(4, 4, 2), "graph"),
    ],
)
def test_parameters_of_modules(module: nn.Module, preparation: str) -> None:
    module = module.double()
    inputs = normal(5, 4, seed=1), *([normal(5, 4, seed=2)] if isinstance(module, nn.Bilinear) else [])

    def loss(params: dict[str, Tensor]) -> Tensor:
        return functional_call(module, params, inputs).sin().square().mean()

    params = {name: p.detach() for name, p in module.named_parameters()}
    v = {name: normal(*p.shape, seed=i) for i, (name, p) in enumerate(params.items())}
    p = prepare(h.hvp, loss, params, preparation=preparation)
    assert p.preparation == preparation, p.explain()
    expected = h.hvp(loss, params, v)
    assert same(p(params, v), expected)
    assert same(p.bind(params)(v), expected)


def test_refusals() -> None:
    x, v = point(), point(5)
    p = prepare(h.hvp, f, x, args=(SCALE,), preparation="graph")
    with pytest.raises(ValueError, match=r"v: got \['a'\], expected the structure of x"):
        p(x, {"a": v["a"]}, args=(SCALE,))
    with pytest.raises(ValueError, match=r"x\['a'\]: got shape \(3,\)"):
        p({**x, "a": normal(3)}, v, args=(SCALE,))
    with pytest.raises(TypeError, match="a call takes x, v: got 1"):
        p(x, args=(SCALE,))
    with pytest.raises(TypeError, match="a call takes x, v: got 3"):
        p(x, v, normal(3), args=(SCALE,))
    b = p.bind(x, args=(SCALE,))
    with pytest.raises(ValueError, match="V: got leaves of several lengths"):
        b({"a": normal(4, 2, 3), "rest": [normal(4, 3, 2), normal(3, 2)]}, in_dims=0)
    with pytest.raises(ValueError, match=r"V\[0\]\['a'\]: got shape \(3, 2\)"):
        b({"a": normal(4, 3, 2), "rest": [normal(4, 3, 2), normal(4, 2)]}, in_dims=0)
    with pytest.raises(TypeError, match=r"x\['a'\]: got dtype torch.int64"):
        prepare(h.hvp, f, {**x, "a": torch.ones(2, 3, dtype=torch.int64)}, args=(SCALE,))
