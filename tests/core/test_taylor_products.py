"""Products of vectors by Taylor mode, of every operation with a rule, of fused normalisations and of attention."""

from __future__ import annotations

import math

import pytest
import torch
from taylor_cases import (
    BINARY,
    COMPOUND,
    CONVOLUTIONS,
    ELEMENTWISE,
    IMAGE,
    PRODUCTS,
    STRUCTURE,
    T,
    X,
    agree,
    nested,
    rand,
)
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)
from torch.nn.attention import SDPBackend, sdpa_kernel

import hograd_core
from hograd_core.taylor import MissingRuleError, derivatives_along

CASES = {
    **{f"{n}-{name}": case for n, t in enumerate((ELEMENTWISE, BINARY, COMPOUND)) for name, case in t.items()},
    **{
        f"{n}-{name}": (lambda x, g=g: g(x.sin()), x)
        for n, (t, x) in enumerate(((STRUCTURE, X), (PRODUCTS, X), (CONVOLUTIONS, IMAGE)), 3)
        for name, g in t.items()
    },
}
# The operation of PyTorch's gradient that has no rule; a case that gains one has to leave this list.
REFUSED = {
    ("2-det", "taylor_over_reverse"): "_linalg_svd",
    ("2-rfft_abs", "taylor_over_reverse"): "copy_",
    ("3-take", "taylor_over_reverse"): "put",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_products_agree_with_nesting(name: str) -> None:
    function, x = CASES[name]
    v = rand(*x.shape, seed=99)

    def f(x: Tensor) -> Tensor:
        y = function(x)
        return y if y.dim() == 0 else (y * rand(*y.shape, seed=7)).sum()

    for order in (2, 3, 4):
        exact = hograd_core.derivative_vector_product(f, x, v, order)
        for method in ("reverse_over_taylor", "taylor_over_reverse"):
            lacking = REFUSED.get((name, method))
            if lacking is not None:
                with pytest.raises(MissingRuleError, match=lacking):
                    hograd_core.derivative_vector_product(f, x, v, order, method=method)
                continue
            found = hograd_core.derivative_vector_product(f, x, v, order, method=method)
            assert (found - exact).abs().max() <= 1e-8 * max(1.0, float(exact.abs().max())), f"{method}, order {order}"


# PyTorch's own third derivative of its fused normalisations is not that of their definition (see
# test_taylor_driver.py), so the truth here is the definition in plain operations.
def _by_hand(x: Tensor, axes: list[int], shape: tuple[int, ...], weight: Tensor, bias: Tensor) -> Tensor:
    grouped = x.reshape(shape)
    centred = grouped - grouped.mean(axes, keepdim=True)
    return (centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + 1e-5)).reshape(x.shape) * weight + bias


_CHANNEL = (1, 2, 1, 1)
NORMALISATIONS = {
    "layer_norm": (
        lambda x: F.layer_norm(x, (5,), rand(5), rand(5)),
        lambda x: _by_hand(x, [-1], (2, 2, 5, 5), rand(5), rand(5)),
    ),
    "group_norm": (
        lambda x: F.group_norm(x, 1, rand(2), rand(2)),
        lambda x: _by_hand(x, [-1], (2, 1, 50), rand(2).view(_CHANNEL), rand(2).view(_CHANNEL)),
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x, None, None, rand(2), rand(2), training=True),
        lambda x: _by_hand(x, [0, 2, 3], (2, 2, 5, 5), rand(2).view(_CHANNEL), rand(2).view(_CHANNEL)),
    ),
    "instance_norm": (
        lambda x: F.instance_norm(x),
        lambda x: _by_hand(x, [2, 3], (2, 2, 5, 5), torch.tensor(1.0), torch.tensor(0.0)),
    ),
}


def products_agree(fused, by_hand, x: Tensor) -> None:
    """Both product methods on the fused operation against double backward of its definition, orders 2 to 4."""
    v = rand(*x.shape, seed=99)
    for order in (2, 3, 4):
        exact = hograd_core.derivative_vector_product(by_hand, x, v, order)
        for method in ("reverse_over_taylor", "taylor_over_reverse"):
            found = hograd_core.derivative_vector_product(fused, x, v, order, method=method)
            assert (found - exact).abs().max() <= 1e-8 * max(1.0, float(exact.abs().max())), f"{method}, order {order}"


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisations(name: str) -> None:
    fused, by_hand = NORMALISATIONS[name]
    v = rand(*IMAGE.shape, seed=99)
    weight = rand(*IMAGE.shape, seed=7)
    truth = nested(lambda x: (by_hand(x) * weight).sum(), IMAGE, v, 5)
    found = derivatives_along(lambda x: (fused(x) * weight).sum(), IMAGE, v, 5)
    for a, b in zip(found, truth, strict=True):
        assert abs(a - b) <= 1e-9 * max(1.0, abs(b))
    products_agree(lambda x: (fused(x) * weight).sum(), lambda x: (by_hand(x) * weight).sum(), IMAGE)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (2, 3, 4)])
def test_attention(shape: tuple[int, ...], causal: bool) -> None:
    q, k, v = rand(*shape, seed=1), rand(*shape, seed=2), rand(*shape, seed=3)

    def fused(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x * q, x.sin() * k, x * v, is_causal=causal)

    def by_hand(x: Tensor) -> Tensor:
        scores = (x * q) @ (x.sin() * k).mT / math.sqrt(shape[-1])
        if causal:
            scores = scores.masked_fill(torch.ones(3, 3).tril() == 0, -math.inf)
        return scores.softmax(-1) @ (x * v)

    x, direction, weight = rand(*shape, seed=4), rand(*shape, seed=5), rand(*shape, seed=6)
    truth = nested(lambda x: (by_hand(x) * weight).sum(), x, direction, 4)
    found = derivatives_along(lambda x: (fused(x) * weight).sum(), x, direction, 4)
    for a, b in zip(found, truth, strict=True):
        assert abs(a - b) <= 1e-10 * max(1.0, abs(b))
    products_agree(lambda x: (fused(x) * weight).sum(), lambda x: (by_hand(x) * weight).sum(), x)


@pytest.mark.slow
def test_attention_with_masks() -> None:
    q = rand(1, 2, 3, 4)
    boolean = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
    for mask in (boolean, rand(3, 3)):
        additive = torch.where(mask, 0.0, -math.inf).double() if mask.dtype == torch.bool else mask

        def fused(x: Tensor, mask: Tensor = mask) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, attn_mask=mask).sin().sum()

        def by_hand(x: Tensor, additive: Tensor = additive) -> Tensor:
            return (((x @ x.mT) / 2 + additive).softmax(-1) @ x).sin().sum()

        for a, b in zip(derivatives_along(fused, q, q.cos(), 4), nested(by_hand, q, q.cos(), 4), strict=True):
            assert abs(a - b) <= 1e-10 * max(1.0, abs(b))
        products_agree(fused, by_hand, q)


def test_modules_run_whole() -> None:
    torch.manual_seed(0)
    block = torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", norm_first=True).double()
    recurrent = torch.nn.GRUCell(4, 4).double()
    # Norms swapped for RMSNorm: PyTorch's nested derivatives of LayerNorm cannot be the truth.
    block.norm1, block.norm2 = (torch.nn.RMSNorm(4).double() for _ in range(2))
    with sdpa_kernel(SDPBackend.MATH):
        agree(lambda x: block(x), T, order=3)
    agree(lambda x: recurrent(x, x), X, order=4)
