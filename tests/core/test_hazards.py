"""What PyTorch differentiates wrongly is refused or repaired by every method and order, and nothing else is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import F64, OnceSine, OnceSineWithJvp, Sine, SineWithJvp, mostly_slow, normal, weighted
from torch import Tensor, nn

import hograd_core as h
from hograd_core import _call, hazards
from hograd_core._differences import slope
from hograd_core._entrance import unguarded
from hograd_core.curvature import HessianOperator
from hograd_core.hazards import HAZARDS, TESTED, _guard, nearest_tested


def parts(z: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [p.reshape(s) for p, s in zip(torch.split(z, [math.prod(s) for s in shapes]), shapes, strict=True)]


INDEX = torch.tensor([[0, 1, 0], [1, 0, 1]])
ZERO = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=F64)
LARGE = 3 * torch.eye(2, dtype=F64)

# Operator -> (function of a vector, its length); each meets the hazard of that name.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "layer_norm": (lambda z: weighted(F.layer_norm(z[:6].reshape(2, 3), (3,), z[6:9], z[9:])), 12),
    "batch_norm in training mode, instance_norm": (
        lambda z: weighted(F.batch_norm(z[:12].reshape(3, 2, 2), None, None, z[12:14], z[14:], training=True)),
        16,
    ),
    "weight_norm": (lambda z: weighted(torch._weight_norm(*parts(z, (3, 2), (3, 1)))), 9),
    "linalg.det": (lambda z: weighted(torch.linalg.det(z.reshape(2, 2, 2))), 8),
    "slogdet, logdet": (lambda z: torch.linalg.slogdet(z.reshape(3, 3))[1].sin(), 9),
    "linalg.solve, tensorsolve": (lambda z: weighted(torch.linalg.solve(z[:4].reshape(2, 2) + LARGE, z[4:])), 6),
    "linalg.householder_product": (
        lambda z: weighted(torch.linalg.householder_product(z[:6].reshape(3, 2), z[6:])),
        8,
    ),
    "cholesky_inverse": (lambda z: weighted(torch.cholesky_inverse(z.reshape(2, 2).tril() + LARGE)), 4),
    "triangular_solve": (
        lambda z: weighted(torch.triangular_solve(*(p + LARGE for p in parts(z, (2, 2), (2, 2))))[0]),
        8,
    ),
    "scatter_reduce with prod": (
        lambda z: weighted(z[:6].reshape(2, 3).scatter_reduce(0, INDEX, z[6:].reshape(2, 3), "prod")),
        12,
    ),
    "linalg.eig, eigvals": (lambda z: weighted(torch.view_as_real(torch.linalg.eigvals(z.reshape(2, 2)))), 4),
    "cumprod": (lambda z: weighted(torch.cumprod(z * ZERO, 0)), 4),
    "prod": (lambda z: weighted(torch.prod(z.reshape(2, 4) * ZERO * ZERO.flip(0), 1)), 8),
    "sinc at 0": (lambda z: weighted(torch.sinc(z * ZERO)), 4),
    "logcumsumexp": (lambda z: weighted(torch.logcumsumexp(z, 0)), 4),
    "group_norm": (lambda z: weighted(F.group_norm(z.reshape(2, 2, 2), 1)), 8),
    "a torch.autograd.Function with @once_differentiable": (lambda z: weighted(OnceSine.apply(z)), 3),
    "a torch.autograd.Function with @once_differentiable and a jvp": (lambda z: weighted(OnceSineWithJvp.apply(z)), 3),
    "a torch.autograd.Function with its own jvp": (lambda z: weighted(SineWithJvp.apply(z)), 3),
    # Neighbours that are right: nothing may be refused here.
    "right: rms_norm": (lambda z: weighted(F.rms_norm(z.reshape(2, 3), (3,))), 6),
    "right: batch_norm evaluated": (
        lambda z: weighted(F.batch_norm(z.reshape(3, 2), torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64))),
        6,
    ),
    "right: cumprod without zeros": (lambda z: weighted(torch.cumprod(z, 0)), 4),
    "right: inverse": (lambda z: weighted(torch.linalg.inv(z.reshape(2, 2) + LARGE)), 4),
    "right: scatter_reduce with sum": (
        lambda z: weighted(z[:6].reshape(2, 3).scatter_reduce(0, INDEX, z[6:].reshape(2, 3), "sum")),
        12,
    ),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning"),
]
HERE = nearest_tested(torch.__version__, TESTED)
ELSEWHERE = {hazard.operator for hazard in HAZARDS if HERE not in hazard.versions}
DERIVATIVES = (h.derivative_tensor, h.derivative_vector_product, h.directional_derivative)


def names_it(error: h.UnsupportedError, name: str) -> bool:
    """Whether a refusal is the table's, and names operator and remedy."""
    if "wrong derivative" not in str(error):
        return False
    assert name.startswith("right") or name.split(",")[0].split(" with")[0].split(" in ")[0] in str(error)
    assert "; use " in str(error)
    return True


