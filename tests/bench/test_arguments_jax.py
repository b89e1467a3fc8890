"""Each way of giving arguments against JAX's own, on the same function. Run these in .nox/peers, where JAX is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hograd_core as h
from hograd_core.curvature import hessian_blocks

jax = pytest.importorskip("jax")
F64 = torch.float64


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


POINT = {"layers": [draw(3, 4, seed=0), draw(4, seed=1)], "scale": draw(seed=2)}
DIRECTION = {"layers": [draw(3, 4, seed=3), draw(4, seed=4)], "scale": draw(seed=5)}
DATA, TARGETS = draw(6, 3, seed=6), draw(6, seed=7)


def loss(p: Any, data: Any, targets: Any, tanh: Any) -> Any:
    return (((tanh(data @ p["layers"][0]) @ p["layers"][1]) * p["scale"] - targets) ** 2).sum()


def f(p: Any, data: Tensor, targets: Tensor) -> Tensor:
    found: Tensor = loss(p, data, targets, torch.tanh)
    return found


def g(p: Any, data: Any, targets: Any) -> Any:
    return loss(p, data, targets, jax.numpy.tanh)


@pytest.fixture(autouse=True)
def _in_float64() -> Any:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def to_jax(tree: Any) -> Any:
    return jax.tree.map(lambda t: jax.numpy.asarray(t.numpy()), tree)


def same(ours: Any, theirs: Any) -> None:
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), torch.tensor(b.__array__()), rtol=1e-10, atol=1e-10)


def test_structures_and_further_arguments() -> None:
    p, v, data, targets = map(to_jax, (POINT, DIRECTION, DATA, TARGETS))
    args = (DATA, TARGETS)
    same(h.gradient(f, POINT, args=args), jax.grad(g)(p, data, targets))
    same(h.hvp(f, POINT, DIRECTION, args=args), jax.jvp(lambda q: jax.grad(g)(q, data, targets), (p,), (v,))[1])
    same(h.hessian(f, POINT, args=args), jax.hessian(g)(p, data, targets))
    third = jax.jacfwd(jax.hessian(g))(p, data, targets)
    same(h.derivative_tensor(f, POINT, 3, args=args), third)


def test_leaves_of_two_dtypes() -> None:
    mixed = {"layers": [POINT["layers"][0].float(), POINT["layers"][1]], "scale": POINT["scale"]}

    def of_mixed(p: Any, data: Tensor, targets: Tensor) -> Tensor:
        return f({**p, "layers": [p["layers"][0].double(), p["layers"][1]]}, data, targets)

    ours, theirs = (
        h.hessian(of_mixed, mixed, args=(DATA, TARGETS)),
        jax.hessian(g)(*map(to_jax, (mixed, DATA, TARGETS))),
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        torch.testing.assert_close(a, torch.tensor(b.__array__()), rtol=1e-4, atol=1e-4)


def test_batches_and_several_directions() -> None:
    p, data, targets = map(to_jax, (POINT, DATA, TARGETS))
    each = jax.vmap(jax.hessian(g), in_axes=(None, 0, 0))(p, data[:, None], targets)
    same(h.hessian(f, POINT, args=(DATA[:, None], TARGETS), in_dims=(None, 0, 0)), each)
    several = jax.tree.map(lambda t: torch.stack([t, 2 * t, -t]), DIRECTION)

    def product(v: Any) -> Any:
        return jax.jvp(lambda q: jax.grad(g)(q, data, targets), (p,), (v,))[1]

    found = h.hvp(f, POINT, several, args=(DATA, TARGETS), in_dims=(None, 0, None, None))
    same(found, jax.vmap(product)(to_jax(several)))


def test_results_that_are_differentiated_further() -> None:
    point = jax.tree.map(lambda t: t.clone().requires_grad_(), POINT)
    found = h.directional_derivative(f, point, DIRECTION, 2, args=(DATA, TARGETS), create_graph=True)
    ours = torch.autograd.grad(found, jax.tree.leaves(point))
    p, v, data, targets = map(to_jax, (POINT, DIRECTION, DATA, TARGETS))

    def curvature(q: Any) -> Any:
        slope = jax.jvp(lambda z: jax.grad(g)(z, data, targets), (q,), (v,))[1]
        return sum((a * b).sum() for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(v), strict=True))

    same(list(ours), jax.tree.leaves(jax.grad(curvature)(p)))


def test_blocks_are_those_of_the_whole_hessian() -> None:
    p, data, targets = map(to_jax, (POINT, DATA, TARGETS))
    whole = jax.hessian(g)(p, data, targets)
    blocks = hessian_blocks(f, POINT, args=(DATA, TARGETS), by="parameter", pairs="all")
    ours = blocks["layers.0", "layers.1"].matrix()
    same(ours.reshape(3, 4, 4), whole["layers"][0]["layers"][1])
    same(blocks["scale", "layers.1"].matrix().reshape(4), whole["scale"]["layers"][1])
