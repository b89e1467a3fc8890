"""The skewness along a direction: closed forms, invariance, edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hograd_core.applications.skewness import directional_skewness
from hograd_core.reference import reference, relative_error, tolerance

METHODS = list(directional_skewness.methods)


@pytest.mark.parametrize("name", METHODS)
def test_barriers_have_their_known_skewness(name: str) -> None:
    # f = −Σ log x: along e_i, D²f = 1/x², D³f = −2/x³: self-concordant with constant exactly 2.
    x = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64)
    for i in range(3):
        v = torch.zeros_like(x)
        v[i] = 0.7
        found = directional_skewness(lambda x: -x.log().sum(), x, v, method=name)
        assert found.skewness.item() == pytest.approx(-2, rel=1e-12)
        assert found.second.item() == pytest.approx((0.7 / x[i].item()) ** 2, rel=1e-12)
        assert found.third.item() == pytest.approx(-2 * (0.7 / x[i].item()) ** 3, rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_exponential_and_quadratic(name: str) -> None:
    x = torch.tensor([0.5, -1.0], dtype=torch.float64)
    v = torch.tensor([1.0, 2.0], dtype=torch.float64)
    # Σ eˣ: D^k = Σ vᵏ eˣ.
    second, third = math.exp(0.5) + 4 * math.exp(-1), math.exp(0.5) + 8 * math.exp(-1)
    found = directional_skewness(lambda x: x.exp().sum(), x, v, method=name)
    assert found.skewness.item() == pytest.approx(third / second**1.5, rel=1e-12)
    assert directional_skewness(lambda x: (x * x).sum(), x, v, method=name).skewness == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_against_truth_and_invariance(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    x, v = torch.randn(2, 5, generator=generator, dtype=torch.float64).to(dtype)

    def f(x: Tensor) -> Tensor:
        return (x @ a.to(x.dtype)).logsumexp(0) + (x * x).sum()

    found = directional_skewness(f, x, v, method=name)
    assert found.skewness.dtype == dtype
    expected = reference("directional_skewness", f, x.double(), v.double())
    assert relative_error(found, expected) <= 4 * tolerance(directional_skewness.method(name), dtype, 3)
    ratio = expected["third"] / expected["second"] ** 1.5
    assert found.skewness.item() == pytest.approx(ratio.item(), rel=1e-4 if dtype == torch.float32 else 1e-11)
    scaled = directional_skewness(f, x, 3 * v, method=name)
    torch.testing.assert_close(scaled.skewness, found.skewness)
    assert directional_skewness(f, x, -v, method=name).skewness.item() == pytest.approx(-found.skewness.item())


@pytest.mark.parametrize("name", METHODS)
def test_without_positive_curvature_it_is_not_a_number(name: str) -> None:
    x = torch.ones(2, dtype=torch.float64)
    for f in (lambda x: -(x**3).sum(), lambda x: x.sum()):
        found = directional_skewness(f, x, x, method=name)
        assert found.skewness.isnan()
        assert found.second <= 0
    assert set(reference("directional_skewness", lambda x: -(x**3).sum(), x, x)) == {"second", "third"}