def amounts_of(key: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    """The methods and orders that a method at an order amounts to."""
    name, order = key
    amounts = next(o.methods[name].amounts(order) for o in DERIVATIVES if name in o.methods)
    return amounts or (key,)


@functools.cache  # several tests look at the same ones
def outcomes(name: str, **options: Any) -> dict[tuple[str, int], str]:
    """Status of every method at orders 2 and 3: right, wrong, refused (as wrong by the table), or unsupported."""
    f, n = CASES[name]
    x, v = normal(n, seed=3), normal(n, seed=5)
    found = {}
    for order in (2, 3):
        with unguarded():
            product = slope(f, x, v, order, None, 0.0)
            along = slope(f, x, v, order, v, 0.0)
        assert product.known
        for operator in DERIVATIVES:
            for method in operator.methods.values():
                if not method.supports(order) or not method.exact:
                    continue
                arguments = (f, x) if operator is h.derivative_tensor else (f, x, v)
                try:
                    result = operator(*arguments, order, method=method.name, **options)
                except h.UnsupportedError as error:
                    found[method.name, order] = "refused" if names_it(error, name) else "unsupported"
                    continue
                for _ in range(order - 1 if operator is h.derivative_tensor else 0):
                    result = v.reshape(1, -1) @ result.reshape(n, -1)
                error_ = (along if operator is h.directional_derivative else product).error(result)
                found[method.name, order] = "right" if error_ < 1e-4 * 10 ** (order - 2) else f"wrong ({error_:.1g})"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(CASES, 18))
def test_no_method_returns_a_wrong_number(name: str) -> None:
    found = outcomes(name)
    wrong = {key: status for key, status in found.items() if status.startswith("wrong")}
    assert not wrong
    assert "right" in found.values()
    if name.startswith("right: ") or name in ELSEWHERE:
        assert "refused" not in found.values()
    else:
        assert "refused" in found.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(CASES, 18))
def test_repair_computes_instead(name: str) -> None:
    found = outcomes(name, repair=True)
    assert not {key: status for key, status in found.items() if status.startswith("wrong")}
    hazard = next((z for z in HAZARDS if name.startswith(z.operator)), None)
    if hazard is None or hazard.substitute:
        assert "refused" not in found.values()
        assert found["double_backward", 2] == found["double_backward", 3] == "right"
        assert found["grad_of_jvp", 2] == "right"


@pytest.mark.slow
def test_methods_that_the_table_does_not_accuse_are_not_refused() -> None:
    for hazard in HAZARDS:
        if hazard.operator in CASES:
            refused = {key for key, status in outcomes(hazard.operator).items() if status == "refused"}
            accused = {key for key in refused if any(hazard.concerns(*amount) for amount in amounts_of(key))}
            assert accused == refused, (hazard.operator, refused - accused)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sinc_near_zero_is_refused_where_nothing_but_rounding_is_left(dtype: torch.dtype) -> None:
    f = lambda z: torch.sinc(z).sum()  # noqa: E731
    eps, one = torch.finfo(dtype).eps, torch.ones(1, dtype=dtype)
    for order in (2, 3):
        for far, refused in ((0.0, True), (0.01, True), (100.0, False)):
            x = one * (far * eps ** (1 / order))
            truth = h.derivative_vector_product(f, x, one, order, method="reverse_over_taylor")
            for method in ("double_backward", "jvp_of_grad", "grad_of_jvp", "double_vjp"):
                if refused:
                    with pytest.raises(h.UnsupportedError, match="differentiates sinc"):
                        h.derivative_vector_product(f, x, one, order, method=method)
                else:
                    found = h.derivative_vector_product(f, x, one, order, method=method)
                    assert torch.allclose(found, truth, rtol=1e-2, atol=1e-2)
                repaired = h.derivative_vector_product(f, x, one, order, method=method, repair=True)
                assert torch.allclose(repaired, truth, rtol=1e-5)


