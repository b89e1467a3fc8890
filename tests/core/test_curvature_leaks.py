"""Nothing is kept: over 100 steps no kernel grows what is alive, seen by the collector and by the allocator."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import mostly_slow
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import (
    HessianOperator,
    _layers,
    extreme_eigenpairs,
    hutchinson_trace,
    kfac,
    sampled_fisher_diagonal,
    spectral_density,
)
from hograd_core.solvers import minimize_newton, newton_cg

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

ROOMS = ("hograd_core.curvature", "hograd_core.solvers")
KERNELS = [
    (operator.name, method)
    for operator in hg.operators().values()
    if operator.guard.__module__.startswith(ROOMS)
    for method in operator.methods
]


def f(x: Tensor) -> Tensor:
    return (x.sin() * x.roll(1)).sum() + x.square().square().sum()


def arguments() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    return {
        "f": f,
        "x": torch.randn(3, generator=generator),
        "module": module,
        "loss": nn.CrossEntropyLoss(),
        "inputs": torch.randn(2, 1, generator=generator),
        "targets": torch.tensor([0, 1]),
        "v": torch.randn(sum(p.numel() for p in module.parameters()), generator=generator),
    }


def alive() -> int:
    """Bytes of the distinct storages behind all tensors that Python can reach, without collecting cycles first."""
    storages = {}
    for o in gc.get_objects():
        if issubclass(type(o), torch.Tensor) and o.layout == torch.strided and type(o) in (torch.Tensor, nn.Parameter):
            storage = o.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def allocated_by(step: Callable[[], Any]) -> int:
    """Bytes allocated less bytes freed during ``step`` by the profiler's allocation events, autograd's included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


# Few probes and steps: what is kept does not depend on how many there are.
CHEAP = {"probes": 2, "products": 6, "steps": 2, "max_iterations": 60}


def stepped(name: str, method: str) -> Callable[[], None]:
    operator, known = hg.operators()[name], arguments()
    wanted = tuple(known[argument] for argument in operator.inputs)
    options = {k: v for k, v in CHEAP.items() if k in operator.method(method).options}
    return lambda: _drop(operator(*wanted, method=method, **options))


def _drop(result: Any) -> None:
    del result


def check(step: Callable[[], Any], steps: int = 100) -> None:
    for _ in range(2):
        step()
    gc.collect()
    gc.disable()  # a reference cycle must show, not be cleaned away
    try:
        before = alive()
        for _ in range(steps):
            step()
        assert alive() == before
        assert allocated_by(lambda: [step() for _ in range(2)]) == 0
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), mostly_slow(KERNELS, 25))
def test_a_kernel_keeps_nothing(name: str, method: str) -> None:
    check(stepped(name, method))


@pytest.mark.slow
@pytest.mark.parametrize("globalisation", mostly_slow(["line_search", "trust_region"]))
def test_minimisation_keeps_nothing(globalisation: str) -> None:
    start = arguments()["x"]
    check(lambda: _drop(minimize_newton(f, start, globalisation=globalisation, max_iterations=3)), steps=20)


@pytest.mark.slow
def test_functions_with_reports_keep_nothing() -> None:
    known = arguments()
    model = tuple(known[name] for name in ("module", "loss", "inputs", "targets"))

    def step() -> None:
        newton_cg(f, known["x"])
        kfac(*model).inverse(0.1).matvec(known["v"])
        sampled_fisher_diagonal(*model)
        with HessianOperator(f, known["x"]) as hessian:
            spectral_density(hessian, probes=1, steps=3)
            extreme_eigenpairs(hessian)
            hutchinson_trace(hessian, probes=2)

    check(step, steps=30)


def test_the_check_sees_a_kept_tensor() -> None:
    kept: list[Tensor] = []
    with pytest.raises(AssertionError):
        check(lambda: kept.append(torch.ones(10)), steps=3)


def test_the_check_sees_a_graph_kept_by_a_cycle() -> None:
    class Node:
        """Refers to itself, as a leaf and the graph of its own gradient do after backward(create_graph=True)."""

    def step() -> None:
        node = Node()
        node.me, node.graph = node, torch.ones(10, requires_grad=True).exp().sin()  # type: ignore[attr-defined]

    with pytest.raises(AssertionError):
        check(step, steps=3)
    gc.collect()


def test_the_check_sees_what_only_autograd_holds() -> None:
    kept: list[Any] = []

    def step() -> None:
        x = torch.ones(10, requires_grad=True)
        kept.append((x * 2).exp().grad_fn)  # exp's result is held by its node alone

    for _ in range(3):
        step()
    assert allocated_by(step) > 0


def test_layers_of_many_sizes_leave_little() -> None:
    for size in range(1, 400):
        _layers._direction(size, 0)
    assert _layers._direction.cache_info().currsize < 100
