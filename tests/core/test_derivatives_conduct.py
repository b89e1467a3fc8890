"""What every derivative kernel does beside the number: shapes, dtypes, modes, no traces left, no leak."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from core_fakes import mostly_slow
from torch import Tensor

import hograd_core as h
from hograd_core import reference

F64 = torch.float64
OPERATORS = (h.gradient, h.derivative_tensor, h.derivative_vector_product, h.directional_derivative)
METHODS = [(o, m) for o in OPERATORS for m in o.methods.values()]
NAMES = [f"{o.name}-{m.name}" for o, m in METHODS]
every_method = pytest.mark.parametrize(("operator", "method"), METHODS, ids=NAMES)
mostly_slowly = pytest.mark.parametrize(("operator", "method"), mostly_slow(METHODS, 25), ids=NAMES)


def compute(operator: h.Operator, method: h.Method, f: Any, x: Tensor, v: Tensor, order: int) -> Tensor:
    arguments = {"f": f, "x": x, "v": v}
    keywords = {"order": order} if operator.takes_order else {}
    result = operator(*(arguments[name] for name in operator.inputs), method=method.name, **keywords)
    assert isinstance(result, Tensor)
    return result


def true(operator: h.Operator, f: Any, x: Tensor, v: Tensor, order: int) -> reference.Truth:
    arguments = {"f": f, "x": x.double(), "v": v.double()}
    keywords = {"order": order} if operator.takes_order else {}
    return reference.true_value(operator.name, *(arguments[name] for name in operator.inputs), **keywords)


def orders(operator: h.Operator, method: h.Method, highest: int = 3) -> list[int]:
    return [k for k in range(1, highest + 1) if method.supports(k)] if operator.takes_order else [1]


def agrees(operator: h.Operator, method: h.Method, f: Any, x: Tensor, v: Tensor, order: int) -> None:
    result = compute(operator, method, f, x, v, order)
    expected = true(operator, f, x, v, order)
    assert result.dtype == x.dtype
    assert result.device == x.device
    assert not result.requires_grad
    assert not result.is_inference()
    assert reference.relative_error(result, expected.value, expected.scale) <= reference.tolerance(
        method, x.dtype, order
    )


def smooth(x: Tensor) -> Tensor:
    return (x.sin() * x.exp()).sum() + x.sum() ** 3 / 4


@every_method
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 2)], ids=str)
def test_shapes(operator: h.Operator, method: h.Method, shape: tuple[int, ...]) -> None:
    x, v = (torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    for order in orders(operator, method):
        agrees(operator, method, smooth, x, v, order)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(operator: h.Operator, method: h.Method, dtype: torch.dtype) -> None:
    x, v = torch.tensor([0.5, -0.75, 1.25], dtype=dtype), torch.tensor([1.0, 0.5, -0.25], dtype=dtype)
    for order in orders(operator, method, 2):
        agrees(operator, method, smooth, x, v, order)


@every_method
def test_a_view_that_is_not_contiguous(operator: h.Operator, method: h.Method) -> None:
    base = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    x, v = base.T, base.T * 2 - 1
    weights = torch.arange(6, dtype=F64).reshape(2, 3)
    for order in orders(operator, method):
        agrees(operator, method, lambda x: ((x + weights).sin() * x).sum() ** 2, x, v, order)


W = torch.tensor([1.5, -2.0, 0.5], dtype=F64, requires_grad=True)

DEGENERATE: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: (W * x).sum(),
    "sum": torch.sum,
    "quadratic": lambda x: (W * x * x).sum(),
    "constant": lambda x: torch.tensor(2.0, dtype=x.dtype),
    "constant plus zero times x": lambda x: W.sum() + 0 * x.sum(),
    "one component": lambda x: x[0] ** 3,
    "detached": lambda x: (x.detach() * x).sum() * 0 + x.sum(),
    "the component itself": lambda x: x[1],
}


@every_method
@pytest.mark.parametrize("name", DEGENERATE)
def test_functions_whose_derivatives_vanish(operator: h.Operator, method: h.Method, name: str) -> None:
    f = DEGENERATE[name]
    x, v = torch.tensor([0.5, -1.0, 2.0], dtype=F64), torch.tensor([1.0, 2.0, -3.0], dtype=F64)
    for order in orders(operator, method):
        result = compute(operator, method, f, x, v, order)
        expected = true(operator, f, x, v, order).value
        bound = 1e-12 if method.exact else 1e-6
        torch.testing.assert_close(result, expected, rtol=bound, atol=bound)
        assert not result.requires_grad
    assert W.grad is None


@every_method
def test_nothing_of_the_caller_changes(operator: h.Operator, method: h.Method) -> None:
    x = torch.tensor([0.5, -1.0, 2.0], dtype=F64, requires_grad=True)
    v = torch.tensor([1.0, 2.0, -3.0], dtype=F64, requires_grad=True)
    weight = torch.tensor([2.0, 1.0, 0.5], dtype=F64, requires_grad=True)
    before = [t.detach().clone() for t in (x, v, weight)]
    x.grad, weight.grad = torch.full_like(x, 7.0), torch.full_like(x, 8.0)
    for order in orders(operator, method):
        result = compute(operator, method, lambda x: (weight * x.sin()).prod(), x, v, order)
        assert not result.requires_grad
        assert result.grad_fn is None
    for tensor, old in zip((x, v, weight), before, strict=True):
        assert torch.equal(tensor, old)
        assert tensor.requires_grad
        assert tensor.is_leaf
    assert torch.equal(x.grad, torch.full_like(x, 7.0))
    assert torch.equal(weight.grad, torch.full_like(x, 8.0))
    assert v.grad is None


@every_method
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inside_no_grad_and_inference_mode(
    operator: h.Operator, method: h.Method, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    with mode():
        x = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
        v = torch.tensor([1.0, 2.0, -3.0], dtype=F64)
        for order in orders(operator, method):
            result = compute(operator, method, smooth, x, v, order)
            assert not result.is_inference()
            inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    outside = compute(operator, method, smooth, x.clone(), v.clone(), order)
    assert torch.equal(result, outside)
    assert inside == (mode is torch.enable_grad, mode is torch.inference_mode)


@mostly_slowly
def test_no_tensor_of_the_computation_outlives_it(operator: h.Operator, method: h.Method) -> None:
    """Without the garbage collector: a cycle of Python objects, or one through .grad, would keep them."""
    alive: list[weakref.ref[Tensor]] = []

    def f(x: Tensor) -> Tensor:
        y = x.sin()
        alive.extend((weakref.ref(x), weakref.ref(y)))
        return (y * x).prod() ** 2

    x, v = torch.tensor([0.5, -1.0, 2.0], dtype=F64), torch.tensor([1.0, 2.0, -3.0], dtype=F64)
    for order in orders(operator, method):
        compute(operator, method, f, x, v, order)  # PyTorch fills its own caches at the first call
        alive.clear()
        gc.collect()
        gc.disable()
        try:
            result = compute(operator, method, f, x, v, order)
            assert alive
            assert [ref() for ref in alive if ref() is not None and ref() is not x] == []
            assert result.numel() >= 1
        finally:
            gc.enable()


def live_bytes() -> int:
    """Bytes of all tensors that Python can reach."""
    gc.collect()
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if type(t) is Tensor
    }
    return sum(storages.values())


@mostly_slowly
def test_retained_memory_is_flat_over_repeats(operator: h.Operator, method: h.Method) -> None:
    x, v = torch.randn(2, 4, dtype=F64).unbind()
    order = orders(operator, method, 2)[-1]
    compute(operator, method, smooth, x, v, order)
    start = live_bytes()
    for _ in range(5):
        compute(operator, method, smooth, x, v, order)
    assert live_bytes() == start


def retained_by_allocator(operator: h.Operator, method: h.Method, order: int, repeats: int) -> int:
    """Allocator bytes taken minus given back over some calls: sees C++ cycles that Python cannot."""
    x, v = torch.randn(2, 64, dtype=F64).unbind()
    compute(operator, method, smooth, x, v, order)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repeats):
            compute(operator, method, smooth, x, v, order)
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(e.nbytes() for e in events if e.name() == "[memory]")


@pytest.mark.parametrize("name", list(h.directional_derivative.methods))
def test_the_allocator_gets_everything_back(name: str) -> None:
    method = h.directional_derivative.method(name)
    assert retained_by_allocator(h.directional_derivative, method, 3, 4) == 0


def test_the_allocator_test_sees_the_leak_that_nested_backward_avoids() -> None:
    def leaking(f: Any, x: Tensor, v: Tensor, *, order: int) -> Tensor:
        point = x.detach().requires_grad_()
        torch.autograd.backward(f(point), create_graph=True, inputs=[point])
        assert point.grad is not None
        return (point.grad * v).sum().detach()

    h.directional_derivative(smooth, torch.ones(2), torch.ones(2), 2, method="nested_backward")  # its warning is spent
    method = h.Method("directional_derivative", "leaking", leaking, "reverse", "pytorch/pytorch#7343")
    operator = h.Operator("directional_derivative", h.directional_derivative.guard, "scalar", "leaking", None)
    operator.methods["leaking"] = method
    assert retained_by_allocator(operator, method, 1, 4) > 0


@pytest.mark.slow
def test_chunks_of_any_size_give_the_same_tensor() -> None:
    x = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    whole = h.derivative_tensor(smooth, x, 3, method="vmap_hvp")
    for chunk_size in (1, 2, 4, 9, 100):
        assert torch.equal(h.derivative_tensor(smooth, x, 3, method="vmap_hvp", chunk_size=chunk_size), whole)


def test_rows_free_the_tape_at_the_last_row() -> None:
    """Tensors saved by f are released though f's result lives on; under retain_graph=True none would be."""
    released = []

    class Watched:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def __del__(self) -> None:
            released.append(1)

    def f(x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(Watched, lambda w: w.tensor):
            y = (x.exp() * x).sum()
        keep.append(y)
        return y

    keep: list[Tensor] = []
    h.hessian(f, torch.tensor([0.5, -1.0, 2.0], dtype=F64), method="rows")
    assert released
