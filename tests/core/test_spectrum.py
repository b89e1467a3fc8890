"""Lanczos, LOBPCG and spectral densities against LAPACK, SciPy and known spectra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from core_fakes import normal, with_spectrum
from torch import Tensor

import hograd_core as hg
from hograd_core.curvature import (
    ArrayOperator,
    HessianOperator,
    MatrixOperator,
    extreme_eigenpairs,
    lanczos,
    lobpcg,
    spectral_density,
)
from hograd_core.curvature._lanczos import LanczosProcess

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def laplacian_values(n: int) -> Tensor:
    """Eigenvalues of tridiag(-1, 2, -1), ascending: 2 - 2 cos(k pi / (n + 1))."""
    return 2 - 2 * torch.cos(torch.arange(1, n + 1, dtype=torch.float64) * math.pi / (n + 1))


def chain(x: Tensor) -> Tensor:
    """Half of x^T tridiag(-1, 2, -1) x."""
    ends = x.new_zeros(1)
    return 0.5 * torch.diff(torch.cat([ends, x, ends])).square().sum()


def entangled(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    return (flat.sin() * flat.roll(1).square()).sum() + flat[:3].sum().exp()


def test_the_process_factorises_and_stays_orthogonal() -> None:
    # Ten clusters of spread 1e-10 make an unorthogonalised process lose all orthogonality.
    a = with_spectrum(torch.cat([10.0**k + 1e-10 * torch.arange(6, dtype=torch.float64) for k in range(-5, 5)]))
    t = lanczos(MatrixOperator.dense(a), normal(60), 40)
    q, m = t.basis, t.basis.shape[1]
    assert (q.T @ q - torch.eye(m, dtype=q.dtype)).abs().max() < 1e-13
    dense = torch.diag(t.diagonal) + torch.diag(t.off_diagonal, 1) + torch.diag(t.off_diagonal, -1)
    assert (q.T @ a @ q - dense).abs().max() < 1e-10 * 1e4


def test_an_invariant_space_ends_the_process() -> None:
    a = torch.diag(torch.tensor([1.0, 2.0, 2.0, 2.0, 5.0], dtype=torch.float64))
    t = lanczos(MatrixOperator.dense(a), torch.ones(5, dtype=torch.float64), 5)
    assert t.basis.shape == (5, 3), "three distinct eigenvalues"
    assert t.residual == 0.0
    torch.testing.assert_close(t.eigh()[0], torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 9, 24])
@pytest.mark.parametrize("method", list(hg.hessian_extreme_eigenvalues.methods))
def test_extremes_of_a_known_spectrum(method: str, n: int) -> None:
    found = hg.hessian_extreme_eigenvalues(chain, normal(n), method=method)
    torch.testing.assert_close(found, laplacian_values(n)[[0, -1]], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", list(hg.hessian_extreme_eigenvalues.methods))
def test_extremes_in_every_precision(method: str, dtype: torch.dtype) -> None:
    x = normal(3, 4, seed=1).to(dtype)
    hessian = torch.autograd.functional.hessian(entangled, x.double()).reshape(12, 12)
    found = hg.hessian_extreme_eigenvalues(entangled, x, method=method)
    assert found.dtype == dtype
    true = torch.linalg.eigvalsh(hessian)[[0, -1]]
    bound = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype] * true.abs().max()
    assert (found.double() - true).abs().max() < bound


@pytest.mark.parametrize(("which", "count"), [("smallest", 3), ("largest", 2), ("both", 2), ("both", 30)])
def test_pairs_are_eigenpairs(which: str, count: int) -> None:
    a = with_spectrum(torch.linspace(-3, 7, 30, dtype=torch.float64) ** 3)
    pairs = extreme_eigenpairs(MatrixOperator.dense(a), count, which=which)
    values = torch.linalg.eigvalsh(a)
    expected = {
        "smallest": values[:count],
        "largest": values[-count:],
        "both": torch.cat([values[:count], values[-count:]]),
    }
    torch.testing.assert_close(pairs.values, expected[which] if count < 30 else values)
    residual = a @ pairs.vectors - pairs.vectors * pairs.values
    assert torch.linalg.vector_norm(residual, dim=0).max() < 1e-8 * values.abs().max()
    assert pairs.converged


def test_few_products_suffice_for_separated_ends() -> None:
    values = torch.cat([torch.tensor([-50.0]), torch.linspace(-1, 1, 300), torch.tensor([100.0])]).double()
    a = with_spectrum(values)
    pairs = extreme_eigenpairs(MatrixOperator.dense(a))
    assert pairs.products <= 16
    torch.testing.assert_close(pairs.values, torch.tensor([-50.0, 100.0], dtype=torch.float64))


def test_what_did_not_converge_says_so() -> None:
    pairs = extreme_eigenpairs(MatrixOperator.dense(with_spectrum(laplacian_values(60))), max_steps=5)
    assert not pairs.converged
    assert pairs.residuals.max() > 1e-3
    true = laplacian_values(60)
    distance = (pairs.values[:, None] - true).abs().min(1).values
    assert (distance <= pairs.residuals + 1e-12).all(), "an eigenvalue lies within each residual"
    with pytest.raises(RuntimeError, match="after 5 steps; raise max_steps"):
        hg.hessian_extreme_eigenvalues(chain, normal(60), max_steps=5)
    with pytest.raises(RuntimeError, match="raise max_iterations"):
        hg.hessian_extreme_eigenvalues(chain, normal(60), method="lobpcg", max_iterations=3)


def test_lobpcg_sees_multiplicities() -> None:
    a = with_spectrum(torch.cat([torch.linspace(0, 1, 20), torch.tensor([4.0, 4.0, 4.0])]).double())
    operator = MatrixOperator.dense(a)
    torch.testing.assert_close(lobpcg(operator, count=3).values, torch.full((3,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("which", ["LA", "SA"])
def test_scipys_eigsh_through_the_bridge(which: str) -> None:
    x = normal(5, 4, seed=1)
    hessian = torch.autograd.functional.hessian(entangled, x).reshape(20, 20)
    with HessianOperator(entangled, x) as operator:
        linear = scipy.sparse.linalg.aslinearoperator(ArrayOperator(operator))
        assert linear.dtype == np.float64
        values = scipy.sparse.linalg.eigsh(linear, k=3, which=which, return_eigenvectors=False)
        block = normal(20, 2).numpy()
        np.testing.assert_allclose(linear.matmat(block), hessian.numpy() @ block, atol=1e-10)
        np.testing.assert_allclose(linear.rmatvec(block[:, 0]), hessian.numpy() @ block[:, 0], atol=1e-10)
    expected = torch.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(np.sort(values), expected[-3:] if which == "LA" else expected[:3], atol=1e-8)


def test_the_bridge_keeps_float32_and_refuses_bfloat16() -> None:
    with HessianOperator(chain, normal(4).float()) as operator:
        assert ArrayOperator(operator).matvec(np.ones((4, 1))).dtype == np.float32
    with pytest.raises(TypeError, match=r"operator: got dtype torch\.bfloat16"):
        ArrayOperator(HessianOperator(chain, normal(4).bfloat16()))


# --- density ------------------------------------------------------------------------------------------------


def test_quadrature_is_exact_for_polynomials_from_one_probe() -> None:
    a = with_spectrum(torch.linspace(-1, 2, 30, dtype=torch.float64))
    generator = torch.Generator().manual_seed(4)
    found = spectral_density(MatrixOperator.dense(a), probes=1, steps=4, generator=generator)
    z = torch.randn(30, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)[:, 0]
    z = z / z.norm()
    for degree in range(8):  # 2 * steps - 1 = 7
        moment = z @ torch.linalg.matrix_power(a, degree) @ z
        value, error = found.mean_of(found.nodes**degree)
        torch.testing.assert_close(value, moment)
        assert error.isnan()
    torch.testing.assert_close(found.weights.sum(1), torch.ones(1, dtype=torch.float64))


@pytest.mark.slow
def test_density_is_unbiased_with_the_error_it_states() -> None:
    values = torch.cat([torch.linspace(-1, 1, 90), torch.linspace(6, 10, 10)]).double()
    operator = MatrixOperator.dense(with_spectrum(values))
    grid, width = torch.linspace(-3, 12, 16, dtype=torch.float64), 0.8
    kernels = torch.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    density, error = spectral_density(operator, probes=120, steps=20).density(grid, width)
    z = (density - kernels.mean(1)) / error
    assert z.abs().max() < 4
    assert error.max() < 0.05 * density.max()
    spread = torch.stack(
        [spectral_density(operator, probes=6, steps=20, seed=s).density(grid, width)[0] for s in range(40)]
    ).std(0)
    stated = error * 20**0.5
    bulk = kernels.mean(1) > 0.02 * kernels.mean(1).max()
    assert ((spread / stated)[bulk] - 1).abs().max() < 0.45


@pytest.mark.slow
def test_the_density_operator() -> None:
    grid, density = hg.hessian_spectral_density(chain, normal(50), 200, 0.05, method="dense")
    mass = torch.trapezoid(density, grid)
    assert abs(float(mass) - 1) < 0.01, "three sigma beyond either end hold all but a thousandth"
    approximate = hg.hessian_spectral_density(chain, normal(50), 200, 0.05, probes=40)
    assert (approximate[1] - density).abs().mean() < 0.1 * density.mean()
    torch.testing.assert_close(approximate[0], grid, rtol=1e-3, atol=1e-3)


def test_the_density_of_a_linear_function_is_one_bump_at_zero() -> None:
    for method in hg.hessian_spectral_density.methods:
        grid, density = hg.hessian_spectral_density(torch.sum, normal(4), 65, 0.1, method=method)
        assert float(grid[32]) == pytest.approx(0, abs=1e-12)
        assert float(density.max()) == pytest.approx(1 / (0.1 * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda op: lanczos(op, torch.zeros(6, dtype=torch.float64), 3), ValueError, "start: got norm 0"),
        (lambda op: lanczos(op, normal(6), 0), ValueError, "steps: got 0"),
        (lambda op: extreme_eigenpairs(op, 7), ValueError, "count: got 7"),
        (lambda op: extreme_eigenpairs(op, which="middle"), ValueError, "which: got 'middle'"),
        (lambda op: lobpcg(op, count=3), ValueError, "count: got 3"),
        (lambda op: hg.hessian_spectral_density(chain, normal(3), 1), ValueError, "points: got 1"),
        (lambda op: hg.hessian_spectral_density(chain, normal(3), width=0.0), ValueError, "width: got 0"),
    ],
)
def test_refusals(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(MatrixOperator.dense(with_spectrum(laplacian_values(6))))


def test_a_product_that_is_not_finite_is_named() -> None:
    broken = MatrixOperator(lambda v: v * float("nan"), 3, torch.float64)
    with pytest.raises(FloatingPointError, match="not finite at Lanczos step 1"):
        LanczosProcess(broken, normal(3)).step()


@pytest.mark.parametrize("method", list(hg.hessian_extreme_eigenvalues.methods))
def test_functions_whose_derivatives_are_lazy_zeros(method: str) -> None:
    # The second derivative of |x| is one of PyTorch's lazy zeros; inside torch.lobpcg it ended the process.
    x = torch.linspace(0.5, 1.7, 5, dtype=torch.float64)
    found = hg.hessian_extreme_eigenvalues(lambda x: (x.abs() ** 3).sum(), x, method=method)
    torch.testing.assert_close(found, torch.stack([6 * x[0], 6 * x[-1]]), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("operator", "method"),
    [(o, m) for o in (hg.hessian_extreme_eigenvalues, hg.hessian_spectral_density) for m in o.methods],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_hessian_that_is_not_finite_is_named(operator: Any, method: str) -> None:
    for n in (2, 5):
        with pytest.raises(FloatingPointError, match="not finite"):
            operator(lambda x: (x.abs() ** 1.5).sum(), torch.zeros(n, dtype=torch.float64), method=method)


def test_lobpcg_names_products_that_are_not_finite() -> None:
    matrix = torch.full((6, 6), float("nan"), dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="operator: its product"):
        lobpcg(MatrixOperator.dense(matrix))
