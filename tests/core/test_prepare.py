"""Prepared kernels: right at other points, for other operators, in every mode; refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import V, X, close, dispatched, every, needs_compiler, network
from torch import Tensor, nn

import hograd_core as h
from hograd_core import UnsupportedError, prepare
from hograd_core.prepare.inductor import _compile, _kept


@every
def test_a_product_at_other_points_and_directions(preparation: str) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation=preparation)
    assert (p.preparation, p.reason, p.traces) == (preparation, None, 1)
    for s in range(3):
        x, v = normal(8, seed=10 + s), normal(8, seed=20 + s)
        assert close(p(x, v), h.hvp(f, x, v))
    assert p.traces == 1
    assert p.seconds > 0


def test_a_graph_dispatches_at_most_half_of_what_eager_does() -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    assert 2 * dispatched(lambda: p(X, V)) <= dispatched(lambda: h.derivative_vector_product.unguarded(f, X, V))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "arguments", "how"),
    [
        (h.gradient, (), {}),
        (h.hessian, (), {}),
        (h.derivative_vector_product, (V,), {"order": 3}),
        (h.directional_derivative, (V,), {"order": 2}),
        (h.hvp, (V,), {"method": "jvp_of_grad"}),
        (h.hvp, (V,), {"method": "vjp_of_grad"}),
        (h.hessian, (), {"method": "func_hessian"}),
        (h.hessian_diagonal, (), {}),
    ],
)
def test_other_operators_methods_and_orders(operator: Any, arguments: tuple[Tensor, ...], how: dict[str, Any]) -> None:
    f = network()
    p = prepare(operator, f, X, preparation="graph", **how)
    assert p.reason is None
    assert close(p(X + 0.1, *arguments), operator(f, X + 0.1, *arguments, **how))


@pytest.mark.slow
def test_a_tensor_of_third_order() -> None:
    def f(x: Tensor) -> Tensor:
        return (x.tanh().square() * x.roll(1)).sum()

    p = prepare(h.derivative_tensor, f, X[:3], preparation="graph", order=3)
    assert p.reason is None
    assert close(p(X[3:6]), h.derivative_tensor(f, X[3:6], order=3))


@every
def test_further_arguments_are_inputs(preparation: str) -> None:
    w = normal(8, 3, seed=4)

    def f(x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return ((inputs * x) @ w - targets).tanh().square().mean()

    batches = [(normal(5, 8, seed=s), normal(5, 3, seed=s + 1)) for s in (30, 40)]
    p = prepare(h.hvp, f, X, args=batches[0], preparation=preparation)
    for batch in batches:
        assert close(p(X, V, args=batch), h.hvp(lambda x, b=batch: f(x, *b), X, V))
    assert p.traces == 1
    short = [t[:2] for t in batches[1]]
    assert close(p(X, V, args=short), h.hvp(lambda x: f(x, *short), X, V))
    assert p.traces == 2


@every
def test_updates_of_tensors_that_f_refers_to_are_seen(preparation: str) -> None:
    w = nn.Parameter(normal(8, 8, seed=5))
    f = lambda x: (x @ w).tanh().square().sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation=preparation)
    with torch.no_grad():
        w.mul_(0.5)
    assert close(p(X, V), h.hvp(f, X, V))
    w.data = normal(8, 8, seed=6)
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 1
    w = nn.Parameter(normal(8, 8, seed=7))  # another tensor
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 2
    w.data = normal(8, 3, seed=8)
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 3


@every
def test_matrices_that_are_parts_of_one_vector(preparation: str) -> None:
    inputs = normal(2, 4, seed=20)

    def f(x: Tensor) -> Tensor:
        a, b, c, d = x.split([2, 16, 3, 15])
        return (((inputs * c[0]) @ b.view(4, 4)).tanh() @ torch.cat([d, a[:1]]).view(4, 4).t()).tanh().square().sum()

    x, v = normal(36, seed=21), normal(36, seed=22)
    p = prepare(h.hvp, f, x, preparation=preparation)
    assert p.reason is None
    assert close(p(x, v), h.hvp(f, x, v))
    assert close(p.bind(x)(v), h.hvp(f, x, v))


@every
def test_numbers_may_select_but_masks_may_not(preparation: str) -> None:
    f = lambda x: x[torch.tensor([1, 1, 5, 0])].pow(3).sum() * x.sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation=preparation)
    assert p.reason is None
    assert close(p(X, V), h.hvp(f, X, V))


@every
def test_what_is_kept_whole_until_it_is_compiled(preparation: str) -> None:
    """Inductor takes dot products and flips apart, or refuses them."""
    f = lambda x: torch.dot(x, x.sin()) ** 2 * torch.vdot(x, x.flip(0))  # noqa: E731
    p = prepare(h.hvp, f, X, preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    assert close(p(X, V), h.hvp(f, X, V))


OUTSIDE = normal(8, seed=9)
MADE_INSIDE = {
    "memory like a tensor outside": lambda x: torch.zeros_like(OUTSIDE).add_(x.sin() * OUTSIDE).pow(2).sum(),
    "a number with a shape": lambda x: (x.sin() * torch.tensor(2.0, dtype=F64).view(1)).pow(3).sum(),
    "an identity of hundreds": lambda x: (torch.eye(300, dtype=F64)[2:4, :8] @ x).sin().prod(),
}


@pytest.mark.parametrize("preparation", ["graph", pytest.param("compiled", marks=needs_compiler)])
def test_integers_to_a_power_and_negated_views(preparation: str) -> None:
    """A square in floating point is no product of integers; a view of which memory holds the negative is no memory."""
    of = lambda x, i, j, c: (x.pow(3) * (i.pow(2.0) + j.pow(2)).to(F64) * c).sum()  # noqa: E731
    x, v, number = X[:2], V[:2], torch.tensor(1 + 2j, dtype=torch.complex128)
    given = torch.tensor([1, 2], dtype=torch.int16), torch.tensor([False, True]), number.imag.clone()
    p = prepare(h.hvp, of, x, args=given, preparation=preparation)
    others = torch.tensor([300, 200], dtype=torch.int16), torch.tensor([True, True]), number.conj().imag
    assert others[2].is_neg()
    assert close(p(x, v, args=others), h.hvp(lambda x: of(x, *others), x, v))
    turned = torch._neg_view(v)
    assert close(p(x, turned, args=given), -p(x, v, args=given))
    assert close(p(torch._neg_view(x), v, args=given), -p(x, v, args=given))
    assert close(p.bind(x, args=given)(turned), -p(x, v, args=given))
    assert p.preparation == preparation


@pytest.mark.parametrize("pool", [torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d])
def test_a_hessian_of_pools(pool: Any) -> None:
    f = lambda x: pool(x.view(1, 1, 2, 4), 2).pow(3).sum()  # noqa: E731
    if pool is torch.nn.functional.max_pool1d:
        f = lambda x: pool(x.view(1, 1, 8), 2).pow(3).sum()  # noqa: E731
    p = prepare(h.hessian, f, X, preparation="graph")
    assert (p.preparation, p.reason) == ("graph", None)
    assert close(p(X), h.hessian(f, X))


@every
@pytest.mark.parametrize("f", MADE_INSIDE.values(), ids=MADE_INSIDE.keys())
def test_what_f_makes_for_itself(f: Any, preparation: str) -> None:
    p = prepare(h.hvp, f, X, preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    assert close(p(V, X), h.hvp(f, V, X))


def test_the_point_that_f_refers_to_as_well_is_no_input() -> None:
    x = X.clone()
    f = lambda p: (p * x).sum() ** 3  # noqa: E731
    p = prepare(h.hvp, f, x, preparation="graph")
    assert close(p(V, V), h.hvp(f, V, V))


def test_hazards_apply() -> None:
    f = lambda x: torch.linalg.det(x.view(2, 4) @ x.view(4, 2) + 2 * torch.eye(2, dtype=F64))  # noqa: E731
    with pytest.raises(UnsupportedError, match="wrong derivative"):
        prepare(h.hvp, f, X, method="grad_of_jvp", preparation="graph")
    p = prepare(h.hvp, f, X, method="grad_of_jvp", repair=True, preparation="graph")
    assert close(p(X, V), h.hvp(f, X, V))


def test_inside_a_larger_derivative_the_eager_method_runs() -> None:
    p = prepare(h.hvp, lambda x: x.pow(4).sum(), X, preparation="graph")
    expected = h.gradient(lambda x: h.hvp(lambda y: y.pow(4).sum(), x, V).sum(), X)
    assert close(h.gradient(lambda x: p(x, V).sum(), X), expected)
    assert close(torch.func.grad(lambda x: p(x, V).sum())(X), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller(mode: Any) -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    with mode():
        assert not p(X.clone(), V).is_inference()
        assert close(p(X, V), h.hvp(f, X, V))
        assert close(b(V.clone()), h.hvp(f, X, V))
    assert close(p(X.clone().requires_grad_(), V), h.hvp(f, X, V))
    assert not p(X.clone().requires_grad_(), V).requires_grad


@every
def test_results_are_memory_of_their_own(preparation: str) -> None:
    p = prepare(h.hvp, lambda x: 0.5 * x.square().sum(), X, preparation=preparation)
    result = p(X, V)
    assert result.data_ptr() != V.data_ptr()
    result.zero_()
    assert V.abs().sum() > 0


@every
def test_a_result_is_never_that_of_another_call(preparation: str) -> None:
    """Inductor's wrapper with arrays on the stack, say, hands out one block of memory a thread."""
    p = prepare(h.hvp, network(), X, preparation=preparation)
    hessian = prepare(h.hessian, network(), X, preparation=preparation)
    bound = p.bind(X)
    calls = (
        lambda s: p(X, normal(8, seed=s)), lambda s: hessian(normal(8, seed=s)), lambda s: bound(normal(8, seed=s)),
        lambda s: bound(normal(3, 8, seed=s), in_dims=0),
    )  # fmt: skip
    for call in calls:
        results = [call(seed) for seed in (1, 2, 3)]
        kept = [result.clone() for result in results]
        call(4)
        assert all(torch.equal(result, copy) for result, copy in zip(results, kept, strict=True))
        assert len({result.data_ptr() for result in results}) == 3


