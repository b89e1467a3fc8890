"""Multinomial logistic regression over flat weights: convex, with closed forms of every order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hograd_bench.problems._closed_forms import softmax_cumulants
from hograd_bench.problems._contract import ClosedForm, Draw, Instance, Spec, problem
from hograd_bench.problems._networks import (
    CLASSES,
    classification,
    cross_entropy_operations,
    product_operations,
    total,
)


@problem(
    "softmax_regression",
    formula="f(W) = mean_b log Σ_c exp(W a_b)_c − (W a_b)_{y_b}, W of shape 3 × n, flat",
    source="Böhning 1992, Ann. Inst. Stat. Math. 44; Hessian mean_b (diag p − p pᵀ) ⊗ a aᵀ: Bishop 2006, eq. 4.110",
    family="network",
    sizes={"n": "features; x has 3 n elements", "batch": "examples"},
    provides=("module", "loss", "inputs", "targets"),
    operations=lambda s: total(product_operations(s.batch, s.n, CLASSES), cross_entropy_operations(s.batch)),
)
def softmax_regression(spec: Spec, draw: Draw) -> Instance:
    """Features normal, labels uniform, weights normal of scale n^-1/2."""
    inputs = draw.normal(spec.batch, spec.n)
    instance = classification(draw.module(nn.Linear(spec.n, CLASSES, bias=False)), draw, inputs)
    weights = instance.x.view(CLASSES, spec.n)
    onehot = torch.nn.functional.one_hot(instance.extras["targets"], CLASSES).to(inputs.dtype)

    def mean_tensor(order: int) -> Tensor:
        # Derivatives of each example's loss by its logits.
        cumulants = softmax_cumulants((inputs @ weights.T).softmax(-1), order)
        return cumulants - onehot if order == 1 else cumulants

    def tensor(order: int) -> Tensor:
        result = mean_tensor(order) / spec.batch
        # Contract each logit slot c with ∂z_bc/∂W_c'j = δ_cc' a_bj: one (class, feature) pair a slot.
        letters, features = "abcdefgh"[:order], "ABCDEFGH"[:order]
        pairs = "".join(c + j for c, j in zip(letters, features, strict=True))
        operands = ",".join(["z" + letters, *("z" + j for j in features)])
        entries = torch.einsum(f"{operands}->{pairs}", result, *[inputs] * order)
        return entries.reshape((CLASSES * spec.n,) * order)

    def product(order: int, v: Tensor) -> Tensor:
        # All slots but the last take the direction's logits; the last spreads over the features.
        moved = inputs @ v.view(CLASSES, spec.n).T
        result = mean_tensor(order)
        for _ in range(order - 1):
            result = torch.einsum("z...c,zc->z...", result, moved)
        return (result.T @ inputs / spec.batch).reshape(-1)

    def directional(order: int, v: Tensor) -> Tensor:
        return v @ product(order, v)

    instance.closed_form = ClosedForm(tensor, product, directional)
    return instance
