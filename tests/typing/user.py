"""A user's file: the right calls pass mypy as the types said here, each wrong call is the error said there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import torch
from torch import Tensor, nn

import hograd_core
from hograd_core import Operator


def f(x: Tensor) -> Tensor:
    return (x**4).sum()


def right(x: Tensor, v: Tensor) -> None:
    assert_type(hograd_core.gradient(f, x), Tensor)
    assert_type(hograd_core.hessian(f, x), Tensor)
    assert_type(hograd_core.hvp(f, x, v, method="jvp_of_grad", verify=True), Tensor)
    assert_type(hograd_core.hvp(f=f, v=v, x=x, strict=True), Tensor)
    assert_type(hograd_core.derivative_tensor(f, x, 3, method="vmap_hvp", chunk_size=2), Tensor)
    assert_type(
        hograd_core.derivative_vector_product(f, x, v, order=3, method="reverse_over_taylor", repair=True), Tensor
    )
    assert_type(hograd_core.directional_derivative(f, x, v, 4), Tensor)
    assert_type(hograd_core.hessian_trace(f, x, method="hutchinson", probes=4, seed=0), Tensor)
    assert_type(hograd_core.directional_skewness(f, x, v).second, Tensor)
    net, images = nn.Sequential(nn.Linear(3, 2)), torch.ones(4, 3)
    assert_type(hograd_core.r1_penalty(net, images).value, Tensor)
    labels = torch.zeros(4, dtype=torch.long)
    assert_type(hograd_core.fisher_diagonal(net, nn.CrossEntropyLoss(), (images,), labels), Tensor)


def structures(p: dict[str, Tensor], v: dict[str, Tensor], pair: tuple[Tensor, Tensor], data: Tensor) -> None:
    """Points are of any type, directions and results of the same; what f takes further is its own business."""

    def g(p: dict[str, Tensor], data: Tensor) -> Tensor:
        return (p["a"] * data).sum()

    def of_pair(q: tuple[Tensor, Tensor]) -> Tensor:
        return (q[0] + q[1]).sum()

    assert_type(hograd_core.hvp(g, p, v, args=(data,)), dict[str, Tensor])
    assert_type(hograd_core.gradient(g, p, args=(data,), create_graph=True), dict[str, Tensor])
    assert_type(hograd_core.directional_derivative(g, p, v, 3, args=(data,)), Tensor)
    assert_type(hograd_core.gradient(of_pair, pair), tuple[Tensor, Tensor])
    hograd_core.hessian(g, p, args=(data,))["a"]["a"]
    hograd_core.derivative_tensor(g, p, 3, args=(data,))["a"]["a"]["a"]
    hograd_core.hessian(f, data, memory="1GiB", in_dims=0, chunk_size=3)
    assert_type(hograd_core.hessian(g, p, args=(data,), flat=True), Tensor)
    assert_type(hograd_core.hessian_diagonal(of_pair, pair), tuple[Tensor, Tensor])
    assert_type(hograd_core.derivative_tensor(g, p, args=(data,), flat=True), Tensor)
    hograd_core.hvp(g, p, data, args=(data,))  # type: ignore[arg-type]
    hograd_core.hvp(f, p, v)  # type: ignore[arg-type]
    hograd_core.gradient(f, data, create_graph="yes")  # type: ignore[arg-type]
    hograd_core.hessian(f, data, flat="yes")  # type: ignore[call-overload]


def any_operator(one: Operator, x: Tensor) -> None:
    """What is found by name is open: methods of one's own may have options of any name."""
    assert_type(hograd_core.operators()["gradient"], Operator[..., Any])
    one(f, x, option_of_my_method=3)


def wrong(x: Tensor, v: Tensor, g: Callable[[str], str]) -> None:
    hograd_core.hvp(f, x)  # type: ignore[call-arg]
    hograd_core.hvp(f, x, [1.0])  # type: ignore[arg-type]
    hograd_core.hvp(g, x, v)  # type: ignore[arg-type]
    hograd_core.hvp(f, x, v, v)  # type: ignore[call-arg, arg-type]
    hograd_core.hvp(f, x, v, method=2)  # type: ignore[arg-type]
    hograd_core.hvp(f, x, v, metod="taylor")  # type: ignore[call-arg]
    hograd_core.gradient(f, x, v)  # type: ignore[call-arg, arg-type]
    hograd_core.derivative_tensor(f, x, "3")  # type: ignore[call-overload]
    hograd_core.derivative_tensor(f, x, 3, chunk_size="all")  # type: ignore[call-overload]
    _: str = hograd_core.hessian(f, x)  # type: ignore[assignment]


if __name__ == "__main__":
    right(torch.tensor([1.0, 2.0, -1.0]), torch.ones(3))
