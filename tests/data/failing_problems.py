"""Problems that get into every kind of trouble, for the tests of survival. Sizes choose which instance does."""

from __future__ import annotations

import ctypes
import time

import torch
from hograd_bench.problems import Draw, Instance, Spec, problem


def declare(name: str, provokes: str):
    return problem(name, formula=f"Σ x²; {provokes}", source="tests", family="elementwise", sizes={"n": "dimension"})


def square(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum()


@declare("fine", "nothing")
def fine(spec: Spec, draw: Draw) -> Instance:
    return Instance(square, draw.normal(spec.n))


@declare("raises", "an exception")
def raises(spec: Spec, draw: Draw) -> Instance:
    def f(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("<b>no such thing</b>")

    return Instance(f, draw.normal(spec.n))


@declare("hangs", "a hang at n >= 8")
def hangs(spec: Spec, draw: Draw) -> Instance:
    def f(x: torch.Tensor) -> torch.Tensor:
        if spec.n >= 8:
            time.sleep(3600)
        return square(x)

    return Instance(f, draw.normal(spec.n))


@declare("segfaults", "a segmentation fault at n >= 8")
def segfaults(spec: Spec, draw: Draw) -> Instance:
    def f(x: torch.Tensor) -> torch.Tensor:
        if spec.n >= 8:
            ctypes.string_at(0)
        return square(x)

    return Instance(f, draw.normal(spec.n))


@declare("eats_memory", "an allocation beyond any address space at n >= 8")
def eats_memory(spec: Spec, draw: Draw) -> Instance:
    def f(x: torch.Tensor) -> torch.Tensor:
        return square(x) + (torch.ones(2**50).sum() * 0 if spec.n >= 8 else 0)

    return Instance(f, draw.normal(spec.n))


@declare("reserves", "a reservation of n GiB, which costs no memory unless it is written to")
def reserves(spec: Spec, draw: Draw) -> Instance:
    def f(x: torch.Tensor) -> torch.Tensor:
        torch.empty(spec.n * 2**30, dtype=torch.uint8)
        return square(x)

    return Instance(f, draw.normal(spec.n))


@declare("exits", "a process that ends itself")
def exits(spec: Spec, draw: Draw) -> Instance:
    def f(x: torch.Tensor) -> torch.Tensor:
        import os

        os._exit(7)

    return Instance(f, draw.normal(spec.n))


@declare("impure", "a value that depends on the dtype beyond rounding, so no method can be right")
def impure(spec: Spec, draw: Draw) -> Instance:
    factor = 1.5 if draw.dtype == torch.float64 else 1.0
    return Instance(lambda x: factor * square(x), draw.normal(spec.n))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**3).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * g * x**2


@declare("once", "a function that PyTorch can differentiate once")
def once(spec: Spec, draw: Draw) -> Instance:
    return Instance(_Once.apply, draw.normal(spec.n))
