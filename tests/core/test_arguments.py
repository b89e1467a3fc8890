"""Structures and further arguments: every operator and method against the same on one tensor, and torch.func."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from core_fakes import normal
from torch import Tensor
from torch.utils import _pytree

import hograd_core as h
from hograd_core.curvature import HessianOperator
from hograd_core.solvers import minimize_cubic_newton, minimize_newton, newton_cg

F64 = torch.float64


class Layer(NamedTuple):
    weight: Tensor
    bias: Tensor


class Net:
    """A class of one's own, registered below."""

    def __init__(self, first: Any, scale: Any) -> None:
        self.first, self.scale = first, scale


_pytree.register_pytree_node(
    Net, lambda net: ([net.first, net.scale], None), lambda parts, _: Net(*parts), serialized_type_name="tests.Net"
)


DATA = normal(5, 2, seed=3)


def loss(w: Tensor, b: Tensor, data: Tensor) -> Tensor:
    # Convex enough near 0 for the solvers: the sum of squares outweighs the rest.
    return torch.tanh(data @ w + b).pow(2).sum() + 2 * (w**2).sum() + 2 * (b**2).sum() + (b**3).sum()


def flat_loss(x: Tensor) -> Tensor:
    return loss(x[:6].view(2, 3), x[6:], DATA)


W, B = normal(2, 3) / 4, normal(3, seed=1) / 4
V, U = normal(2, 3, seed=4), normal(3, seed=5)
X, DIRECTION = torch.cat([W.reshape(-1), B]), torch.cat([V.reshape(-1), U])
# How to make a structure of two tensors, and how to take the tensors out of it.
KINDS: dict[str, tuple[Any, Any]] = {
    "dict": (lambda w, b: {"w": w, "b": b}, lambda p: (p["w"], p["b"])),
    "list": (lambda w, b: [w, b], lambda p: p),
    "tuple": (lambda w, b: (w, b), lambda p: p),
    "nested": (lambda w, b: {"layers": [(w, {"bias": b})]}, lambda p: (p["layers"][0][0], p["layers"][0][1]["bias"])),
    "named tuple": (Layer, lambda p: (p.weight, p.bias)),
    "registered": (Net, lambda p: (p.first, p.scale)),
}
OF_A_POINT = [
    (name, m)
    for name, o in h.operators().items()
    if o.guard.__module__.startswith("hograd_core.")
    and (o.inputs in (("f", "x"), ("f", "x", "v"), ("f", "x", "damping")))
    for m, method in o.methods.items()
    if method.function.__module__.startswith("hograd_core.")
]


def call(name: str, method: str, f: Any, x: Any, v: Any, **how: Any) -> Any:
    operator = h.operators()[name]
    known = {"f": f, "x": x, "v": v, "damping": 0.5}
    seed = {"seed": 0} if "seed" in operator.methods[method].options else {}
    return operator(*(known[i] for i in operator.inputs), method=method, **seed, **how)


def tensors(result: Any) -> list[Tensor]:
    return [t for t in _pytree.tree_leaves(result) if isinstance(t, Tensor)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), OF_A_POINT)
def test_a_structure_gives_what_one_tensor_gives(name: str, method: str) -> None:
    make, take = KINDS["nested"]
    x, v = make(W, B), make(V, U)

    def f(p: Any, data: Tensor) -> Tensor:
        return loss(*take(p), data)

    one = call(name, method, flat_loss, X, DIRECTION)
    flat = call(name, method, f, x, v, args=(DATA,), flat=True)
    for a, b in zip(tensors(flat), tensors(one), strict=True):
        torch.testing.assert_close(a, b)
    structured = call(name, method, f, x, v, args=(DATA,))
    result = h.operators()[name].result
    if result == "x * order":
        blocks = [tensors(row) for row in (take(structured)[0], take(structured)[1])]
        torch.testing.assert_close(blocks[0][1], one[:6, 6:].reshape(2, 3, 3))
        torch.testing.assert_close(blocks[1][0], one[6:, :6].reshape(3, 2, 3))
    elif result == "x":
        torch.testing.assert_close(take(structured), (one[:6].view(2, 3), one[6:]))