@pytest.mark.parametrize("operator", [h.derivative_vector_product, h.derivative_tensor, h.directional_derivative])
def test_a_function_that_is_once_differentiable_is_never_a_silent_zero(operator: Any) -> None:
    """Where nothing that comes into its backward requires grad, PyTorch says nothing of it."""
    x = normal(3)
    arguments = (OnceSine.apply, x) if operator is h.derivative_tensor else (OnceSine.apply, x, x)
    for method in operator.methods:
        try:
            result = operator(lambda z: arguments[0](z).sum(), *arguments[1:], 2, method=method)
        except h.UnsupportedError:
            continue
        assert result.any(), method


class _OfMixin:
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()


class _Called:
    def __call__(self, ctx: Any, x: Tensor) -> Tensor:
        return _OfMixin.forward(ctx, x)


FORWARDS: dict[str, Any] = {
    "inherited": _OfMixin.forward,
    "under no_grad": torch.no_grad()(_OfMixin.forward),
    "custom_fwd": torch.amp.custom_fwd(_OfMixin.forward, device_type="cpu"),  # type: ignore[no-untyped-call]
    "partial": functools.partial(lambda _, ctx, x: _OfMixin.forward(ctx, x), None),
    "an object": _Called(),
}


@pytest.mark.parametrize("method", ["taylor_over_reverse", "reverse_over_taylor"])
@pytest.mark.parametrize("name", FORWARDS)
def test_series_go_through_custom_functions_however_they_are_written(name: str, method: str) -> None:
    """And no_grad around their like, decorated alike, is a constant before and after."""
    namespace = {} if name == "inherited" else {"forward": staticmethod(FORWARDS[name])}
    made: Any = type("Made", (_OfMixin, torch.autograd.Function), {**namespace, "backward": Sine.backward})
    constant = torch.no_grad()(torch.cos)
    f = lambda z: (constant(z) * made.apply(z) * constant(z)).sum()  # noqa: E731
    x, v = normal(3), normal(3, seed=1)
    assert torch.allclose(h.hvp(f, x, v, method=method), -v * x.cos() ** 2 * x.sin())


def test_masked_select_with_a_broadcast_mask() -> None:
    mask = torch.tensor([True, False, True])
    f = lambda z: weighted(torch.masked_select(z.reshape(2, 3), mask))  # noqa: E731
    x, v = normal(6), normal(6, seed=1)
    truth = h.hvp(f, x, v, method="finite_difference")
    for method in h.derivative_tensor.methods:
        try:
            assert torch.allclose(h.hessian(f, x, method=method) @ v, truth, atol=1e-6)
        except h.UnsupportedError:
            assert method != "rows"
    assert torch.allclose(h.hessian(f, x, method="jacrev_of_grad", repair=True) @ v, truth, atol=1e-6)


def test_inside_a_larger_derivative_the_orders_add_up() -> None:
    f, n = CASES["layer_norm"]
    x, v = normal(n), normal(n, seed=1)
    assert h.hvp(f, x, v).isfinite().all()
    for outer in (
        lambda g: h.gradient(g, x),
        lambda g: torch.func.grad(g)(x),
        lambda g: h.gradient(g, x, method="func"),
    ):
        with pytest.raises(h.UnsupportedError, match=r"layer_norm .* at order 3"):
            outer(lambda y: h.hvp(f, y, v) @ v)
    third = h.gradient(lambda y: h.hvp(f, y, v, repair=True) @ v, x)
    assert torch.allclose(third, h.derivative_vector_product(f, x, v, 3, method="reverse_over_taylor"))


