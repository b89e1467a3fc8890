"""Contests timed in turns between processes: hograd's kernels beside another package's, on one core each.

Run by the interpreter that has the packages: ``.nox/peers/bin/python -m studies.contests``. Each side is a process of
its own with one thread; they take turns, and the least time of a call of each counts, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

DIGITS = "digits_loss/n=32,order=2,depth=2,batch=64/float32/cpu/t1/eager"
CONTESTS = {
    **{f"Rosenbrock Hessian, n={n}": (f"sparse:{n}", f"jax:{n}") for n in (256, 1024, 4096)},
    "empirical Fisher diagonal": (
        f"empirical_fisher_diagonal/layers/{DIGITS}",
        f"empirical_fisher_diagonal/jax/{DIGITS}",
        f"empirical_fisher_diagonal/backpack/{DIGITS}",
        f"empirical_fisher_diagonal/per_sample_vmap/{DIGITS}",
    ),
    "Fisher diagonal": (
        f"fisher_diagonal/layers/{DIGITS}",
        f"fisher_diagonal/jax/{DIGITS}",
        f"fisher_diagonal/backpack/{DIGITS}",
        f"fisher_diagonal/expectation/{DIGITS}",
    ),
    "Gauss-Newton product": (
        f"gauss_newton_vector_product/jvp_vjp/{DIGITS}",
        f"gauss_newton_vector_product/jax/{DIGITS}",
        f"gauss_newton_vector_product/backpack/{DIGITS}",
    ),
}
"""Name -> the sides, hograd's first: cells, or Rosenbrock's function by hograd's sparse Hessian or JAX's dense one."""
ROUNDS, TURN = 15, 0.1


def rosenbrock(x: Any) -> Any:
    """The chained function, of a tensor or a JAX array."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def side(name: str) -> Callable[[], Any]:
    """What a call of a side computes; its result is complete when it returns."""
    import torch

    kind, _, size = name.partition(":")
    if kind == "sparse":
        from hograd_core.sparse import SparseHessian

        x = torch.ones(int(size)) * 0.9
        hessian = SparseHessian(rosenbrock, x)
        return lambda: hessian.dense(x)
    if kind == "jax":
        from hograd_bench.peers import _jax

        _jax.set_up()
        import jax

        compiled, at = jax.jit(jax.hessian(rosenbrock)), _jax.array(torch.ones(int(size)) * 0.9)
        return lambda: compiled(at).block_until_ready()
    from hograd_bench.gate.twins.worker import made

    call: Callable[[], Any] = made(name).call
    return call


def serve(name: str) -> None:
    """Time calls of a side for a turn at each line of stdin, and print the least, in nanoseconds."""
    import torch

    torch.set_num_threads(1)
    call = side(name)
    call()
    print("ready", flush=True)
    for _ in sys.stdin:
        least, end = sys.maxsize, time.perf_counter() + TURN
        while time.perf_counter() < end:
            start = time.perf_counter_ns()
            call()
            least = min(least, time.perf_counter_ns() - start)
        print(least, flush=True)


def contest(names: tuple[str, ...], rounds: int = ROUNDS) -> list[int | None]:
    """The least time of a call of each side, in nanoseconds; None: the side cannot, and says why on stderr."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    sides = [
        subprocess.Popen(
            [sys.executable, "-m", "studies.contests", "--side", name],
            env={**os.environ, **one}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    try:
        least: list[int | None] = [
            sys.maxsize if s.stdout and s.stdout.readline() == "ready\n" else None for s in sides
        ]
        for _ in range(rounds):
            for i, each in enumerate(sides):
                before = least[i]
                if before is not None and each.stdin and each.stdout:
                    each.stdin.write("go\n")
                    each.stdin.flush()
                    least[i] = min(before, int(each.stdout.readline()))
        return least
    finally:
        for each in sides:
            each.kill()
            each.communicate()


def main() -> None:
    """Parse arguments, run the contests, print the table."""
    parser = argparse.ArgumentParser(prog="python -m studies.contests", description=__doc__)
    parser.add_argument("-k", default="", help="contests whose name holds this text")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        serve(given.side)
        return
    print("| contest | side | least time, us | ratio to hograd |\n|---|---|---|---|")
    for name, sides in CONTESTS.items():
        if given.k not in name:
            continue
        least = contest(sides, given.rounds)
        for label, ns in zip(sides, least, strict=True):
            ratio = f"{ns / least[0]:.2f}" if ns and least[0] else "-"
            print(f"| {name} | {label.partition('/digits')[0]} | {ns / 1e3 if ns else 'none'} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