@pytest.mark.parametrize("kind", KINDS)
def test_results_come_in_the_structure_that_was_given(kind: str) -> None:
    make, take = KINDS[kind]
    x, v = make(W, B), make(V, U)

    def f(p: Any) -> Tensor:
        return loss(*take(p), DATA)

    product = h.hvp(f, x, v)
    assert type(product) is type(x)
    expected = torch.func.jvp(torch.func.grad(f), (x,), (v,))[1]
    torch.testing.assert_close(take(product), take(expected))
    hessian, true = h.hessian(f, x), torch.func.hessian(f)(x)
    for row, true_row in zip(take(hessian), take(true), strict=True):
        assert type(row) is type(x)
        torch.testing.assert_close(take(row), take(true_row))


def test_third_derivatives_are_structures_three_deep() -> None:
    found = h.derivative_tensor(lambda p: loss(p["w"], p["b"], DATA), {"w": W, "b": B}, 3)
    true = torch.func.jacfwd(torch.func.hessian(lambda p: loss(p["w"], p["b"], DATA)))({"w": W, "b": B})
    for i, j, k in [("w", "b", "w"), ("b", "b", "w"), ("w", "w", "w")]:
        torch.testing.assert_close(found[i][j][k], true[i][j][k])


@pytest.mark.parametrize("method", list(h.derivative_tensor.methods))
def test_leaves_may_differ_in_dtype(method: str) -> None:
    x = {"w": W, "b": B.float()}

    def f(p: dict[str, Tensor]) -> Tensor:
        assert (p["w"].dtype, p["b"].dtype) == (F64, torch.float32)
        return loss(p["w"], p["b"], DATA)

    found, true = h.hessian(f, x, method=method), torch.func.hessian(f)(x)
    for i in "wb":
        for j in "wb":
            assert found[i][j].dtype == true[i][j].dtype == x[i].dtype
            torch.testing.assert_close(found[i][j], true[i][j], rtol=1e-5, atol=1e-5)


def test_what_needs_one_dtype_refuses_several() -> None:
    x = {"w": W, "b": B.float()}

    def f(p: dict[str, Tensor]) -> Tensor:
        return loss(p["w"], p["b"], DATA)

    for how in ({"flat": True}, {"verify": True}, {"method": "finite_difference"}):
        with pytest.raises(ValueError, match=r"got leaves of 2 kinds .*float32 on cpu.*expected one dtype"):
            h.hvp(f, x, x, **how)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="verify: got leaves of 2 kinds"):
        h.verify(f, x)


@dataclasses.dataclass
class Unregistered:
    w: Tensor


