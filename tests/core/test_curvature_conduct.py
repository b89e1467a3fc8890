"""How curvature behaves in the caller's modes, with his devices, seeds and numbers, and what ``@`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from core_fakes import classification, normal
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import (
    KFAC,
    ArrayOperator,
    Eigenpairs,
    Estimate,
    HessianOperator,
    MatrixOperator,
    SpectralDensity,
    extreme_eigenpairs,
    hutch_plus_plus,
    hutchinson_trace,
    kfac,
    lanczos,
    lobpcg,
    sampled_fisher_diagonal,
    spectral_density,
    stochastic_diagonal,
    xtrace,
)


def symmetric(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    half = normal(n, n, seed=1)
    return (half + half.T).to(dtype)


A = symmetric(8)
SINGLE = A.float()


def quadratic(x: Tensor) -> Tensor:
    a = A.to(x.dtype)
    return 0.5 * (x * (a * x).sum(1)).sum()


# Every public function of the room, reduced to tensors; the argument is the dtype.
CALLS: dict[str, Callable[[torch.dtype], tuple[Any, ...]]] = {
    "hutchinson_trace": lambda d: _estimate(hutchinson_trace(_dense(d), seed=1)),
    "hutch_plus_plus": lambda d: _estimate(hutch_plus_plus(_dense(d), products=9, seed=1)),
    "xtrace": lambda d: _estimate(xtrace(_dense(d), products=8, seed=1)),
    "stochastic_diagonal": lambda d: _estimate(stochastic_diagonal(_dense(d), seed=1)),
    "lanczos": lambda d: lanczos(_dense(d), normal(8, dtype=d), 8).eigh(),
    "extreme_eigenpairs": lambda d: _pairs(extreme_eigenpairs(_dense(d))),
    "lobpcg": lambda d: _pairs(lobpcg(_dense(d))),
    "spectral_density": lambda d: _density(spectral_density(_dense(d), probes=2, seed=1)),
    "HessianOperator": lambda d: (HessianOperator(quadratic, normal(8, dtype=d)) @ normal(8, seed=2, dtype=d),),
    "jvp_of_grad": lambda d: (
        HessianOperator(quadratic, normal(8, dtype=d), method="jvp_of_grad") @ normal(8, seed=2, dtype=d),
    ),
    "MatrixOperator": lambda d: (_dense(d) @ normal(8, 2, seed=2, dtype=d),),
    "kfac": lambda d: _kfac(kfac(*classification(d))),
    "sampled_fisher_diagonal": lambda d: _estimate(sampled_fisher_diagonal(*classification(d), seed=1)),
    **{
        f"{name}[{method}]": lambda d, name=name, method=method: (
            hg.operators()[name](quadratic, normal(8, dtype=d), method=method, **_seeded(name, method)),
        )
        for name in ("hessian_diagonal", "hessian_trace", "hessian_extreme_eigenvalues", "hessian_spectral_density")
        for method in hg.operators()[name].methods
    },
    **{
        f"{name}[{method}]": lambda d, name=name, method=method: (
            hg.operators()[name](*classification(d), method=method, **_seeded(name, method)),
        )
        for name in ("fisher_matrix", "fisher_diagonal", "empirical_fisher_matrix", "gauss_newton_matrix")
        for method in hg.operators()[name].methods
    },
}


def _seeded(name: str, method: str) -> dict[str, Any]:
    return {"seed": 1} if "seed" in hg.operators()[name].method(method).options else {}


def _dense(dtype: torch.dtype) -> MatrixOperator:
    return MatrixOperator.dense(A.to(dtype))


def _estimate(found: Estimate) -> tuple[Tensor, ...]:
    return found.value, found.standard_error


def _pairs(found: Eigenpairs) -> tuple[Tensor, ...]:
    return found.values, found.vectors.abs()


def _density(found: SpectralDensity) -> tuple[Tensor, ...]:
    return found.nodes, found.weights, *found.density(torch.linspace(-5, 5, 7, device="cpu"), 0.5)


def _kfac(found: KFAC) -> tuple[Tensor, ...]:
    v = normal(found.dense().shape[0], seed=4, dtype=found.blocks[0].inputs.dtype)
    return found.dense(), found.diagonal(), found.matvec(v), found.inverse(0.1).matvec(v)


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode_and_no_grad_change_nothing(name: str) -> None:
    expected = CALLS[name](torch.float64)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            found = CALLS[name](torch.float64)  # tensors made in inference mode, too
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in CALLS if "isher" not in name and "gauss" not in name])
def test_our_own_algebra_leaves_autocast(name: str) -> None:
    if name == "kfac":
        pytest.skip("the module itself runs in bfloat16 there")
    expected = CALLS[name](torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CALLS[name](torch.float32)
    torch.testing.assert_close(found, expected)


def test_modules_keep_autocast_and_what_is_computed_of_them_does_not() -> None:
    arguments = classification(torch.float32)
    expected = kfac(*arguments).dense()
    fisher = hg.fisher_matrix(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        factors = kfac(*arguments)
        found = hg.fisher_matrix(*arguments)
    assert factors.blocks[0].inputs.dtype == torch.float32
    for a, b in ((factors.dense(), expected), (found, fisher)):
        error = float((a - b).norm() / b.norm())
        assert 1e-6 < error < 0.03, "the rounding of bfloat16, once"


@pytest.mark.parametrize("name", CALLS)
def test_a_default_device_other_than_that_of_x_changes_nothing(name: str) -> None:
    expected = CALLS[name](torch.float64)
    made = classification()
    torch.set_default_device("meta")
    try:
        # Whatever is created without a device lands on "meta", and mixing devices fails.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{__name__}.classification", lambda dtype: made)
            found = CALLS[name](torch.float64)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(found, expected)


def test_a_product_of_ones_own_in_a_lower_precision_is_refused() -> None:
    operator = MatrixOperator(lambda v: SINGLE @ v, 8, torch.float32)
    assert torch.equal(operator @ torch.ones(8), SINGLE @ torch.ones(8))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match=r"^product: returned .*bfloat16"):
        extreme_eigenpairs(operator)


class Foreign:
    """An operator of the caller's own, with nothing but the protocol."""

    n, dtype, device = 8, torch.float64, torch.device("cpu")

    def matvec(self, v: Tensor) -> Tensor:
        return HessianOperator(quadratic, torch.zeros(8, dtype=torch.float64)).matvec(v)


