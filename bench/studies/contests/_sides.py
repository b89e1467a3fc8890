"""A side's text made a call: cells, and what is more than one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from hograd_bench.gate.twins.worker import made
from hograd_bench.peers import Task, _jax

import hograd_core as h
from hograd_core.sparse import SparseHessian
from studies.contests import _particles


def rosenbrock(x: Any) -> Any:
    """The chained function, of a tensor or a JAX array."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def side(name: str) -> Callable[[], Any]:
    """What a call of a side computes; its result is complete when it returns."""
    kind, _, size = name.partition(":")
    of_cell = {"bound": bound, "linearize": linearized}
    if kind in of_cell:
        return of_cell[kind](size)
    if kind.startswith(("forward_laplacian ", "collapsed_taylor ")):
        method, preparation = kind.split()
        return _particles.prepared(method, preparation, int(size))
    if kind in ("jax_loop", "jax_vmap", "folx"):
        return _particles.in_jax(kind, int(size))
    if kind == "within":
        return within(size)
    if kind.startswith("extremes"):
        return extremes(size, kind.split()[1])
    if kind.startswith(("coloured", "compressed")):
        result, preparation = kind.split()
        return sparse(result, preparation, torch.ones(int(size)) * 0.9)
    if kind == "jax":
        _jax.set_up(torch.get_num_threads())
        import jax

        compiled, at = jax.jit(jax.hessian(rosenbrock)), _jax.array(torch.ones(int(size)) * 0.9)
        return lambda: compiled(at).block_until_ready()
    subject = made(name)
    if subject.prepared is not None:  # as its user calls it
        tensors = [a for a in subject.arguments if isinstance(a, torch.Tensor)]
        return functools.partial(subject.prepared, *tensors)
    call: Callable[[], Any] = subject.call
    return call


def sparse(kind: str, preparation: str, x: Any) -> Callable[[], Any]:
    """Rosenbrock's function's Hessian by colours, "coloured" (dense) or "compressed", prepared or eager."""
    if preparation == "eager":
        hessian = SparseHessian(rosenbrock, x)
        return lambda: hessian.dense(x) if kind == "coloured" else hessian.sparse(x)
    how = {"operator": h.hessian, "method": "coloured"} if kind == "coloured" else {"operator": h.sparse_hessian}
    prepared = h.prepare(f=rosenbrock, x=x, preparation=preparation, **how)
    if prepared.preparation != preparation:
        raise RuntimeError(prepared.explain())
    return lambda: prepared(x)


def within(cell: str) -> Callable[[], Any]:
    """The Hessian of a cell, compiled, with 1.5 n² elements of memory, its own included."""
    instance = made(cell).instance
    x = instance.x
    memory = x.numel() ** 2 * x.element_size() * 3 // 2
    prepared = h.prepare(h.hessian, instance.f, x, preparation="compiled", memory=memory)
    if prepared.preparation != "compiled" or prepared.peak_bytes > memory:
        raise RuntimeError(prepared.explain())
    return lambda: prepared(x)


def bound(cell: str) -> Callable[[], Any]:
    """The prepared product of a cell at its point, which is bound."""
    subject = made(cell)
    _, x, v = subject.arguments
    product = subject.prepared.bind(x)
    product(v)
    if product.bindings[None] is None:
        raise RuntimeError("it cannot be bound")
    return lambda: product(v)


def extremes(cell: str, method: str) -> Callable[[], Any]:
    """The extreme eigenvalues at a cell's point, by a compiled Hessian that is at hand ("dense"), or its product."""
    instance = made(f"derivative_vector_product/double_backward/{cell}/eager").instance
    operator = h.hessian if method == "dense" else h.hvp
    kernel = h.prepare(operator, instance.f, instance.x, preparation="compiled")
    if kernel.preparation != "compiled":
        raise RuntimeError(kernel.explain())
    return lambda: h.hessian_extreme_eigenvalues(instance.f, instance.x, method=method, preparation=kernel)


def linearized(cell: str) -> Callable[[], Any]:
    """``jax.linearize(jax.grad(f), x)``, compiled."""
    subject = made(cell)
    import jax  # after what it is set up by

    task = Task(subject.cell, subject.instance)
    if "module" in task.instance.extras:
        model = _jax.training_loss(task)
        x, v = model.net.parameters, model.net.tree(task.v)
        rest: tuple[Any, ...] = (model.inputs, model.targets)
        f = model.value
    else:
        f, rest = _jax.twin(task)
        x, v = _jax.array(task.x), _jax.array(task.v)
    _, push = jax.jit(lambda x, *rest: jax.linearize(lambda y: jax.grad(f)(y, *rest), x))(x, *rest)
    compiled = jax.jit(push)
    return lambda: jax.block_until_ready(compiled(v))
