"""A process a side, on the same cores: they take turns."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import torch
from torch.utils._pytree import tree_leaves

from studies.contests._contests import GRADIENT
from studies.contests._sides import side

ROUNDS, TURN = 15, 0.1


def serve(name: str, threads: int) -> None:
    """Time calls of a side for a turn at each line of stdin, and print the least, in nanoseconds."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):  # all sides on the same cores: they take turns
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    try:
        call = side(name)
        result = call()
    except Exception as error:  # a package that is not there, an operation that it lacks
        sys.exit(f"{name} takes no part: {type(error).__name__}: {error}")
    results = [leaf.values() if getattr(leaf, "is_sparse_csr", False) else leaf for leaf in tree_leaves(result)]
    norm = sum(float((leaf**2).sum()) for leaf in results) ** 0.5
    print(f"ready {norm}", flush=True)
    for _ in sys.stdin:
        least, end = sys.maxsize, time.perf_counter() + TURN
        while time.perf_counter() < end:
            start = time.perf_counter_ns()
            call()
            least = min(least, time.perf_counter_ns() - start)
        print(least, flush=True)


def contest(names: tuple[str, ...], rounds: int = ROUNDS, threads: int = 1) -> list[int | None]:
    """The least time of a call of each side, in nanoseconds.

    None: the side cannot, and says why on stderr, or its result has another norm than that of the first that can.
    """
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    sides = [
        subprocess.Popen(
            [sys.executable, "-m", "studies.contests", "--threads", str(threads), "--side", name],
            env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    try:
        norms = [float((s.stdout.readline() if s.stdout else "").partition("ready ")[2] or "nan") for s in sides]
        first = next((norm for norm in norms if norm == norm), 0.0)
        norms = [first if name.startswith(GRADIENT) else norm for name, norm in zip(names, norms, strict=True)]
        least: list[int | None] = [sys.maxsize if abs(norm - first) <= 1e-3 * first else None for norm in norms]
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
