"""Newton steps and minimisation: dense solves, standard test functions beside SciPy, a fit that converges."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import convex, mostly_slow, normal, rosenbrock
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import HessianOperator
from hograd_core.solvers import minimize_newton

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

Function = Callable[[Tensor], Tensor]


# --- standard test functions (More, Garbow & Hillstrom 1981, by number, and others) ---------------------------


def extended_rosenbrock(x: Tensor) -> Tensor:  # 21
    return (100 * (x[1::2] - x[::2] ** 2) ** 2 + (1 - x[::2]) ** 2).sum()


def powell_singular(x: Tensor) -> Tensor:  # 13
    return (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4


def brown_badly_scaled(x: Tensor) -> Tensor:  # 4
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2


def beale(x: Tensor) -> Tensor:  # 5
    a, b = x[0], x[1]
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def helical_valley(x: Tensor) -> Tensor:  # 7
    angle = torch.atan2(x[1], x[0]) / (2 * torch.pi)
    return 100 * ((x[2] - 10 * angle) ** 2 + (torch.hypot(x[0], x[1]) - 1) ** 2) + x[2] ** 2


def wood(x: Tensor) -> Tensor:  # 14
    a, b, c, d = x.unbind()
    bowls = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return bowls + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)


def himmelblau(x: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def booth(x: Tensor) -> Tensor:
    return (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2


def trigonometric(x: Tensor) -> Tensor:  # 26
    n = len(x)
    i = torch.arange(1, n + 1, dtype=x.dtype)
    return (n - x.cos().sum() + i * (1 - x.cos()) - x.sin()).square().sum()


# name -> function, start, lowest value at the minimum that is reached from it
FUNCTIONS: dict[str, tuple[Function, list[float], float]] = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0], 0.0),
    "rosenbrock 10": (rosenbrock, [1.3, 0.7, 0.8, 1.9, 1.2] * 2, 0.0),
    "extended rosenbrock": (extended_rosenbrock, [-1.2, 1.0] * 20, 0.0),
    "powell singular": (powell_singular, [3.0, -1.0, 0.0, 1.0], 0.0),
    "brown badly scaled": (brown_badly_scaled, [1.0, 1.0], 0.0),
    "beale": (beale, [1.0, 1.0], 0.0),
    "helical valley": (helical_valley, [-1.0, 0.0, 0.0], 0.0),
    "wood": (wood, [-3.0, -1.0, -3.0, -1.0], 0.0),
    "himmelblau": (himmelblau, [0.0, 0.0], 0.0),
    "booth": (booth, [0.0, 0.0], 0.0),
    "trigonometric": (trigonometric, [0.1] * 10, 2.795e-5),
}


def by_scipy(f: Function, start: Tensor, method: str) -> Any:
    def with_gradient(z: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.tensor(z, requires_grad=True)
        value = f(x)
        return value.item(), torch.autograd.grad(value, x)[0].numpy()

    def product(z: np.ndarray, v: np.ndarray) -> np.ndarray:
        return torch.autograd.functional.hvp(f, torch.tensor(z), torch.tensor(v))[1].numpy()

    tolerance = {"gtol": 1e-8} if method == "trust-ncg" else {"xtol": 1e-10}
    return scipy.optimize.minimize(
        lambda z: with_gradient(z)[0], start.numpy(), jac=lambda z: with_gradient(z)[1], hessp=product,
        method=method, options={**tolerance, "maxiter": 200},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("globalisation", ["line_search", "trust_region"])
@pytest.mark.parametrize("forcing", ["nocedal_wright", "eisenstat_walker", 0.1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_standard_functions_are_minimised(name: str, forcing: str | float, globalisation: str) -> None:
    f, start, lowest = FUNCTIONS[name]
    # Wood's function by line search takes some 200 iterations; SciPy's Newton-CG does not get there in 800.
    result = minimize_newton(
        f,
        torch.tensor(start, dtype=torch.float64),
        globalisation=globalisation,
        forcing=forcing,
        max_iterations=400,
    )
    assert result.converged
    assert result.gradient_norm <= torch.finfo(torch.float64).eps ** 0.5
    assert abs(result.value - lowest) < 1e-7
    assert result.value == pytest.approx(float(f(result.x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_good_as_scipy_and_no_more_products(name: str) -> None:
    f, start, _ = FUNCTIONS[name]
    x0 = torch.tensor(start, dtype=torch.float64)
    for globalisation, method in (("line_search", "Newton-CG"), ("trust_region", "trust-ncg")):
        ours, theirs = (
            minimize_newton(f, x0, globalisation=globalisation, max_iterations=400),
            by_scipy(f, x0, method),
        )
        assert ours.value <= float(theirs.fun) + 1e-9
        if theirs.success:
            assert ours.products <= 2 * theirs.nhev + 20
        if theirs.success and name not in ("powell singular", "himmelblau", "trigonometric"):
            np.testing.assert_allclose(ours.x.numpy(), theirs.x, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "hvp_method", mostly_slow(("linearised", "double_backward", "jvp_of_grad", "finite_difference"))
)
def test_the_hvp_method_does_not_change_the_way(hvp_method: str) -> None:
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    result = minimize_newton(rosenbrock, start, hvp_method=hvp_method)
    assert result.converged
    reference = minimize_newton(rosenbrock, start)
    if hvp_method != "finite_difference":
        assert result.iterations == reference.iterations
    torch.testing.assert_close(result.x, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("globalisation", ["line_search", "trust_region"])
def test_convergence_is_superlinear_near_the_minimum(globalisation: str) -> None:
    result = minimize_newton(
        rosenbrock, torch.tensor([1.1, 1.2], dtype=torch.float64), globalisation=globalisation, gradient_tolerance=1e-10
    )
    norms = [record.gradient_norm for record in result.history if record.accepted] + [result.gradient_norm]
    assert result.converged
    assert norms[-1] < 1e-3 * norms[-2]


@pytest.mark.parametrize("globalisation", ["line_search", "trust_region"])
def test_the_history_counts_what_was_done(globalisation: str) -> None:
    calls = {"f": 0}

    def counted(x: Tensor) -> Tensor:
        calls["f"] += 1
        return rosenbrock(x)

    seen: list[float] = []
    result = minimize_newton(
        counted,
        torch.tensor([[-1.2, 1.0]], dtype=torch.float64).reshape(2),
        globalisation=globalisation,
        callback=lambda x, record: seen.append(float(rosenbrock(x))),
    )
    assert calls["f"] == result.evaluations + result.gradients
    inner = sum(r.cg_iterations + (r.cg_status == "negative_curvature") for r in result.history)
    # Two more in two dimensions tell a minimum from a saddle.
    assert result.products == inner + 2
    assert len(seen) == result.iterations
    values = [record.value for record in result.history]
    assert all(b <= a for a, b in itertools.pairwise(values)), "f never rises"
    assert seen[-1] == pytest.approx(result.value)
    for record in result.history:
        assert record.cg_status != "converged" or record.cg_residual <= record.forcing


def test_any_shape_and_float32() -> None:
    start = torch.tensor([[-1.2, 1.0], [-1.2, 1.0]])
    result = minimize_newton(lambda x: extended_rosenbrock(x.reshape(-1)), start)
    assert result.x.shape == (2, 2)
    assert result.x.dtype == torch.float32
    assert (result.x - 1).abs().max() < 2e-3
    assert torch.equal(start, torch.tensor([[-1.2, 1.0], [-1.2, 1.0]]))


@pytest.mark.parametrize("globalisation", ["line_search", "trust_region"])
def test_a_tolerance_below_rounding_ends_and_says_so(globalisation: str) -> None:
    result = minimize_newton(
        lambda x: ((x - 0.1).exp() - x).sum() * 1e3,
        torch.zeros(3),
        globalisation=globalisation,
        gradient_tolerance=1e-12,
    )
    assert result.status in ("converged", "line_search_failed", "radius_too_small", "max_iterations")
    assert (result.x - 0.1).abs().max() < 1e-4


def test_a_barrier_is_not_crossed() -> None:
    def barrier(x: Tensor) -> Tensor:
        return (x - x.log()).sum()  # nan left of 0, minimum at 1

    for globalisation in ("line_search", "trust_region"):
        start = torch.tensor([0.01, 5.0], dtype=torch.float64)
        result = minimize_newton(barrier, start, globalisation=globalisation, initial_radius=10.0)
        assert result.converged
        torch.testing.assert_close(result.x, torch.ones(2, dtype=torch.float64))


@pytest.mark.slow
def test_a_function_without_a_minimum_ends() -> None:
    for globalisation in ("line_search", "trust_region"):
        result = minimize_newton(
            lambda x: -(x**4).sum(), torch.ones(2, dtype=torch.float64), globalisation=globalisation, max_iterations=400
        )
        assert not result.converged
        assert result.status in ("not_finite", "max_iterations", "line_search_failed", "radius_too_small")


def test_a_preconditioner_is_built_at_every_point() -> None:
    scaling = torch.logspace(0, 3, 20, dtype=torch.float64)

    def badly_scaled(x: Tensor) -> Tensor:
        return convex(x * scaling)

    points = []

    def jacobi(hessian: HessianOperator) -> Callable[[Tensor], Tensor]:
        points.append(hessian.gradient)
        diagonal = scaling.square()
        return lambda r: r / diagonal

    start = normal(20, seed=2) / scaling
    plain = minimize_newton(badly_scaled, start, gradient_tolerance=1e-6)
    helped = minimize_newton(badly_scaled, start, gradient_tolerance=1e-6, preconditioner=jacobi)
    assert helped.converged
    assert len(points) == helped.iterations
    assert helped.products < plain.products / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"globalisation": "hope"}, "globalisation: got 'hope'"),
        ({"forcing": "weak"}, "forcing: got 'weak'"),
        ({"forcing": 1.5}, "forcing: got 1.5"),
        ({"initial_radius": 0.0}, "initial_radius: got 0.0"),
        ({"max_iterations": 0}, "max_iterations: got 0"),
        ({"gradient_tolerance": 0.0}, "gradient_tolerance: got 0.0"),
        ({"damping": -1.0}, "damping: got -1"),
        ({"hvp_method": "guess"}, "method: got 'guess'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimize_newton(rosenbrock, torch.ones(2) * 2, **options)


def test_a_start_outside_the_domain_is_named() -> None:
    found = minimize_newton(lambda x: x.log().sum(), -torch.ones(2))
    assert found.status == "not_finite"
    assert found.iterations == 0


# --- a fit --------------------------------------------------------------------------------------------------


def blobs(samples: int = 120) -> tuple[Tensor, Tensor]:
    """Three overlapping Gaussian classes in 5 dimensions, seeded."""
    targets = torch.arange(samples) % 3
    return normal(samples, 5, seed=3) + 1.5 * normal(3, 5, seed=4)[targets], targets


@pytest.mark.slow
@pytest.mark.parametrize("globalisation", ["line_search", "trust_region"])
def test_newton_cg_fits_a_network_to_a_stated_tolerance(globalisation: str) -> None:
    inputs, targets = blobs()
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(0.4 * normal(*p.shape, seed=20 + i))
    loss, x0 = hg.from_module(module, F.cross_entropy, (inputs, targets))

    def regularised(x: Tensor) -> Tensor:
        return loss(x) + 5e-3 * x.square().sum()

    result = minimize_newton(regularised, x0, globalisation=globalisation, gradient_tolerance=1e-8)
    assert result.converged
    assert result.iterations <= 60
    assert result.value < 0.5 * float(regularised(x0))
    assert float(torch.linalg.eigvalsh(hg.hessian(regularised, result.x))[0]) > 0, "a minimum, not a saddle"
    with torch.no_grad():
        outputs = torch.func.functional_call(
            module,
            {n: v for (n, p), v in zip(
                module.named_parameters(),
                (part.view(p.shape) for part, p in zip(
                    result.x.split([p.numel() for p in module.parameters()]), module.parameters(), strict=True)),
                strict=True)},
            (inputs,),
        )  # fmt: skip
    assert (outputs.argmax(1) == targets).double().mean() > 0.85


@pytest.mark.slow
def test_newton_cg_finds_the_unique_minimum_of_a_logistic_regression() -> None:
    inputs, targets = blobs()

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(inputs @ x.reshape(5, 3), targets) + 1e-2 * x.square().sum()

    found = [minimize_newton(loss, scale * normal(15, seed=9), gradient_tolerance=1e-11) for scale in (0.0, 1.0, 3.0)]
    assert all(result.converged and result.iterations <= 15 for result in found)
    for result in found[1:]:
        torch.testing.assert_close(result.x, found[0].x, rtol=0, atol=1e-8)