@every
def test_results_and_residuals_outlive_the_next_call(preparation: str) -> None:
    """A kernel that returns a buffer of its own would write over them."""
    f = network()
    p = prepare(h.hvp, f, X, preparation=preparation)
    points = X, X + 0.5
    bound = [p.bind(x) for x in points]
    results = [*(p(x, V) for x in points), *(b(V) for b in bound), *(b(V) for b in bound)]
    expected = [h.hvp(f, x, V) for x in points]
    assert all(close(result, expected[i % 2]) for i, result in enumerate(results))
    assert len({result.data_ptr() for result in results}) == len(results)


def test_views_that_are_not_contiguous() -> None:
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    v = normal(8, 2, seed=3)[:, 0]
    assert close(p(X, v), h.hvp(f, X, v))


@needs_compiler
@pytest.mark.slow
def test_what_a_kernel_was_compiled_without_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    f = network()

    def gone() -> None:
        raise AttributeError("another inductor\nthan this")

    with monkeypatch.context() as patch:
        patch.setattr(_compile, "values_on_the_stack", gone)
        patch.setattr(_kept, "read", lambda name: None)
        p = prepare(h.hvp, f, X, preparation="compiled")
    assert (p.preparation, p.reason) == ("compiled", None)
    assert "\n  without values on the stack: AttributeError: another inductor\n" in p.explain()
    assert close(p(X, V), h.hvp(f, X, V))
    assert "without" not in prepare(h.hvp, lambda x: x.pow(3).sum(), X, preparation="compiled").explain()


