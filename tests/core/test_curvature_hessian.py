"""Hessian operators and stochastic estimators: exactness, and the errors that the estimators state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import normal, with_spectrum
from torch import Tensor

import hograd_core as hg
from hograd_core.curvature import (
    Estimate,
    HessianOperator,
    MatrixOperator,
    hutch_plus_plus,
    hutchinson_trace,
    stochastic_diagonal,
    xtrace,
)
from hograd_core.curvature._probes import draw

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def symmetric(n: int, seed: int = 0) -> Tensor:
    half = normal(n, n, seed=seed)
    return (half + half.T) / 2


def entangled(x: Tensor) -> Tensor:
    """A function whose Hessian is full, indefinite and not constant."""
    flat = x.reshape(-1)
    return (flat.sin() * flat.roll(1).square()).sum() + (flat[:3].sum()).exp() + (flat * flat.roll(2)).cos().sum()


EXACT_DIAGONALS = [m for m, record in hg.hessian_diagonal.methods.items() if record.exact]
EXACT_TRACES = [m for m, record in hg.hessian_trace.methods.items() if record.exact]


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1,), ()])
def test_exact_diagonals_and_traces(shape: tuple[int, ...]) -> None:
    x = normal(*shape, seed=1)
    n = x.numel()
    hessian = torch.autograd.functional.hessian(entangled, x).reshape(n, n)
    for method in EXACT_DIAGONALS:
        found = hg.hessian_diagonal(entangled, x, method=method)
        torch.testing.assert_close(found, hessian.diagonal().reshape(shape))
    for method in EXACT_TRACES:
        torch.testing.assert_close(hg.hessian_trace(entangled, x, method=method), hessian.trace())
    for operator in (hg.hessian_diagonal, hg.hessian_trace):
        chunked = operator(entangled, x, method="forward_over_forward", chunk_size=2)
        torch.testing.assert_close(chunked, operator(entangled, x))


@pytest.mark.parametrize("hvp_method", ["linearised", *(m for m in hg.derivative_vector_product.methods)])
def test_the_hessian_operator_by_every_product(hvp_method: str) -> None:
    if not hg.derivative_vector_product.method(
        hvp_method if hvp_method != "linearised" else "double_backward"
    ).supports(2):
        pytest.skip("not of order 2")
    x, v = normal(2, 3, seed=1), normal(6, seed=2)
    hessian = torch.autograd.functional.hessian(entangled, x).reshape(6, 6)
    tolerance = 1e-4 if hvp_method == "finite_difference" else 1e-10
    with HessianOperator(entangled, x, method=hvp_method, damping=0.5) as operator:
        torch.testing.assert_close(operator.matvec(v), hessian @ v + 0.5 * v, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(operator.gradient, torch.func.grad(entangled)(x).reshape(-1))
        assert float(operator.value) == pytest.approx(float(entangled(x)))
        assert operator.products == 1
    assert not x.requires_grad
    assert x.grad is None


def test_the_linearised_operator_releases_its_graph() -> None:
    operator = HessianOperator(entangled, normal(4))
    operator.close()
    with pytest.raises(RuntimeError, match=r"used after close\(\)"):
        operator.matvec(normal(4))


@pytest.mark.parametrize(
    "f", [lambda x: x.sum(), lambda x: torch.tensor(2.0, dtype=torch.float64), lambda x: x.detach().sum()]
)
def test_functions_without_curvature(f: Callable[[Tensor], Tensor]) -> None:
    x = normal(4)
    for method in hg.hessian_diagonal.methods:
        assert torch.equal(hg.hessian_diagonal(f, x, method=method), torch.zeros(4, dtype=torch.float64))
    for method in hg.hessian_trace.methods:
        assert float(hg.hessian_trace(f, x, method=method)) == 0.0


# --- estimators state their error ---------------------------------------------------------------------------

REPEATS = 200


def scores(estimates: list[Estimate], true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z of the mean over repeats, and the spread over seeds against the stated and a given standard error."""
    values = torch.stack([e.value for e in estimates])
    stated = torch.stack([e.standard_error for e in estimates]).square().mean(0).sqrt()
    spread = values.std(0)
    return (values.mean(0) - true) / (spread / REPEATS**0.5), spread, stated


