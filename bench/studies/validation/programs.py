"""Programs whose memory is counted by hand: the memory instrument must agree to the byte.

A block of k float32 elements takes 4k bytes; nothing else is taken by the operators used here. Tests run them
all, and the study prints them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

N = 1000
B = 4 * N
"""Bytes of a vector of N float32 elements: the unit of the hand counts."""


@dataclass(frozen=True)
class Expected:
    """Hand-counted memory, in bytes and blocks; see :class:`hograd_bench.metrics._allocations.AllocationTrace`."""

    peak: int
    total: int
    allocations: int
    returned: int
    retained: int = 0
    collected: int = 0


@dataclass(frozen=True)
class Program:
    """A call with its hand count; ``build`` makes a fresh call (what it holds before the call is older memory)."""

    name: str
    why: str
    build: Callable[[], Callable[[], Any]]
    expected: Expected


def _vector(blocks: int = 1) -> Tensor:
    return torch.empty(blocks * N)


def _in_order() -> Callable[[], Tensor]:
    def call() -> Tensor:
        a, b = _vector(1), _vector(2)  # 3 alive
        del a
        c = _vector(4)  # 6 alive: the peak
        del b
        d = _vector(1)  # 5 alive
        del c
        return d

    return call


def _views() -> Callable[[], Tensor]:
    x = _vector(4)
    return lambda: x.view(40, -1).T[3:5].expand(7, -1, -1)[..., ::2].detach()


def _in_place() -> Callable[[], Tensor]:
    x, y = torch.ones(N), torch.ones(N)
    return lambda: x.add_(y).mul_(y).relu_().copy_(y).zero_()


def _external() -> Callable[[], Tensor]:
    array = numpy.zeros(N, dtype=numpy.float32)
    return lambda: torch.from_numpy(array)[10:].view(-1, 10)


def _external_result() -> Callable[[], Tensor]:
    array = numpy.zeros(N, dtype=numpy.float32)

    def call() -> Tensor:
        view = torch.from_numpy(array)
        return view + view

    return call


def _older_released() -> Callable[[], Tensor]:
    older = [_vector(8)]

    def call() -> Tensor:
        older.clear()
        return _vector(1)

    return call


def _kept() -> Callable[[], Tensor]:
    kept: list[Tensor] = []

    def call() -> Tensor:
        kept.append(_vector(2))
        return _vector(1)

    return call


def _cycle() -> Callable[[], Tensor]:
    def call() -> Tensor:
        cycle: list[Any] = [_vector(2)]
        cycle.append(cycle)
        return _vector(1)

    return call


def _graph() -> Callable[[], Tensor]:
    x = torch.ones(N, requires_grad=True)
    # exp saves its own result; sin saves its input, which is that result: one vector stays, beside the sum.
    return lambda: x.exp().sin().sum()


def _graph_and_scratch() -> Callable[[], Tensor]:
    x = torch.ones(N, requires_grad=True)

    def call() -> Tensor:
        z = x.exp().sin()  # 2: exp is saved for both backwards
        (g,) = torch.autograd.grad(z, x, torch.ones_like(z))  # ones and cos, 5 with their product; then times exp
        return g

    return call


def _leaking_backward() -> Callable[[], None]:
    def call() -> None:
        x = torch.ones(N).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch says that this leaks; that it does is the point
            # x.grad is a copy of ones * exp and keeps their graph, which keeps x: a cycle that no collector sees.
            x.exp().backward(torch.ones_like(x), create_graph=True)  # type: ignore[no-untyped-call]

    return call


PROGRAMS = (
    Program("blocks in a known order", "peak where 2 + 4 blocks are alive", _in_order, Expected(6 * B, 8 * B, 4, B)),
    Program("views", "reshape, transpose, slice, expand, detach", _views, Expected(0, 0, 0, 0)),
    Program("in place", "add_, mul_, relu_, copy_, zero_", _in_place, Expected(0, 0, 0, 0)),
    Program("views of NumPy's memory", "not PyTorch's to count", _external, Expected(0, 0, 0, 0)),
    Program("result from NumPy's memory", "one new block", _external_result, Expected(B, B, 1, B)),
    Program("older memory released inside", "never negative", _older_released, Expected(B, B, 1, B)),
    Program("a block kept", "a leak of 2 vectors", _kept, Expected(3 * B, 3 * B, 2, 3 * B, 2 * B)),
    Program("a block in a cycle", "only the collector frees it", _cycle, Expected(3 * B, 3 * B, 2, 3 * B, 0, 2 * B)),
    Program("a kept graph", "exp, sin and the sum", _graph, Expected(2 * B + 4, 2 * B + 4, 3, B + 4)),
    Program(
        "a graph and its backward",
        "exp, sin, ones, cos alive with the product; then the product with exp",
        _graph_and_scratch,
        Expected(5 * B, 6 * B, 6, B),
    ),
    Program(
        "backward(create_graph=True)",
        "PyTorch's own leak: x, exp, ones and the gradient stay; their product was a fifth",
        _leaking_backward,
        Expected(5 * B, 5 * B, 5, 4 * B, 4 * B),
    ),
)