WRONG = {
    "no tensors": ({"w": 1.0}, {"w": 1.0}, TypeError, r"x: got dict, expected a torch.Tensor or a structure of"),
    "a number among them": ({"w": W, "n": 3}, {"w": W, "n": 3}, TypeError, r"x\['n'\]: got int, .*belongs in args"),
    "integers": ({"w": torch.ones(2, dtype=torch.long)}, None, TypeError, r"x\['w'\]: got dtype torch.int64, .*dense"),
    "nothing": ({"w": W[:0]}, {"w": W[:0]}, ValueError, r"x: got a structure of 1 tensors without an element"),
    "another key": ({"w": W}, {"v": W}, ValueError, r"v: got \['v'\], expected the structure of x, \['w'\]"),
    "another shape": ({"w": W}, {"w": W.T}, ValueError, r"v\['w'\]: got shape \(3, 2\), expected \(2, 3\) like x"),
    "another dtype": ({"w": W}, {"w": W.float()}, TypeError, r"v\['w'\]: got dtype torch.float32, .*float64"),
    "a number in v": ({"w": W}, {"w": 2.0}, TypeError, r"v\['w'\]: got float, expected a torch.Tensor like x\['w'\]"),
    "a tensor for v": ({"w": W}, X, ValueError, r"v: got Tensor, expected the structure of x, \['w'\]"),
    "a tuple for a list": (
        {"w": W, "b": [B]}, {"w": W, "b": (B,)}, ValueError, r"v\['b'\]: got a tuple, expected a list like x\['b'\]",
    ),
    "a class unknown to PyTorch": (
        Unregistered(W), Unregistered(W), TypeError,
        r"x: got Unregistered, expected a structure; make it one: torch.export.register_dataclass\(Unregistered\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_leaf(case: str) -> None:
    x, v, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        h.hvp(lambda p: p["w"].sum(), x, v)


def test_keys_may_come_in_another_order() -> None:
    x = {"w": W, "b": {"one": B, "two": [B]}}

    def f(p: dict[str, Any]) -> Tensor:
        return loss(p["w"], p["b"]["one"] + 0.5 * p["b"]["two"][0], DATA)

    v = {"w": V, "b": {"one": U, "two": [2 * U]}}
    turned = {"b": {"two": [2 * U], "one": U}, "w": V}
    found = h.hvp(f, x, turned)
    assert list(found) == ["w", "b"]
    torch.testing.assert_close(found, h.hvp(f, x, v))


def test_further_arguments_are_constants() -> None:
    weights = DATA.clone().requires_grad_()
    found = h.gradient(
        lambda x, data, scale: scale * (data @ x).pow(2).sum(), torch.ones(2, dtype=F64), args=(weights, 3)
    )
    torch.testing.assert_close(found, 6 * DATA.T @ DATA @ torch.ones(2, dtype=F64))
    assert not found.requires_grad
    assert weights.grad is None
    with pytest.raises(TypeError, match=r"args: got Tensor, expected a tuple .*args=\(data,\)"):
        h.gradient(flat_loss, X, args=weights)  # type: ignore[arg-type]


def test_what_was_made_in_inference_mode_may_be_given() -> None:
    with torch.inference_mode():
        x, v, data = W.clone(), V.clone(), DATA.clone()
    found = h.hvp(lambda p, data: loss(p["w"], B, data), {"w": x}, {"w": v}, args=(data,))
    torch.testing.assert_close(found, h.hvp(lambda p: loss(p["w"], B, DATA), {"w": W}, {"w": V}))
    torch.testing.assert_close(h.gradient(lambda x, a: (a * x**2).sum(), W, args=(x,)), 2 * W * W)


def test_solvers_and_operators_take_structures() -> None:
    x = {"w": W, "b": B}

    def f(p: dict[str, Tensor], data: Tensor) -> Tensor:
        return loss(p["w"], p["b"], data)

    with HessianOperator(f, x, args=(DATA,)) as hessian:
        assert hessian.packing is not None
        product = hessian.packing.unpack(hessian.matvec(hessian.packing.pack({"w": V, "b": U}, "v")))
    torch.testing.assert_close(product, h.hvp(f, x, {"w": V, "b": U}, args=(DATA,)))
    torch.testing.assert_close(newton_cg(f, x, args=(DATA,)).step, newton_cg(flat_loss, X).step)
    seen: list[Any] = []
    found = minimize_newton(f, x, args=(DATA,), callback=lambda point, _: seen.append(point))
    one = minimize_newton(flat_loss, X)
    torch.testing.assert_close((found.x["w"], found.x["b"]), (one.x[:6].view(2, 3), one.x[6:]))
    assert found.converged
    assert set(seen[-1]) == {"w", "b"}
    cubic = minimize_cubic_newton(f, x, args=(DATA,))
    torch.testing.assert_close(cubic.x["w"], found.x["w"], rtol=1e-4, atol=1e-6)
    assert h.verify(f, x, args=(DATA,)).ok


@pytest.mark.parametrize("method", h.derivative_vector_product.methods)
def test_a_guard_sees_what_f_does_with_a_structure(method: str) -> None:
    """The same hazard is refused, at the same methods, whether x is a tensor or a structure."""

    def outcome(f: Any, x: Any) -> str:
        try:
            h.hvp(f, x, x, method=method)
        except h.UnsupportedError as error:
            return error.reason
        return "right"

    x = normal(2, 4)
    assert outcome(lambda p: torch.nn.functional.smooth_l1_loss(p, p.detach() * 0), x) == outcome(
        lambda p: torch.nn.functional.smooth_l1_loss(p["x"], p["x"].detach() * 0), {"x": x}
    )


@pytest.mark.parametrize("outer", ["tape", "torch.func"])
def test_structures_inside_a_larger_derivative(outer: str) -> None:
    """The derivative of a Hessian-vector product of a structure, in the structure."""

    def inner(p: dict[str, Tensor]) -> Tensor:
        product = h.hvp(lambda q: loss(q["w"], q["b"], DATA), p, {"w": V, "b": U}, method="jvp_of_grad")
        return (product["w"] * V).sum() + (product["b"] * U).sum()

    x = {"w": W, "b": B}
    found = h.gradient(inner, x) if outer == "tape" else torch.func.grad(inner)(x)
    true = h.derivative_vector_product(flat_loss, X, DIRECTION, 3)
    torch.testing.assert_close((found["w"], found["b"]), (true[:6].view(2, 3), true[6:]))
