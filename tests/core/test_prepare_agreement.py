"""Whether a prepared kernel computes what the eager method does: what rounding explains, and what it does not."""

from __future__ import annotations

import pytest
import torch
from core_fakes import normal
from torch import Tensor, nn

import hograd_core as h
from hograd_core import prepare
from hograd_core.prepare._agreement import NOT_FINITE, compared

X = normal(64)


def cancelling(x: Tensor) -> Tensor:
    return (x.tanh() / 8 + 64) - 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_that_cancel_explain_what_inputs_do_not(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    plain = x.tanh() / 8
    off = (cancelling(x) - plain).abs().max()
    assert off > 8 * torch.finfo(dtype).eps
    assert compared(cancelling, plain, [x], []) is None
    assert "differs" in str(compared(lambda x: x.tanh() / 8, plain + off, [x], []))


def test_what_a_rounding_turns_over_explains_little() -> None:
    """A comparison of two roundings of one number: with others all of the result is gone."""
    eager = lambda x: torch.where(x * 1 == (x * 1).clone(), x, x.new_zeros(()))  # noqa: E731
    assert torch.equal(eager(X), X)
    assert compared(eager, X, [X], []) is None
    assert "differs" in str(compared(eager, X * (1 + 1e-9), [X], []))


def test_nothing_explains_another_kind() -> None:
    assert "torch.float32" in str(compared(torch.sin, X.sin().float(), [X], []))
    assert "(8, 8)" in str(compared(torch.sin, X.sin().view(8, 8), [X], []))
    assert compared(torch.log, X.log(), [X], []) == NOT_FINITE
    assert compared(torch.sin, X[:0], [X[:0]], []) is None


def test_small_attention() -> None:
    """Where one weight is nearly 1, derivatives are small differences of large terms."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(3, 3).double()
    x, other = 16 * torch.rand(2, 3, 3, dtype=torch.float64) - 8
    p = prepare(h.hessian, lambda x: attention(x, other, other)[0].square().sum(), x, preparation="graph")
    assert p.preparation == "graph", p.reason
