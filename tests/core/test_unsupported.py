"""Limits of PyTorch are recognised; faults of f, and exhausted memory, are not taken for limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import BatchedSine, Sine
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import hograd_core as h
from hograd_core._unsupported import pytorch_limit

F64 = torch.float64
X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]], dtype=F64)
V = torch.tensor([[1.0, 2.0, -3.0], [0.5, 1.0, 1.0]], dtype=F64)


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class OnceDifferentiable(OldStyle):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class WithoutBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()


def of(function: type[torch.autograd.Function]) -> Callable[[Tensor], Tensor]:
    return lambda x: (function.apply(x) ** 2).sum()


def hooked(x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return x.sin().prod()


def attention(x: Tensor) -> Tensor:
    q = x.reshape(1, 1, 2, 3)
    return F.scaled_dot_product_attention(q, q, q).sum()


def checkpointed(x: Tensor) -> Tensor:
    return checkpoint(lambda y: y.sin().prod(), x, use_reentrant=False)


def reentrant(x: Tensor) -> Tensor:
    return checkpoint(lambda y: y.sin().prod(), x, use_reentrant=True)


def through_numpy(x: Tensor) -> Tensor:
    return x.sum() * torch.as_tensor(x.detach().numpy().max())


def data_mutated(x: Tensor) -> Tensor:
    y = x * 2
    y.data.mul_(1.0)
    y.data = y.data.clone()
    return (y**2).sum()


MSE = lambda x: F.mse_loss(x.sin(), V)  # noqa: E731
HVP, TENSOR, ALONG = h.derivative_vector_product, h.derivative_tensor, h.directional_derivative

LIMITS = [
    (MSE, HVP, "jvp_of_grad", 2, "ZeroTensors"),
    (MSE, TENSOR, "vmap_hvp", 2, "ZeroTensors"),
    (lambda x: F.huber_loss(x.sin(), V), HVP, "jvp_of_grad", 2, "no forward-mode formula"),
    (attention, ALONG, "nested_jvp", 1, "no forward-mode formula"),
    (attention, HVP, "double_backward", 2, "no derivative formula"),
    (attention, TENSOR, "rows", 2, "no derivative formula"),
    (attention, HVP, "functional_hvp", 2, "no derivative formula"),
    (lambda x: torch.cdist(x, 2 * x + 1).sum(), HVP, "vjp_of_grad", 2, "no derivative formula"),
    (lambda x: torch.special.zeta(x**2 + 2, x**2 + 1).sum(), h.gradient, "autograd", 1, "no derivative formula"),
    (of(OnceDifferentiable), HVP, "double_backward", 2, "no derivative formula"),
    (of(OnceDifferentiable), TENSOR, "rows", 2, "no derivative formula"),
    (of(OnceDifferentiable), TENSOR, "batched_rows", 2, "no derivative formula"),
    (of(OnceDifferentiable), ALONG, "nested_grad", 2, "no derivative formula"),
    (of(OnceDifferentiable), ALONG, "nested_backward", 2, "no derivative formula"),
    (of(OnceDifferentiable), HVP, "double_vjp", 2, "no derivative formula"),
    (of(WithoutBackward), h.gradient, "autograd", 1, "no derivative formula"),
    (of(OldStyle), HVP, "jvp_of_grad", 2, "custom Function without setup_context"),
    (of(OldStyle), h.gradient, "func", 1, "custom Function without setup_context"),
    (of(Sine), HVP, "grad_of_jvp", 2, "no forward-mode formula"),
    (of(Sine), TENSOR, "func_hessian", 2, "no batching rule"),
    (of(BatchedSine), TENSOR, "func_hessian", 3, "defect of torch.func"),
    (hooked, HVP, "jvp_of_grad", 2, "saved-tensor hooks barred"),
    (checkpointed, TENSOR, "jacrev_of_grad", 2, "saved-tensor hooks barred"),
    (reentrant, HVP, "double_backward", 2, "reentrant checkpoint"),
    (through_numpy, HVP, "jvp_of_grad", 2, "no storage under torch.func"),
    (lambda x: F.dropout(x, 0.5).pow(2).sum(), TENSOR, "func_hessian", 2, "randomness under vmap"),
    (
        lambda x: torch.sparse.mm(torch.eye(2, dtype=F64).to_sparse(), x).pow(3).sum(),
        TENSOR,
        "batched_rows",
        2,
        "no batching rule",
    ),
    (data_mutated, h.gradient, "func", 1, "autograd inside torch.func"),
]


@pytest.mark.parametrize(("f", "operator", "method", "order", "kind"), LIMITS)
def test_a_limit_of_pytorch_is_named(
    f: Callable[[Tensor], Tensor], operator: h.Operator, method: str, order: int, kind: str
) -> None:
    arguments = {"f": f, "x": X, "v": V}
    keywords = {"order": order} if operator.takes_order else {}
    with pytest.raises(h.UnsupportedError) as caught:
        operator.unguarded(*(arguments[name] for name in operator.inputs), method=method, **keywords)
    assert caught.value.reason.startswith(f"{kind}: ")
    assert f"{operator.name}[{method}]" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert str(caught.value.__cause__).strip().splitlines()[0] in caught.value.reason


FUNCTORCH = {
    "data-dependent control flow": [
        lambda r: r * r.sum().item(),
        lambda r: r if r.sum() > 0 else -r,
        torch.func.jacrev(lambda r: r * r.sum().item()),  # in other words than without jacrev
    ],
    "dynamic shape under vmap": [lambda r: r[r > 0].sum(), lambda r: r.nonzero()],
    "in-place under vmap": [
        lambda r: torch.zeros(2, dtype=F64).__setitem__(0, r.sum()),
        lambda r: F.batch_norm(r.reshape(-1, 1), torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64), training=True),
    ],
    "no batching rule": [lambda r: torch.allclose(r, r), lambda r: torch.tensor(torch.equal(r, r))],
    "randomness under vmap": [lambda r: torch.rand(2) * r.sum()],
}


@pytest.mark.parametrize(("kind", "f"), [(kind, f) for kind, fs in FUNCTORCH.items() for f in fs])
def test_limits_of_vmap_are_named(kind: str, f: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError) as caught:
        vmap(f)(X)
    reason = pytorch_limit(caught.value)
    assert reason is not None
    assert reason.startswith(f"{kind}: ")


def test_autograd_called_inside_a_transform_is_named() -> None:
    for f in (lambda x: (x.sum().backward(), x.sum())[1], lambda x: x.requires_grad_().sum()):
        with pytest.raises(RuntimeError) as caught:
            grad(f)(X)
        assert (pytorch_limit(caught.value) or "").startswith("autograd inside torch.func: ")


def test_a_missing_kernel_is_named() -> None:
    for call in (
        lambda: torch.linalg.cholesky(torch.eye(2, dtype=torch.float16)),
        lambda: X.float().to_mkldnn().sum(),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        assert (pytorch_limit(caught.value) or "").startswith("aten kernel missing: ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_double_backward_through_compile_is_named() -> None:
    torch._dynamo.reset()
    f = torch.compile(lambda x: (x.sin() * x).sum(), backend="aot_eager")
    with pytest.raises(h.UnsupportedError, match="no derivative formula"):
        h.hvp(f, X, V, method="double_backward")


def shape_bug(x: Tensor) -> Tensor:
    return (x @ torch.ones(7, dtype=F64)).sum()


def dtype_bug(x: Tensor) -> Tensor:
    return (x @ torch.ones(3)).sum()


def in_place_bug(x: Tensor) -> Tensor:
    y = x.exp()
    z = y.sin()
    y.mul_(2)
    return (y * z).sum()


def exhausted(x: Tensor) -> Tensor:
    return x.sum() * torch.empty(1 << 55).sum()


def speaks_of_limits(x: Tensor) -> Tensor:
    raise RuntimeError("my vmap: forward mode of jvp is not implemented; the derivative for mine is not supported")


def asserts(x: Tensor) -> Tensor:
    raise AssertionError("batch must be even")


def missing_name(x: Tensor) -> Tensor:
    return no_such_name(x)  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("method", list(TENSOR.methods))
@pytest.mark.parametrize(
    "f",
    [shape_bug, dtype_bug, in_place_bug, exhausted, speaks_of_limits, asserts, missing_name],
    ids=lambda f: f.__name__,
)
def test_a_fault_of_f_is_raised_as_it_is(f: Callable[[Tensor], Tensor], method: str) -> None:
    with pytest.raises((RuntimeError, AssertionError, NameError)) as caught:
        h.hessian(f, X, method=method)
    assert not isinstance(caught.value, h.UnsupportedError)


def test_cuda_memory_errors_are_not_limits() -> None:
    message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.00 GiB"
    assert pytorch_limit(torch.OutOfMemoryError(message)) is None
    assert pytorch_limit(RuntimeError("")) is None


def test_a_forward_mode_formula_that_writes_in_place_is_a_limit_of_the_method() -> None:
    def f(x: Tensor) -> Tensor:
        return F.cosine_similarity(x[0], x[1], dim=0)

    with pytest.raises(h.UnsupportedError, match=r"grad_of_jvp.*: in-place in a forward-mode formula: one of the var"):
        h.derivative_vector_product(f, X, V, 3, method="grad_of_jvp")
    assert h.derivative_vector_product(f, X, V, 3, method="double_backward").isfinite().all()


def test_what_f_itself_overwrites_is_its_own_fault() -> None:
    def f(x: Tensor) -> Tensor:
        y = x.exp()
        z = y.sum()
        y.mul_(2)
        return z + y.sum()

    with pytest.raises(RuntimeError, match="modified by an inplace operation") as error:
        h.hvp(f, X, V)
    assert not isinstance(error.value, h.UnsupportedError)


@pytest.mark.parametrize("method", ["func_hessian", "vmap_hvp"])
def test_a_random_layer_that_is_evaluated_has_no_batching_rule(method: str) -> None:
    with pytest.raises(h.UnsupportedError, match="no batching rule: vmap: we do not yet support aten::rrelu"):
        h.hessian(lambda x: F.rrelu(x).pow(3).sum(), X, method=method)
    assert h.hessian(lambda x: F.rrelu(x).pow(3).sum(), X).isfinite().all()
