"""Differential operators on fields: sympy, closed forms, statistics, leaks, and networks that solve equations."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from core_fakes import left_by, mostly_slow
from torch import Tensor, nn

from hograd_core.applications import _pinn_truth  # noqa: F401 (registers the truths)
from hograd_core.applications._partials import KERNELS
from hograd_core.applications._polarisation import expand
from hograd_core.applications.pinn import (
    Equation,
    beam,
    bilaplacian,
    burgers,
    field_derivatives,
    gaussian_bilaplacian,
    heat,
    hutchinson_laplacian,
    kuramoto_sivashinsky,
    laplacian,
    partial_derivatives,
    residual,
    residual_loss,
    sampled_laplacian,
)
from hograd_core.reference import reference, relative_error, tolerance

METHODS = list(KERNELS)
SUMS = [*METHODS, "collapsed_taylor"]
SYMBOLS = sympy.symbols("x y z")
FORMULAS = {
    "trigonometric": sympy.sin(2 * SYMBOLS[0] - SYMBOLS[1]) * sympy.exp(SYMBOLS[2] / 2)
    + sympy.cos(SYMBOLS[0] * SYMBOLS[2]),
    "rational": 1 / (2 + SYMBOLS[0] ** 2 + SYMBOLS[1] ** 2 * SYMBOLS[2] ** 2),
    "polynomial": SYMBOLS[0] ** 4 * SYMBOLS[1] ** 2 - 3 * SYMBOLS[0] * SYMBOLS[1] * SYMBOLS[2] ** 2 + SYMBOLS[2] ** 5,
}
INDICES = [
    (), (0,), (2,), (0, 0), (0, 1), (2, 1), (0, 0, 0), (0, 0, 1), (0, 1, 2), (2, 1, 2),
    (1, 1, 1, 1), (0, 0, 1, 1), (0, 1, 1, 1), (0, 0, 1, 2), (2, 0, 2, 0),
]  # fmt: skip


def points(n: int = 4, d: int = 3) -> Tensor:
    return torch.rand((n, d), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def field(name: str):
    """The formula as PyTorch code."""
    compiled = sympy.lambdify(SYMBOLS, FORMULAS[name], [{"sin": torch.sin, "cos": torch.cos, "exp": torch.exp}])
    return lambda x: compiled(*x.unbind(-1))


def exact(name: str, index: tuple[int, ...], at: Tensor) -> Tensor:
    """The derivative that sympy gives, at 30 digits."""
    derivative = FORMULAS[name].diff(*(SYMBOLS[i] for i in index)) if index else FORMULAS[name]
    numbers = [
        float(derivative.evalf(30, subs=dict(zip(SYMBOLS, map(sympy.Float, p.tolist()), strict=True)))) for p in at
    ]
    return torch.tensor(numbers, dtype=torch.float64)


def network(d: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 1)).double()


@pytest.fixture(scope="module")
def sympy_truths() -> dict[str, Tensor]:
    return {name: torch.stack([exact(name, index, points()) for index in INDICES]) for name in FORMULAS}


@pytest.mark.slow
@pytest.mark.parametrize("name", partial_derivatives.methods)
@pytest.mark.parametrize("formula", FORMULAS)
def test_partial_derivatives_against_sympy(name: str, formula: str, sympy_truths: dict[str, Tensor]) -> None:
    found = partial_derivatives(field(formula), points(), INDICES, method=name)
    torch.testing.assert_close(found, sympy_truths[formula], rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("formula", FORMULAS)
def test_laplacian_and_bilaplacian_against_sympy(name: str, formula: str) -> None:
    x = points()
    lap = sum(exact(formula, (i, i), x) for i in range(3))
    bilap = sum(exact(formula, (i, i, j, j), x) for i in range(3) for j in range(3))
    torch.testing.assert_close(laplacian(field(formula), x, method=name), lap, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(bilaplacian(field(formula), x, method=name), bilap, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_network_against_truth(name: str, dtype: torch.dtype) -> None:
    x = points(3, 2).to(dtype)
    u = network(2).to(dtype).double()
    for operator, arguments in ((laplacian, ()), (bilaplacian, ()), (partial_derivatives, ([(), (1,), (0, 1, 1)],))):
        expected = reference(operator.name, u, x.double(), *arguments)
        found = operator(u.to(dtype), x, *arguments, method=name)
        assert found.dtype == dtype
        assert relative_error(found, expected) <= tolerance(operator.method(name), dtype, operator.order)
        u.double()


EQUATIONS = (
    (heat(0.3), 2), (burgers(0.05, lambda x: x[:, 0]), 2), (kuramoto_sivashinsky(), 2),
    (beam(2.0, lambda x: x[:, 0].sin()), 1),
)  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("equation", "d"), EQUATIONS, ids=lambda v: getattr(v, "name", v))
def test_residual_losses_against_truth(name: str, equation: Equation, d: int) -> None:
    u = network(d)
    expected = reference("residual_loss", u, points(3, d), equation)
    found = residual_loss(u, points(3, d), equation, method=name)
    assert relative_error(found, expected) < 1e-11
    assert not found.value.requires_grad
    assert all(p.grad is None for p in u.parameters())


@pytest.mark.slow
def test_exact_solutions_leave_no_residual() -> None:
    x = points(6, 2).abs()

    def travelling(x: Tensor) -> Tensor:
        # Burgers' shock with viscosity 1/10 and speed 1: u = 1 − tanh((x − t) / (2 ν)).
        return 1 - torch.tanh((x[:, 0] - x[:, 1]) / 0.2)

    def wave(x: Tensor) -> Tensor:
        return torch.sin(2 * x[:, 0]) * torch.exp(-x[:, 1])

    def forced(x: Tensor) -> Tensor:
        # −u + u u_x − 4u + 16u for u = sin 2x e⁻ᵗ.
        decay = torch.exp(-x[:, 1])
        u = torch.sin(2 * x[:, 0]) * decay
        return 11 * u + 2 * u * torch.cos(2 * x[:, 0]) * decay

    cases = (
        (heat(0.5), lambda x: torch.sin(2 * x[:, 0]) * torch.exp(-2 * x[:, 1]), x),
        (burgers(0.1), travelling, x),
        (kuramoto_sivashinsky(forced), wave, x),
        (beam(3.0, lambda x: 3 * x[:, 0].sin()), lambda x: x[:, 0].sin() + x[:, 0] ** 3, x[:, :1]),
    )
    for equation, solution, at in cases:
        for name in METHODS:
            assert residual(solution, at, equation, method=name).abs().max() < 1e-10, (equation.name, name)


def test_truth_against_finite_differences() -> None:
    u, x, equation = network(2), points(3, 2), burgers(0.1)
    expected = reference("residual_loss", u, x, equation)
    weight = u[2].weight.data
    for entry in ((0, 0), (3, 4)):
        values = []
        for step in (1e-5, -2e-5):
            weight[entry] += step
            values.append(residual(u, x, equation).square().mean().item())
        weight[entry] += 1e-5
        difference = (values[0] - values[1]) / 2e-5
        assert expected.gradient["2.weight"][entry].item() == pytest.approx(difference, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_results_follow_the_grad_mode(name: str) -> None:
    u, x = network(2), points(3, 2)
    assert not laplacian(u, x, method=name).requires_grad
    assert not partial_derivatives(u, x, [(0, 1)], method=name).requires_grad
    recorded = field_derivatives(u, x, [(0, 0), (0,)], method=name)
    assert recorded.requires_grad
    torch.testing.assert_close(recorded.detach(), partial_derivatives(u, x, [(0, 0), (0,)], method=name))
    u = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        assert not field_derivatives(u, x, [(0, 0)], method=name).requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_flat_fields_have_zero_derivatives(name: str) -> None:
    x = points(3, 2)
    assert bool((laplacian(lambda x: x.sum(1), x, method=name) == 0).all())
    assert bool((bilaplacian(lambda x: (x * x).sum(1), x, method=name).abs() < 1e-12).all())
    found = partial_derivatives(lambda x: x[:, 0] * 2, x, [(1,), (0,), ()], method=name)
    torch.testing.assert_close(found, torch.stack([x[:, 0] * 0, x[:, 0] * 0 + 2, x[:, 0] * 2]))


@pytest.mark.parametrize("name", [m for m in METHODS if partial_derivatives.method(m).options])
def test_chunks_change_nothing(name: str) -> None:
    u, x = network(3), points()
    whole = bilaplacian(u, x, method=name)
    torch.testing.assert_close(bilaplacian(u, x, method=name, chunk_size=2), whole)
    with pytest.raises(ValueError, match="method: got 'magic'"):
        field_derivatives(u, x, [(0,)], method="magic")


def test_polarisation_is_small_and_exact() -> None:
    assert [d for d, _ in expand((0, 0, 1, 1), 2).terms] == [(0, 1), (1, -1), (1, 0), (1, 1)]
    assert expand((1, 1, 1), 2).terms == (((0, 1), 6.0),)
    # On a symmetric tensor built of rank-one terms the identity holds exactly.
    for index in ((0, 1), (0, 0, 1), (0, 1, 2), (0, 0, 0, 1), (0, 1, 1, 2), (2, 2, 1, 1)):
        a = (2, -3, 5)
        total = sum(w * sum(x * y for x, y in zip(a, d, strict=True)) ** len(index) for d, w in expand(index, 3).terms)
        assert total == pytest.approx(math.factorial(len(index)) * math.prod(a[i] for i in index))


@pytest.mark.parametrize("estimator", [hutchinson_laplacian, sampled_laplacian, gaussian_bilaplacian])
def test_estimates_are_unbiased_within_their_standard_error(estimator) -> None:
    u, x = field("trigonometric"), points(40)
    truth = (bilaplacian if estimator is gaussian_bilaplacian else laplacian)(u, x)
    found = estimator(u, x, probes=400, seed=1)
    z = (found.value - truth) / found.standard_error
    # 40 independent points: the mean of z is normal with deviation 0.16, its mean square about 1 ± 0.22.
    assert abs(z.mean().item()) < 0.6
    assert 0.4 < z.square().mean().item() < 2.0
    again = estimator(u, x, probes=400, seed=1)
    assert torch.equal(again.value, found.value)
    assert not torch.equal(estimator(u, x, probes=400, seed=2).value, found.value)


def test_estimators_are_exact_where_their_variance_is_zero() -> None:
    x = points(5)
    diagonal = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = hutchinson_laplacian(lambda x: (diagonal * x * x).sum(1), x, probes=3)
    torch.testing.assert_close(found.value, torch.full((5,), 12.0, dtype=torch.float64))
    assert bool((found.standard_error < 1e-12).all())
    found = sampled_laplacian(lambda x: (x * x).sum(1), x, probes=3)
    torch.testing.assert_close(found.value, torch.full((5,), 6.0, dtype=torch.float64))
    method = laplacian(lambda x: (x * x).sum(1), x, method="sampled_coordinates", probes=3)
    torch.testing.assert_close(method, found.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(METHODS))
def test_nothing_is_kept_after_a_hundred_steps(name: str) -> None:
    u, x = network(2), points(2, 2)
    assert left_by(lambda: residual_loss(u, x, heat(), method=name)) <= 0


def test_errors_name_the_argument() -> None:
    u, x = network(2), points(3, 2)
    with pytest.raises(TypeError, match="u: got int"):
        laplacian(3, x)
    with pytest.raises(ValueError, match="points: got shape"):
        laplacian(u, x[0])
    with pytest.raises(TypeError, match="points: got dtype"):
        laplacian(u, x.long())
    with pytest.raises(ValueError, match="u: returned shape"):
        laplacian(lambda x: x, x)
    with pytest.raises(ValueError, match="indices: got coordinate 2"):
        partial_derivatives(u, x, [(0, 2)])
    with pytest.raises(TypeError, match="indices: got"):
        partial_derivatives(u, x, (0, 1))
    with pytest.raises(ValueError, match="indices: got coordinate 1"):
        residual_loss(network(1), x[:, :1], heat())
    with pytest.raises(TypeError, match="equation: got str"):
        residual_loss(u, x, "heat")
    with pytest.raises(TypeError, match="equation: got str"):
        residual(u, x, "heat")
    with pytest.raises(TypeError, match=r"points: got dtype torch.float32, expected torch.float64 like the parameters"):
        laplacian(u, x.float())
    for method in ("taylor", "nested_forward"):
        with pytest.raises(ValueError, match=r"chunk_size.*0"):
            laplacian(u, x, method=method, chunk_size=0)


@pytest.mark.parametrize("method", ["hutchinson", "sampled_coordinates"])
def test_probes_and_seeds_are_checked(method: str) -> None:
    for options, error in (({"probes": 0}, ValueError), ({"probes": 2.5}, TypeError), ({"seed": "a"}, TypeError)):
        with pytest.raises(error, match=f"{next(iter(options))}: got"):
            laplacian(network(2), points(3, 2), method=method, **options)


@pytest.mark.parametrize("layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4)], ids=lambda m: type(m).__name__)
def test_layers_that_are_random_or_couple_points_are_refused(layer: torch.nn.Module) -> None:
    # Nested reverse and Taylor mode gave two different Laplacians, and neither said so.
    u = torch.nn.Sequential(torch.nn.Linear(2, 4), layer.train(), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    for call in (lambda: laplacian(u, points(3, 2)), lambda: residual_loss(u, points(3, 2), heat())):
        with pytest.raises(ValueError, match="u: 1 is"):
            call()
    laplacian(u.eval(), points(3, 2))