def test_operators_on_models_are_guarded_too() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)).double()
    points = normal(5, 3)
    right = h.r1_penalty(critic, points, method="double_backward")
    assert torch.isfinite(right.value)
    with pytest.raises(h.UnsupportedError, match="layer_norm"):
        h.r1_penalty(critic, points, method="reverse_over_forward")
    repaired = h.r1_penalty(critic, points, method="reverse_over_forward", repair=True)
    for name, g in right.gradient.items():
        assert torch.allclose(repaired.gradient[name], g)
    f, n = CASES["weight_norm"]
    x = normal(n)
    exact = h.hessian(f, x, method="batched_rows", repair=True)
    for method in h.hessian_trace.methods.values():
        if not method.exact:
            continue
        try:
            assert torch.allclose(h.hessian_trace(f, x, method=method.name), exact.trace())
        except h.UnsupportedError:
            assert torch.allclose(h.hessian_trace(f, x, method=method.name, repair=True), exact.trace())
    with pytest.raises(h.UnsupportedError, match="weight_norm"):
        HessianOperator(f, x).matvec(x)
    with pytest.raises(h.UnsupportedError, match="weight_norm"):
        h.newton_cg_step(f, x, damping=1.0)


def test_forward_mode_that_is_wrong_at_order_one() -> None:
    f, n = CASES["cholesky_inverse"]
    x, v = normal(n), normal(n, seed=1)
    with pytest.raises(h.UnsupportedError, match="cholesky_inverse"):
        h.directional_derivative(f, x, v, 1, method="nested_jvp")
    assert torch.allclose(h.directional_derivative(f, x, v, 1), h.gradient(f, x) @ v)
    repaired = h.directional_derivative(f, x, v, 1, method="nested_jvp", repair=True)
    assert torch.allclose(repaired, h.gradient(f, x) @ v)


def test_the_guard_can_be_left_out_for_measuring() -> None:
    f, n = CASES["weight_norm"]
    x, v = normal(n), normal(n, seed=1)
    with hazards.ignored():
        wrong = h.hvp(f, x, v)
    assert torch.equal(wrong, h.derivative_vector_product.unguarded(f, x, v))
    assert not torch.allclose(wrong, h.hvp(f, x, v, repair=True), rtol=1e-3)


@pytest.mark.parametrize(
    ("version", "nearest"),
    [
        *((v, v) for v in TESTED),
        ("2.13.0+cpu", "2.13.0"), ("2.13.1", "2.13.0"), ("2.6.0", "2.13.0"), ("2.11.0", "2.13.0"),
        ("2.14.0a0+git1", "2.14.1"), ("2.15.0.dev20261101", "2.14.1"), ("3.0", "2.14.1"), ("odd", "2.13.0"),
    ],
)  # fmt: skip
def test_another_version_counts_as_the_nearest_tested(version: str, nearest: str) -> None:
    assert nearest_tested(version, TESTED) == nearest


def _forget() -> None:
    _guard._reckoned.cache_clear()
    _guard._made.cache_clear()
    _call._usual.cache_clear()


def test_a_version_without_a_hazard_is_not_accused(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(_guard, "HAZARDS", tuple(z for z in HAZARDS if False))
    _forget()
    try:
        f, n = CASES["weight_norm"]
        assert h.hvp(f, normal(n), normal(n)).isfinite().all()
    finally:
        _forget()


@pytest.mark.parametrize("method", ["double_backward", "jvp_of_grad", "grad_of_jvp", "finite_difference"])
def test_an_offset_into_memory_is_refused_where_a_leaf_is_a_part_of_one_tensor(method: str) -> None:
    x = {"a": torch.rand(4, dtype=F64), "b": torch.rand(6, dtype=F64)}

    def product(part: Callable[[Tensor], Tensor]) -> Tensor:
        f = lambda p: p["a"].sum() + (part(p["b"]) ** 3).sum()  # noqa: E731
        return h.hvp(f, x, x, method=method)["b"]

    for part in (
        lambda b: b.as_strided((2, 2), (2, 1), 1), lambda b: b.view(2, 3).t()[1:].as_strided((2, 2), (2, 1), 1),
        lambda b: torch.as_strided_copy(b, (2, 2), (2, 1), 1),
        lambda b: torch.as_strided_scatter(b, b[:4].view(2, 2) * 2, (2, 2), (2, 1), 1),
    ):  # fmt: skip
        with pytest.raises(h.UnsupportedError, match="clone the leaf"):
            product(part)
    for part in (lambda b: b.as_strided((4,), (1,)), lambda b: b.clone().as_strided((4,), (1,), 0)):
        assert torch.allclose(product(part), torch.cat([6 * x["b"][:4] ** 2, x["b"].new_zeros(2)]), rtol=1e-5)
