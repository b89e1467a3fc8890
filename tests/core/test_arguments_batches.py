"""Batches by in_dims, and results that are differentiated further."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import normal
from torch import Tensor, nn

import hograd_core as h
from hograd_core import UnsupportedError

F64 = torch.float64


X, V, DATA, TARGETS = normal(3), normal(3, seed=1), normal(5, 3, seed=2), normal(5, seed=3)


def fit(x: Tensor, data: Tensor, target: Tensor) -> Tensor:
    return (torch.sin(data @ x) - target) ** 4 + (x**4).sum()


def with_value(x: Tensor) -> Tensor:
    """Under vmap this fails: it looks at a value."""
    return (x**4).sum() * (2.0 if float(x.detach().sum()) > -1e9 else 1.0)


CALLS: dict[str, Callable[..., Any]] = {
    "gradient": lambda m, i: h.gradient(fit, X, method=m, args=(DATA[i], TARGETS[i])),
    "hessian": lambda m, i: h.hessian(fit, X, method=m, args=(DATA[i], TARGETS[i])),
    "hvp": lambda m, i: h.hvp(fit, X, V, method=m, args=(DATA[i], TARGETS[i])),
    "directional_derivative": lambda m, i: h.directional_derivative(fit, X, V, 3, method=m, args=(DATA[i], TARGETS[i])),
    "hessian_diagonal": lambda m, i: h.hessian_diagonal(fit, X, method=m, args=(DATA[i], TARGETS[i])),
    "hessian_trace": lambda m, i: h.hessian_trace(fit, X, method=m, args=(DATA[i], TARGETS[i])),
}
BATCHED: dict[str, Callable[..., Any]] = {
    "gradient": lambda m, **k: h.gradient(fit, X, method=m, args=(DATA, TARGETS), in_dims=(None, 0, 0), **k),
    "hessian": lambda m, **k: h.hessian(fit, X, method=m, args=(DATA, TARGETS), in_dims=(None, 0, 0), **k),
    "hvp": lambda m, **k: h.hvp(fit, X, V, method=m, args=(DATA, TARGETS), in_dims=(None, None, 0, 0), **k),
    "directional_derivative": lambda m, **k: h.directional_derivative(
        fit, X, V, 3, method=m, args=(DATA, TARGETS), in_dims=(None, None, 0, 0), **k
    ),
    "hessian_diagonal": lambda m, **k: h.hessian_diagonal(
        fit, X, method=m, args=(DATA, TARGETS), in_dims=(None, 0, 0), **k
    ),
    "hessian_trace": lambda m, **k: h.hessian_trace(fit, X, method=m, args=(DATA, TARGETS), in_dims=(None, 0, 0), **k),
}
METHODS = [
    (name, m)
    for name in CALLS
    for m, method in h.resolve(name)[0].methods.items()
    if (method.exact or m == "finite_difference") and method.function.__module__.startswith("hograd_core.")
]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_a_batch_is_its_points_one_by_one(name: str, method: str) -> None:
    true = torch.stack([CALLS[name](method, i) for i in range(5)])
    for chunk_size in (None, 2, 7):
        torch.testing.assert_close(BATCHED[name](method, chunk_size=chunk_size), true)


@pytest.mark.parametrize("name", CALLS)
def test_without_a_name_the_method_can_be_vectorised(name: str) -> None:
    torch.testing.assert_close(BATCHED[name](None), torch.stack([CALLS[name](None, i) for i in range(5)]))


def test_in_dims_are_those_of_vmap() -> None:
    """Any axis of any argument, structures of axes, and as torch.vmap of torch.func.hessian."""
    xs = normal(3, 5)
    true = torch.func.vmap(torch.func.hessian(fit), in_dims=(1, 0, None))(xs, DATA, TARGETS[0])
    torch.testing.assert_close(h.hessian(fit, xs, args=(DATA, TARGETS[0]), in_dims=(1, 0, None)), true)
    torch.testing.assert_close(h.hessian(fit, xs, args=(DATA, TARGETS[0]), in_dims=(-1, -2, None)), true)
    pair = {"x": xs.T.contiguous(), "shift": normal(3, seed=9)}

    def g(p: dict[str, Tensor]) -> Tensor:
        return ((p["x"] + p["shift"]) ** 4).sum()

    found = h.hessian(g, pair, in_dims=({"x": 0, "shift": None},))
    true_of_pair = torch.func.vmap(torch.func.hessian(g), in_dims=({"x": 0, "shift": None},))(pair)
    torch.testing.assert_close(found["x"]["shift"], true_of_pair["x"]["shift"])
    assert h.hessian(g, pair, in_dims=({"x": 0, "shift": None},), flat=True).shape == (5, 6, 6)


def test_several_directions_at_once() -> None:
    directions = normal(4, 3, seed=7)
    true = directions @ h.hessian(fit, X, args=(DATA[0], TARGETS[0]))
    for method in h.derivative_vector_product.methods:
        close = {"rtol": 1e-5, "atol": 1e-5} if method == "finite_difference" else {"rtol": 1e-9, "atol": 1e-9}
        found = h.hvp(fit, X, directions, method=method, args=(DATA[0], TARGETS[0]), in_dims=(None, 0, None, None))
        torch.testing.assert_close(found, true, **close)


def test_one_evaluation_of_f_serves_all_directions() -> None:
    calls = []

    def f(x: Tensor) -> Tensor:
        calls.append(x)
        return (x**4).sum()

    with h.hazards.ignored():
        h.hvp(f, X, normal(9, 3), in_dims=(None, 0), method="jvp_of_grad")
    assert len(calls) == 1


def test_what_cannot_be_vectorised_goes_one_by_one() -> None:
    xs = normal(4, 3)
    for method in (None, "jvp_of_grad", "vjp_of_grad", "double_backward"):
        found = h.hvp(with_value, xs, xs, in_dims=0, method=method)
        torch.testing.assert_close(found, 24 * xs**3)


def test_what_has_no_forward_formula_goes_by_the_default() -> None:
    """Where no method was named: mse_loss has no forward-over-reverse derivative in PyTorch."""
    xs = normal(4, 3)
    found = h.hessian(lambda x: nn.functional.mse_loss(x**2, TARGETS[:3]), xs, in_dims=0)
    true = torch.stack([h.hessian(lambda x: nn.functional.mse_loss(x**2, TARGETS[:3]), x) for x in xs])
    torch.testing.assert_close(found, true)


def test_what_is_wrong_for_one_is_refused_for_a_batch() -> None:
    def f(x: Tensor) -> Tensor:
        return (nn.functional.batch_norm(x, None, None, training=True) ** 3).sum()

    for how in ({"in_dims": 0}, {}):
        x = normal(2, 4, 3) if how else normal(4, 3)
        with pytest.raises(UnsupportedError, match="wrong derivative"):
            h.hvp(f, x, x, method="grad_of_jvp", **how)


def test_a_batch_is_verified_and_looked_at_point_by_point() -> None:
    class Wrong(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x**4

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * ctx.saved_tensors[0] ** 3  # not 4 x³

    with pytest.raises(h.VerificationError):
        h.gradient(lambda x: Wrong.apply(x).sum(), normal(2, 3), in_dims=0, verify=True)
    h.gradient(lambda x: (x**4).sum(), normal(2, 3), in_dims=0, verify=True)
    zero = torch.stack([torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64)])
    with pytest.raises(FloatingPointError, match="order 2 is not finite"):
        h.hvp(lambda x: (x**1.5).sum(), zero, zero + 1, in_dims=0, strict=True)
    h.hvp(lambda x: (x**1.5).sum(), zero[:1], zero[:1] + 1, in_dims=0, strict=True)


def test_a_function_of_a_batch_is_told_of_the_option() -> None:
    with pytest.raises(ValueError, match=r"f: returned shape \(5,\), expected a 0-dimensional tensor.*by in_dims"):
        h.hessian(lambda x: (DATA @ x) ** 2, X)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "one entry too few": (lambda: h.hvp(fit, X, V, in_dims=(0,)), ValueError, "one entry for each of x, v"),
    "sizes": (
        lambda: h.gradient(fit, X, args=(DATA, TARGETS[:4]), in_dims=(None, 0, 0)), ValueError,
        r"got axes of sizes \{'args\[0\]': 5, 'args\[1\]': 4\}, expected one size",
    ),
    "no axis at all": (lambda: h.gradient(fit, X, in_dims=(None,)), ValueError, "at least one"),
    "no such axis": (lambda: h.gradient(fit, X, in_dims=1), ValueError, r"got 1 for x of shape \(3,\)"),
    "text": (lambda: h.gradient(fit, X, in_dims=("0",)), TypeError, "got '0' for x, Tensor, expected an int"),
    "of no tensor": (lambda: h.gradient(fit, X, args=(3, 4), in_dims=(None, 0, 0)), TypeError, r"for args\[0\], int"),
    "of a field": (lambda: h.laplacian(lambda p: p.sum(1), DATA, in_dims=0), TypeError, "takes a batch as it is"),
    "chunk": (lambda: h.gradient(fit, X[None], in_dims=0, chunk_size=0), ValueError, "chunk_size: got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_what_is_wrong(case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("method", h.derivative_tensor.methods)
def test_torch_vmap_of_an_operator_works_or_names_a_method_that_does(method: str) -> None:
    xs = normal(4, 3)
    true = torch.stack([12 * torch.diag(x**2) for x in xs])
    try:
        found = torch.func.vmap(lambda x: h.hessian(lambda z: (z**4).sum(), x, method=method))(xs)
    except UnsupportedError as error:
        assert not h.derivative_tensor.methods[method].functorch
        assert "inside torch.func use func_hessian or jacrev_of_grad or vmap_hvp, or in_dims" in str(error)  # noqa: PT017
        return
    torch.testing.assert_close(found, true)


def test_expanded_points_can_be_vectorised() -> None:
    x = normal(3)
    found = torch.func.vmap(lambda z: h.hvp(lambda y: (y**4).sum(), z, x, method="jvp_of_grad"))(x.expand(4, 3))
    torch.testing.assert_close(found, (12 * x**3).expand(4, 3))


# Each differentiated once more, in x and in a weight of f: against one order up.
def cubic(x: Tensor, weight: Tensor) -> Tensor:
    return weight * (x**5).sum()


GRAPHS: dict[str, tuple[Callable[..., Tensor], float]] = {
    "gradient": (lambda x, w, m: h.gradient(cubic, x, args=(w,), method=m, create_graph=True).sum(), 20.0),
    "hvp": (lambda x, w, m: h.hvp(cubic, x, torch.ones_like(x), args=(w,), method=m, create_graph=True).sum(), 60.0),
    "hessian": (lambda x, w, m: h.hessian(cubic, x, args=(w,), method=m, create_graph=True).sum(), 60.0),
    "directional_derivative": (
        lambda x, w, m: h.directional_derivative(cubic, x, torch.ones_like(x), args=(w,), method=m, create_graph=True),
        60.0,
    ),
    "hessian_trace": (lambda x, w, m: h.hessian_trace(cubic, x, args=(w,), method=m, create_graph=True), 60.0),
    "hessian_diagonal": (
        lambda x, w, m: h.hessian_diagonal(cubic, x, args=(w,), method=m, create_graph=True).sum(), 60.0,
    ),
    "laplacian": (
        lambda x, w, m: h.laplacian(
            lambda p, s: s * (p**5).sum(1), x[:, None], args=(w,), method=m, create_graph=True
        ).sum(),
        60.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method"), [(n, m) for n in GRAPHS for m, r in h.resolve(n)[0].methods.items() if r.exact]
)
def test_results_with_a_graph_can_be_differentiated_further(name: str, method: str) -> None:
    call, factor = GRAPHS[name]
    x, weight = normal(3).abs().requires_grad_(), torch.tensor(2.0, dtype=F64, requires_grad=True)
    try:
        value = call(x, weight, method)
    except UnsupportedError as error:
        assert "differentiated further" in str(error)  # noqa: PT017
        assert (name, method) == ("directional_derivative", "nested_backward")
        return
    of_x, of_weight = torch.autograd.grad(value, [x, weight])
    order = 1 if name == "gradient" else 2
    torch.testing.assert_close(of_x, 2 * factor * x.detach() ** (4 - order))
    torch.testing.assert_close(of_weight, value.detach() / 2)


def test_without_it_results_are_detached() -> None:
    x, weight = normal(3).requires_grad_(), torch.tensor(2.0, dtype=F64, requires_grad=True)
    for found in (
        h.gradient(cubic, x, args=(weight,)), h.hvp(cubic, x, x, args=(weight,)), h.hessian(cubic, x, args=(weight,)),
    ):  # fmt: skip
        assert not found.requires_grad


def test_a_graph_is_verified_and_counts_as_an_order_more() -> None:
    x = normal(3).requires_grad_()
    assert h.hvp(lambda z: (z**4).sum(), x, x.detach(), verify=True, strict=True, create_graph=True).requires_grad
    with pytest.raises(UnsupportedError, match=r"newton_cg_step: .*cannot be differentiated further"):
        h.newton_cg_step(lambda z: (z**4).sum() + (z**2).sum(), x, create_graph=True)
    with pytest.raises(TypeError, match="create_graph: got 1, expected True or False"):
        h.gradient(lambda z: z.sum(), x, create_graph=1)  # type: ignore[arg-type]


def test_a_batch_with_a_graph() -> None:
    xs = normal(4, 3).requires_grad_()
    for method in ("jvp_of_grad", "double_backward"):
        found = h.hvp(lambda z: (z**4).sum(), xs, torch.ones_like(xs), in_dims=0, method=method, create_graph=True)
        (slope,) = torch.autograd.grad(found.sum(), xs)
        torch.testing.assert_close(slope, 24 * xs.detach())


@pytest.mark.parametrize("name", ["gauss_newton_vector_product", "fisher_vector_product"])
def test_several_directions_of_a_model(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    loss, labels = nn.CrossEntropyLoss(), torch.arange(5) % 3
    operator = h.operators()[name]
    matrix = h.operators()[name.replace("_vector_product", "_matrix")](module, loss, DATA, labels)
    directions = normal(4, 31, seed=7)
    for method in (None, *operator.methods):
        if method is None or operator.methods[method].exact:
            found = operator(module, loss, DATA, labels, directions, in_dims=0, method=method)
            torch.testing.assert_close(found, directions @ matrix)
    by_name = {"2.bias": directions[:, :3].T}
    part = operator(module, loss, DATA, labels, by_name, in_dims=1, parameters="2.bias")
    torch.testing.assert_close(part["2.bias"], directions[:, :3] @ matrix[28:, 28:])
    with pytest.raises(TypeError, match="in_dims: fisher_matrix takes a batch as it is"):
        h.fisher_matrix(module, loss, DATA, labels, in_dims=0)


def test_one_evaluation_of_a_module_serves_all_directions() -> None:
    calls = []
    module = nn.Sequential(nn.Linear(3, 3)).double()
    module.register_forward_hook(lambda *_: calls.append(1))
    h.gauss_newton_vector_product(module, nn.CrossEntropyLoss(), DATA, torch.arange(5) % 3, normal(7, 12), in_dims=0)
    few = len(calls)
    calls.clear()
    h.gauss_newton_vector_product(module, nn.CrossEntropyLoss(), DATA, torch.arange(5) % 3, normal(70, 12), in_dims=0)
    assert len(calls) == few


def test_sparse_results_of_a_batch_are_one_sparse_tensor() -> None:
    """Patterns differ from point to point: a matrix in compressed rows has no axis for that."""

    def chained(x: Tensor, weights: Tensor) -> Tensor:
        return (weights * (x[1:] - x[:-1]) ** 4).sum()

    points, weights = normal(2, 4), torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], dtype=F64)
    found = h.sparse_hessian(chained, points, args=(weights,), in_dims=(0, 0))
    true = torch.stack([h.hessian(chained, x, args=(w,)) for x, w in zip(points, weights, strict=True)])
    assert found.layout is torch.sparse_coo
    torch.testing.assert_close(found.to_dense(), true)


def test_a_series_under_vmap_is_refused_with_the_way_out() -> None:
    points = normal(2, 3)
    with pytest.raises(UnsupportedError, match=r"a series hides its coefficients .*take batches by in_dims"):
        torch.func.vmap(lambda x: h.directional_derivative(lambda z: z.sin().sum(), x, V, 2, method="taylor"))(points)