def test_refusals() -> None:
    f = network()
    with pytest.raises(ValueError, match="preparation: got 'fast', expected one of auto, eager, graph"):
        prepare(h.hvp, f, X, preparation="fast")
    with pytest.raises(ValueError, match="check_every: got 0"):
        prepare(h.hvp, f, X, check_every=0)
    with pytest.raises(TypeError, match="operator: newton_cg_step is not"):
        prepare(h.newton_cg_step, f, X)
    with pytest.raises(TypeError, match=r"args\[0\]: got int"):
        prepare(h.hvp, f, X, args=(3,), preparation="graph")  # type: ignore[arg-type]
    p = prepare(h.hvp, f, X, preparation="graph")
    with pytest.raises(ValueError, match="v: got shape"):
        p(X, V[:3])
    with pytest.raises(TypeError, match="x, v: got 1"):
        p(X)
    with pytest.raises(TypeError, match="takes no direction"):
        prepare(h.gradient, f, X, preparation="graph").bind(X)
    with pytest.raises(ValueError, match="in_dims: got 1"):
        p.bind(X)(V, in_dims=1)
    with pytest.raises(ValueError, match=r"V: got \(8,\)"):
        p.bind(X)(V, in_dims=0)
    b = p.bind(X)
    b(V)
    p.close()
    for call in (lambda: p(X, V), lambda: b(V)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_errors_of_f_are_its_own() -> None:
    with pytest.raises(ValueError, match="returned shape"):
        prepare(h.hvp, lambda x: x * 2, X)
