"""What the guard costs: hograd's calls with it and without it, in turns, on small functions of several kinds.

``python -m studies.guard [-k TEXT] [--seconds S]``: Hessian-vector products in 8 numbers, or in the 8 parameters of a
module, where PyTorch's own work takes least; one thread. Of each function and method the fastest calls count, the least
and the tenth of a hundred: what another process takes of a call only adds to it. A call that PyTorch lacks a formula
for, or that hograd refuses, is a dash.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hograd_bench.metrics.time import collector_off
from torch import Tensor, nn

import hograd_core
from hograd_core import UnsupportedError
from studies._document import table, write
from studies.contests._table import conditions

N = 8
METHODS = ("double_backward", "functional_hvp", "vjp_of_grad", "jvp_of_grad", "grad_of_jvp")
Function = Callable[[Tensor], Tensor]
Case = tuple[Function, Tensor]


def rosenbrock(x: Tensor) -> Tensor:
    """Slices, products and a sum."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def two_matrices(x: Tensor) -> Tensor:
    """Few operations."""
    a, b = x[:4].reshape(2, 2), x[4:].reshape(2, 2)
    return ((a @ b).sin() * a).sum()


def closure() -> Function:
    """Over a tensor."""
    weights = torch.randn(N, N, dtype=torch.float64)
    return lambda x: (x @ weights).tanh().square().sum()


def of_module(*layers: nn.Module, shape: tuple[int, ...] = (N,)) -> Function:
    """A module at its input; its own parameters require grad."""
    net = nn.Sequential(*layers).double()
    return lambda x: net(x.reshape(shape) if shape != (N,) else x).square().mean()


def of_parameters() -> Case:
    """A module's loss at its 8 parameters, as ``from_module`` makes it."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1, bias=False)).double()
    data = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    return hograd_core.from_module(net, lambda a, b: (a - b).square().mean(), data)


def cases() -> dict[str, Case]:
    """Functions by name, each with a point."""
    torch.manual_seed(0)
    x = torch.linspace(0.1, 0.9, N, dtype=torch.float64)
    tanh = [layer for _ in range(5) for layer in (nn.Linear(N, N), nn.Tanh())]
    convolutions = (nn.Conv1d(1, 2, 3, padding=1), nn.SiLU(), nn.Conv1d(2, 1, 3))
    functions = {
        "rosenbrock": rosenbrock,
        "function of two matrices": two_matrices,
        "closure over a matrix": closure(),
        "module, one layer": of_module(nn.Linear(N, 1)),
        "module, two layers": of_module(nn.Linear(N, N), nn.Tanh(), nn.Linear(N, N)),
        "module, five layers": of_module(*tanh),
        "module, convolutions": of_module(*convolutions, shape=(1, 1, N)),
        "module, LayerNorm": of_module(nn.Linear(N, N), nn.LayerNorm(N), nn.GELU(), nn.Linear(N, 1)),
    }
    return {**{name: (f, x) for name, f in functions.items()}, "loss of a module's parameters": of_parameters()}


def by_turns(calls: tuple[Callable[[], object], ...], seconds: float) -> list[list[float]]:
    """Sorted times of each call, made by turns for that long."""
    clock = time.perf_counter
    taken: list[list[float]] = [[] for _ in calls]
    with collector_off():
        end = clock() + seconds
        while clock() < end:
            for call, times in zip(calls, taken, strict=True):
                start = clock()
                call()
                times.append(clock() - start)
    return [sorted(times) for times in taken]


def cost(case: Case, method: str, seconds: float) -> str:
    """Percent that the guard adds: of the fastest call, and of the tenth of a hundred."""
    f, x = case
    operator, v = hograd_core.derivative_vector_product, torch.ones_like(x)
    calls = (lambda: operator.unguarded(f, x, v, 2, method=method), lambda: operator(f, x, v, 2, method=method))
    try:
        for _ in range(20):
            calls[0](), calls[1]()
    except UnsupportedError:
        return "-"
    without, guarded = by_turns(calls, seconds)
    shares = [guarded[i] / without[i] - 1 for i in (0, len(without) // 10)]
    return " / ".join(f"{100 * share:.1f}" for share in shares) + f" of {1e6 * without[0]:.0f} us"


def main() -> None:
    """Parse arguments, time, print the table."""
    parser = argparse.ArgumentParser(prog="python -m studies.guard", description=__doc__)
    parser.add_argument("-k", default="", help="functions whose name holds this text")
    parser.add_argument("--method", action="append", choices=METHODS, help="repeatable; all of them")
    parser.add_argument("--seconds", type=float, default=2.0, help="of turns, for each function and method")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this document")
    given = parser.parse_args()
    torch.set_num_threads(1)
    methods = given.method or METHODS
    head, rows = ("function", *methods), []
    print(table(head, []))
    for name, case in cases().items():
        if given.k in name:
            rows.append((name, *(cost(case, method, given.seconds) for method in methods)))
            print("| " + " | ".join(rows[-1]) + " |", flush=True)
    if given.write is not None:
        text = f"{conditions(1)}\n{table(head, rows)}\n"
        write(given.write, {"guard": text})


if __name__ == "__main__":
    main()