def test_operators_of_other_classes_serve_and_others_are_named() -> None:
    pairs = extreme_eigenpairs(Foreign())
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(A)[[0, -1]])
    assert not pairs.vectors.requires_grad
    with pytest.raises(TypeError, match=r"^operator: got Tensor without n, matvec.*MatrixOperator.dense"):
        hutchinson_trace(A)  # type: ignore[arg-type]


def test_matrix_products() -> None:
    v, columns = normal(8, seed=2), normal(8, 3, seed=3)
    hessian = HessianOperator(quadratic, normal(8))
    for operator in (hessian, MatrixOperator.dense(A), MatrixOperator(lambda u: A @ u, 8, torch.float64)):
        assert (operator.n, operator.shape, operator.dtype, operator.device) == (8, (8, 8), A.dtype, A.device)
        torch.testing.assert_close(operator @ v, A @ v)
        torch.testing.assert_close(operator @ columns, A @ columns)
        assert (operator @ columns[:, :0]).shape == (8, 0)
        with pytest.raises(ValueError, match=r"operand of @: got shape \(7,\)"):
            operator @ v[:7]
        with pytest.raises(TypeError, match=r"^v: got dtype torch.float32"):
            operator @ v.float()
    array = ArrayOperator(hessian)
    assert array.shape == (8, 8)
    backwards = v.numpy()[::-1]  # negative strides, which PyTorch does not take
    backwards.flags.writeable = False
    np.testing.assert_allclose(array @ backwards, A.numpy() @ backwards)
    np.testing.assert_allclose(array @ columns.numpy(), A.numpy() @ columns.numpy())
    with pytest.raises(ValueError, match="expected \\(n, n\\)"):
        MatrixOperator.dense(A[:3])