@pytest.mark.parametrize("distribution", ["rademacher", "normal", "sphere"])
def test_hutchinsons_trace(distribution: str) -> None:
    a, probes = symmetric(12), 20
    operator = MatrixOperator.dense(a)
    estimates = [hutchinson_trace(operator, probes=probes, distribution=distribution, seed=s) for s in range(REPEATS)]
    z, spread, stated = scores(estimates, a.trace())
    assert z.abs() < 4
    off = a - torch.diag(a.diagonal())
    variance = 2 * (off if distribution == "rademacher" else a).square().sum() / probes
    if distribution != "sphere":
        # A sample standard deviation over 200 repeats is within 16 % of the true one at 3.3 sigma.
        assert 0.84 < spread / variance.sqrt() < 1.16
    assert 0.84 < stated / spread < 1.16
    assert estimates[0].products == probes


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
def test_the_stochastic_diagonal(distribution: str) -> None:
    a, probes = symmetric(8), 60
    operator = MatrixOperator.dense(a)
    estimates = [
        stochastic_diagonal(operator, probes=probes, distribution=distribution, seed=s) for s in range(REPEATS)
    ]
    z, spread, stated = scores(estimates, a.diagonal())
    assert z.abs().max() < 4.5
    off = (a - torch.diag(a.diagonal())).square().sum(1)
    if distribution == "rademacher":
        assert ((spread / (off / probes).sqrt() - 1).abs() < 0.2).all()
    assert ((stated / spread - 1).abs() < 0.25).all()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace], ids=["hutch++", "xtrace"])
def test_sketching_traces_are_unbiased_and_state_their_error(estimator: Callable[..., Estimate]) -> None:
    a = symmetric(40)
    estimates = [estimator(MatrixOperator.dense(a), products=30, seed=s) for s in range(REPEATS)]
    z, spread, stated = scores(estimates, a.trace())
    assert z.abs() < 4
    # The samples within one estimate are few, and for XTrace dependent: the stated error is good to a third.
    assert 0.67 < stated / spread < 1.5
    assert estimates[0].products == 30


@pytest.mark.slow
def test_sketching_beats_hutchinson_on_a_decaying_spectrum() -> None:
    a = with_spectrum(torch.arange(1, 61, dtype=torch.float64) ** -2.0)
    operator = MatrixOperator.dense(a)

    def error(estimator: Callable[..., Estimate], **budget: int) -> float:
        values = [float(estimator(operator, seed=s, **budget).value) for s in range(40)]
        return math.sqrt(sum((value - float(a.trace())) ** 2 for value in values) / len(values))

    plain = error(hutchinson_trace, probes=30)
    assert error(hutch_plus_plus, products=30) < 0.1 * plain
    assert error(xtrace, products=30) < 0.05 * plain


def test_xtrace_is_its_definition() -> None:
    """Each sample from its own orthonormal basis, without the one that was left out."""
    n, m = 20, 6
    a = symmetric(n)
    omega = draw("sphere", n, m, torch.Generator().manual_seed(3), a)
    samples = []
    for i in range(m):
        others = [j for j in range(m) if j != i]
        q, _ = torch.linalg.qr(a @ omega[:, others])
        left = omega[:, i] - q @ (q.T @ omega[:, i])
        samples.append((q.T @ a @ q).trace() + (n - m + 1) / (left @ left) * (left @ a @ left))
    estimate = xtrace(MatrixOperator.dense(a), products=2 * m, seed=3)
    torch.testing.assert_close(estimate.value, torch.stack(samples).mean())
    torch.testing.assert_close(estimate.standard_error, torch.stack(samples).std() / m**0.5)


@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace], ids=["hutch++", "xtrace"])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_low_rank_is_found_exactly(estimator: Callable[..., Estimate], rank: int) -> None:
    values = torch.zeros(20, dtype=torch.float64)
    values[:rank] = torch.tensor([2.0, -3.0, 0.5])[:rank]
    a = with_spectrum(values)
    estimate = estimator(MatrixOperator.dense(a), products=18)
    assert abs(float(estimate.value - a.trace())) < 1e-12
    assert float(estimate.standard_error) < 1e-6