@pytest.mark.parametrize("method", ["linearised", "jvp_of_grad", "double_backward", "finite_difference"])
def test_the_operator_stays_at_its_point(method: str) -> None:
    x, v = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    operator = HessianOperator(lambda y: (y**3).sum(), x, method=method)
    x.mul_(10)
    torch.testing.assert_close(operator @ v, torch.tensor([6.0, 12.0], dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_closures_that_require_grad_keep_their_grad_and_results_come_detached() -> None:
    w = normal(8, seed=5).requires_grad_()
    x = normal(8)
    for name in ("hessian_diagonal", "hessian_trace"):
        for method in hg.operators()[name].methods:
            found = hg.operators()[name](lambda y: (w * y**4).sum(), x, method=method)
            exact = (12 * w * x**2).detach()
            torch.testing.assert_close(found, exact if name == "hessian_diagonal" else exact.sum())
            assert not found.requires_grad
            assert w.grad is None


def test_second_derivatives_of_determinants_in_forward_mode() -> None:
    """Under no_grad PyTorch takes first-order backward formulas of det, layer_norm and others."""

    class Determinant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3, dtype=torch.float64) + 0.1 * symmetric(8)[:3, :3])

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.logdet(self.weight @ self.weight.T + torch.eye(3, dtype=torch.float64))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        m = outputs * torch.eye(2, dtype=torch.float64) + 0.5
        return torch.logdet(m @ m.T + torch.eye(2, dtype=torch.float64)) + 0 * targets.sum()

    module, inputs, targets = Determinant(), normal(2, 1, seed=1).abs(), normal(2, 1)
    j = torch.autograd.functional.jacobian(
        lambda w: (inputs * torch.logdet(w @ w.T + torch.eye(3, dtype=torch.float64))).reshape(-1),
        module.weight.detach(),
    ).reshape(2, 9)
    z, step = module(inputs).detach(), 1e-5
    basis = torch.eye(2, dtype=torch.float64).reshape(2, 2, 1)

    def gradient(at: Tensor) -> Tensor:
        leaf = at.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf, targets), leaf)[0].reshape(-1)

    h = torch.stack([(gradient(z + step * e) - gradient(z - step * e)) / (2 * step) for e in basis])
    for method in hg.gauss_newton_matrix.methods:
        found = hg.gauss_newton_matrix(module, loss, inputs, targets, method=method)
        torch.testing.assert_close(found, j.T @ h @ j, rtol=1e-6, atol=1e-8)


def test_fresh_randomness_by_default_and_torchs_own_seed_repeats_it() -> None:
    operator = MatrixOperator.dense(A)
    draws: list[Callable[[], Any]] = [
        lambda: hutchinson_trace(operator, probes=2).value,
        lambda: stochastic_diagonal(operator, probes=2).value,
        lambda: xtrace(operator, products=4).value,
        lambda: hutch_plus_plus(operator, products=3).value,
        lambda: spectral_density(operator, probes=1, steps=3).nodes,
        lambda: hg.hessian_trace(quadratic, normal(8), method="hutchinson", probes=2),
        lambda: hg.fisher_diagonal(*classification(), method="monte_carlo"),
        lambda: sampled_fisher_diagonal(*classification()).value,
        lambda: kfac(*classification(), fisher="monte_carlo").dense(),
    ]
    for draw in draws:
        torch.manual_seed(3)
        first, second = draw(), draw()
        torch.manual_seed(3)
        assert not torch.equal(first, second)
        assert torch.equal(first, draw())
    # The start vector of an eigensolver is no estimate: the same each time, and nobody's generator moves.
    arguments, state = classification(), torch.get_rng_state()
    assert torch.equal(extreme_eigenpairs(operator).vectors, extreme_eigenpairs(operator).vectors)
    kfac(*arguments)
    assert torch.equal(state, torch.get_rng_state())


def test_numpy_scalars_and_tensors_of_one_number_are_numbers() -> None:
    x, v = normal(8), normal(8, seed=2)
    for order in (np.int64(2), torch.tensor(2), np.array(2)):
        torch.testing.assert_close(hg.derivative_vector_product(quadratic, x, v, order), A @ v)
    for damping in (np.float32(0.5), torch.tensor(0.5), np.array(0.5), 0.5):
        torch.testing.assert_close(HessianOperator(quadratic, x, damping=damping) @ v, A @ v + 0.5 * v)
    assert hutchinson_trace(MatrixOperator.dense(A), probes=np.int32(3), seed=np.int64(1)).products == 3
    for wrong in (True, np.bool_(True), torch.tensor(True), 2.0, "2", torch.tensor([2])):
        with pytest.raises(TypeError, match=r"^order: got"):
            hg.derivative_vector_product(quadratic, x, v, wrong)
    for wrong in (True, 1j, np.complex128(1), "1"):
        with pytest.raises(TypeError, match=r"^damping: got"):
            HessianOperator(quadratic, x, damping=wrong)
    with pytest.raises(ValueError, match=r"^tolerance: got -1"):
        extreme_eigenpairs(MatrixOperator.dense(A), tolerance=-1)


def test_overflow_is_told_from_nan() -> None:
    big = 1e200 * torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(lanczos(MatrixOperator.dense(A), big, 8).eigh()[0], torch.linalg.eigvalsh(A))
    for value, message in ((1e300, "overflows"), (float("nan"), "NaN")):
        broken = MatrixOperator(lambda v, value=value: v * value * 1e300, 8, torch.float64)
        with pytest.raises(FloatingPointError, match=message):
            extreme_eigenpairs(broken)