@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace], ids=["hutch++", "xtrace"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_budgets_beyond_the_dimension_give_the_trace(estimator: Callable[..., Estimate], n: int) -> None:
    a = symmetric(n)
    estimate = estimator(MatrixOperator.dense(a), products=60)
    torch.testing.assert_close(estimate.value, a.trace())
    assert float(estimate.standard_error) == 0.0
    assert estimate.products <= 3 * n


def test_probes_are_by_seed_or_generator_and_the_same_on_every_dtype() -> None:
    operator = MatrixOperator.dense(symmetric(6))
    first = hutchinson_trace(operator, probes=4, seed=1)
    assert torch.equal(first.value, hutchinson_trace(operator, probes=4, seed=1).value)
    assert not torch.equal(first.value, hutchinson_trace(operator, probes=4, seed=2).value)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(first.value, hutchinson_trace(operator, probes=4, seed=None, generator=generator).value)
    assert torch.equal(
        draw("normal", 5, 2, torch.Generator().manual_seed(0), torch.zeros(1, dtype=torch.float64)).float(),
        draw("normal", 5, 2, torch.Generator().manual_seed(0), torch.zeros(1)),
    )
    assert hutchinson_trace(operator, probes=1).standard_error.isnan()
    assert stochastic_diagonal(operator, probes=1).standard_error.isnan().all()


@pytest.mark.parametrize("method", ["hutchinson", "hutch_plus_plus", "xtrace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_stochastic_traces_in_low_precision(method: str, dtype: torch.dtype) -> None:
    x = normal(6, seed=1).to(dtype)
    true = float(hg.hessian_trace(entangled, x.double()))
    found = hg.hessian_trace(entangled, x, method=method)
    assert found.dtype == dtype
    assert abs(float(found) - true) < 8.0
    if method != "hutchinson":
        assert abs(float(found) - true) < max(20 * torch.finfo(dtype).eps * 10, 1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: hutchinson_trace(op, probes=0), "probes: got 0"),
        (lambda op: hutchinson_trace(op, distribution="cauchy"), "probes: got kind 'cauchy'"),
        (lambda op: hutch_plus_plus(op, products=2), "products: got 2"),
        (lambda op: xtrace(op, products=3), "products: got 3"),
        (
            lambda op: hg.hessian_diagonal(entangled, normal(3), method="forward_over_forward", chunk_size=0),
            "chunk_size",
        ),
    ],
)
def test_refusals(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(MatrixOperator.dense(symmetric(4)))


def test_seeds_and_generators_of_the_wrong_kind() -> None:
    operator = MatrixOperator.dense(symmetric(4))
    with pytest.raises(TypeError, match="seed: got 'one'"):
        hutchinson_trace(operator, seed="one")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator: got int"):
        hutchinson_trace(operator, generator=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method: got 'nonsense'"):
        HessianOperator(entangled, normal(3), method="nonsense")


def _of_pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex((DATA @ x.reshape(3, 4)).reshape(5, 2, 2)).prod(1).abs().sum()


def _of_phases(x: Tensor) -> Tensor:
    return torch.exp(1j * (DATA @ x.reshape(3, 4))).sum(1).abs().pow(2).sin().sum()


def _of_products(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.reshape(6, 2)).prod().abs()


def _of_spectra(x: Tensor) -> Tensor:
    return torch.fft.rfft((DATA @ x.reshape(3, 4)).tanh()).abs().pow(2).sin().sum()


DATA = torch.linspace(-1.0, 1.0, 15, dtype=torch.float64).reshape(5, 3).sin()


@pytest.mark.parametrize("f", [_of_pairs, _of_phases, _of_products, _of_spectra])
def test_the_diagonal_by_layers_goes_by_products_where_numbers_are_complex(f: Any) -> None:
    x = torch.linspace(0.1, 0.9, 12, dtype=torch.float64)
    found = hg.hessian_diagonal(f, x, method="layers")
    assert torch.allclose(found, hg.hessian(f, x).diagonal())
