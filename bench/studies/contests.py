"""Contests timed in turns between processes: hograd's kernels beside another package's, on the same cores.

Run by the interpreter that has the packages: ``.nox/peers/bin/python -m studies.contests``. Each side is a process of
its own, with one thread or ``--threads``; they take turns, and the least time of a call of each counts, whatever else
the machine does. ``--write docs/prepare.md`` puts a line a contest between that document's markers.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studies._document import table, written_into

Sides = tuple[str, ...]
DIAGONAL = "digits_loss/n=16,order=2,depth=1,batch=64/float32/cpu/t1"
SPECTRUM = "digits_loss/n=8,order=2,depth=1,batch=64/float64/cpu/t1"
DIGITS = "digits_loss/n=32,order=2,depth=2,batch=64/float32/cpu/t1"

MLP = "mlp/n={},order=2,depth=2,batch=1/float32/cpu/t1"
GRADIENT = "gradient/autograd/"
CHUNKED = f"derivative_tensor/{{1}}/{MLP.replace('{}', '{0}')}/eager"


def _second_order(problem: str, sizes: str, operator: str = "derivative_vector_product", eager: bool = False) -> Sides:
    method = "double_backward" if operator == "derivative_vector_product" else "rows"
    cell = f"{problem}/{sizes}/float32/cpu/t1"
    kinds = ("compiled", "graph", *(["eager"] if eager else []))
    peers = ("jax", "jax_vjp_of_grad") if operator == "derivative_vector_product" else ("jax",)
    ours = [f"{operator}/{method}/{cell}/{kind}" for kind in kinds]
    return (*ours, *(f"{operator}/{peer}/{cell}/eager" for peer in peers))


def _bound(problem: str, sizes: str) -> Sides:
    cell = f"{problem}/{sizes}/float32/cpu/t1"
    product = "derivative_vector_product"
    return (f"bound:{product}/double_backward/{cell}/compiled", f"linearize:{product}/jax/{cell}/eager")


def _series(operator: str, method: str, problem: str, n: int, order: int, batch: int) -> Sides:
    cell = f"{problem}/n={n},order={order},depth=2,batch={batch}/float32/cpu/t1"
    return (f"{operator}/{method}/{cell}/compiled", *(f"{operator}/{peer}/{cell}/eager" for peer in ("jax", "jax_jet")))


def _of_model(operator: str, method: str, other: str) -> Sides:
    ours = [f"{operator}/{method}/{DIGITS}/{kind}" for kind in ("compiled", "graph", "eager")]
    return (*ours, *(f"{operator}/{name}/{DIGITS}/eager" for name in (other, "jax", "backpack")))


LOSSES = {
    "flat MLP 5k": ("mlp_loss", "n=48,order=2,depth=2,batch=32"),
    "flat MLP 26k": ("mlp_loss", "n=112,order=2,depth=2,batch=64"),
    "flat MLP 51k": ("mlp_loss", "n=158,order=2,depth=2,batch=64"),
    "convolutions 1.5k": ("conv_loss", "n=12,order=2,depth=2,batch=32"),
    "attention 8k": ("attention_loss", "n=32,order=2,depth=2,batch=32"),
}
VECTORS = {n: ("mlp", f"n={n},order=2,depth=2,batch=1") for n in (8, 64, 512, 2048)}
CONTESTS: dict[str, Sides] = {
    **{f"product, MLP n={n}": _second_order(*cell, eager=n == 8) for n, cell in VECTORS.items()},
    **{f"product, {name}": _second_order(*cell) for name, cell in LOSSES.items()},
    **{f"bound product, MLP n={n}": _bound(*cell) for n, cell in VECTORS.items()},
    **{f"bound product, {name}": _bound(*cell) for name, cell in LOSSES.items()},
    **{
        f"Hessian, MLP n={n}": _second_order("mlp", f"n={n},order=2,depth=2,batch=1", "derivative_tensor")
        for n in (64, 512, 1024)
    },
    **{
        f"Hessian within 1.5 n², MLP n={n}": (f"within:{CHUNKED.format(n, 'rows')}", f"{CHUNKED.format(n, 'jax')}")
        for n in (512, 1024)
    },
    **{
        f"product in gradients, MLP n={n}": (
            f"derivative_vector_product/double_backward/{MLP.format(n)}/compiled",
            f"{GRADIENT}{MLP.format(n)}/compiled",
        )
        for n in (512, 2048)
    },
    **{
        f"Rosenbrock Hessian, n={n}": (
            *(f"{kind} {how}:{n}" for kind in ("coloured", "compressed") for how in ("compiled", "graph", "eager")),
            f"jax:{n}",
        )
        for n in (256, 1024, 4096)
    },
    **{
        f"directional derivative, K={k}, MLP n={n}": _series("directional_derivative", "taylor", "mlp", n, k, 1)
        for n in (64, 512)
        for k in (2, 4, 6, 10)
    },
    **{f"Laplacian, MLP D={d}": _series("laplacian", "collapsed_taylor", "field_loss", d, 2, 64) for d in (8, 50)},
    "empirical Fisher diagonal": _of_model("empirical_fisher_diagonal", "layers", "per_sample_vmap"),
    "Fisher diagonal": _of_model("fisher_diagonal", "layers", "expectation"),
    "Gauss-Newton product": _of_model("gauss_newton_vector_product", "double_vjp", "jvp_vjp"),
    "Hessian diagonal": (
        *(f"hessian_diagonal/layers/{DIAGONAL}/{kind}" for kind in ("compiled", "graph", "eager")),
        f"hessian_diagonal/forward_over_forward/{DIAGONAL}/eager",
        *(f"hessian_diagonal/{peer}/{DIAGONAL}/eager" for peer in ("jax", "backpack")),
    ),
    "extreme eigenvalues": (
        *(f"extremes {method}:{SPECTRUM}" for method in ("dense", "lanczos")),
        *(f"hessian_extreme_eigenvalues/{method}/{SPECTRUM}/eager" for method in ("lanczos", "jax")),
    ),
}
"""Name -> the sides, hograd's first: cells; products at a bound point, by ``bind`` or ``jax.linearize``; Rosenbrock's
function's Hessian by colours of its pattern, dense or compressed, or by JAX, dense; extreme eigenvalues of
its Hessian, or by Lanczos steps on bound products. The other side of a product in gradients is the compiled
gradient."""
ROUNDS, TURN = 15, 0.1


def rosenbrock(x: Any) -> Any:
    """The chained function, of a tensor or a JAX array."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def side(name: str) -> Callable[[], Any]:
    """What a call of a side computes; its result is complete when it returns."""
    import torch

    kind, _, size = name.partition(":")
    of_cell = {"bound": bound, "linearize": linearized}
    if kind in of_cell:
        return of_cell[kind](size)
    if kind == "within":
        return within(size)
    if kind.startswith("extremes"):
        return extremes(size, kind.split()[1])
    if kind.startswith(("coloured", "compressed")):
        result, preparation = kind.split()
        return sparse(result, preparation, torch.ones(int(size)) * 0.9)
    if kind == "jax":
        from hograd_bench.peers import _jax

        _jax.set_up(torch.get_num_threads())
        import jax

        compiled, at = jax.jit(jax.hessian(rosenbrock)), _jax.array(torch.ones(int(size)) * 0.9)
        return lambda: compiled(at).block_until_ready()
    from hograd_bench.gate.twins.worker import made

    subject = made(name)
    if subject.prepared is not None:  # as its user calls it
        tensors = [a for a in subject.arguments if isinstance(a, torch.Tensor)]
        return functools.partial(subject.prepared, *tensors)
    call: Callable[[], Any] = subject.call
    return call


def sparse(kind: str, preparation: str, x: Any) -> Callable[[], Any]:
    """Rosenbrock's function's Hessian by colours, "coloured" (dense) or "compressed", prepared or eager."""
    import hograd_core as h
    from hograd_core.sparse import SparseHessian

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
    from hograd_bench.gate.twins.worker import made

    import hograd_core as h

    instance = made(cell).instance
    x = instance.x
    memory = x.numel() ** 2 * x.element_size() * 3 // 2
    prepared = h.prepare(h.hessian, instance.f, x, preparation="compiled", memory=memory)
    if prepared.preparation != "compiled" or prepared.peak_bytes > memory:
        raise RuntimeError(prepared.explain())
    return lambda: prepared(x)


def bound(cell: str) -> Callable[[], Any]:
    """The prepared product of a cell at its point, which is bound."""
    from hograd_bench.gate.twins.worker import made

    subject = made(cell)
    _, x, v = subject.arguments
    product = subject.prepared.bind(x)
    product(v)
    if product.bindings[None] is None:
        raise RuntimeError("it cannot be bound")
    return lambda: product(v)


def extremes(cell: str, method: str) -> Callable[[], Any]:
    """The extreme eigenvalues at a cell's point, by a compiled Hessian that is at hand ("dense"), or its product."""
    from hograd_bench.gate.twins.worker import made

    import hograd_core as h

    instance = made(f"derivative_vector_product/double_backward/{cell}/eager").instance
    operator = h.hessian if method == "dense" else h.hvp
    kernel = h.prepare(operator, instance.f, instance.x, preparation="compiled")
    if kernel.preparation != "compiled":
        raise RuntimeError(kernel.explain())
    return lambda: h.hessian_extreme_eigenvalues(instance.f, instance.x, method=method, preparation=kernel)


def linearized(cell: str) -> Callable[[], Any]:
    """``jax.linearize(jax.grad(f), x)``, compiled."""
    from hograd_bench.gate.twins.worker import made
    from hograd_bench.peers import Task, _jax

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


def serve(name: str, threads: int) -> None:
    """Time calls of a side for a turn at each line of stdin, and print the least, in nanoseconds."""
    import torch
    from torch.utils._pytree import tree_leaves

    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):  # all sides on the same cores: they take turns
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    call = side(name)
    results = [leaf.values() if getattr(leaf, "is_sparse_csr", False) else leaf for leaf in tree_leaves(call())]
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


def shown(side: str) -> str:
    """A side in a few words: a cell by its kind, method and preparation."""
    what, *rest = side.split("/")
    return " ".join([*what.split(":")[:-1], rest[0], rest[-1]]) if rest else side


def is_peer(side: str) -> bool:
    """Whether another package computes it, or it is what a product is measured by."""
    return re.search(r"(^|/|:)(jax|backpack|linearize|gradient)", side) is not None


def line(name: str, least: Mapping[str, int | None]) -> tuple[str, ...]:
    """A contest in one line: the quickest of hograd's sides, prepared in each way and not, beside the quickest peer."""

    def quickest(of: Callable[[str], bool]) -> tuple[str, int] | None:
        able = [(side, ns) for side, ns in least.items() if ns is not None and of(side)]
        return min(able, key=lambda found: found[1], default=None)

    def prepared(kind: str) -> tuple[str, int] | None:
        return quickest(lambda side: not is_peer(side) and kind == _kind(side))

    def micro(found: tuple[str, int] | None) -> str:
        return "–" if found is None else f"{found[1] / 1e3:,.{1 if found[1] < 1e5 else 0}f}"

    mine, peer = quickest(lambda side: not is_peer(side)), quickest(is_peer)
    ratio = mine[1] / peer[1] if mine and peer else math.nan
    return (
        name, *map(micro, map(prepared, ("compiled", "graph", "eager"))), shown(peer[0]) if peer else "none",
        micro(peer), "–" if math.isnan(ratio) else f"{ratio:.{2 if ratio >= 0.1 else 3}f}",
    )  # fmt: skip


def _kind(side: str) -> str:
    """How a side of hograd's is prepared."""
    if side.startswith(("within", "extremes")):
        return "compiled"
    return side.rpartition("/")[2] if "/" in side else side.partition(":")[0].split()[1]


def conditions(threads: int) -> str:
    """When and on what the contests were held."""
    import importlib.metadata

    import torch
    from hograd_bench import system_info

    versions = [f"torch {torch.__version__}"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions.append(f"JAX {importlib.metadata.version('jax')}")
    load = f"{os.getloadavg()[2]:.1f} processes wanted its CPUs in the last quarter of an hour"
    cpu = f"{system_info.cpu()['model']}, kernels for {torch.backends.cpu.get_cpu_capability()}"
    return f"{datetime.date.today()}, {cpu}, {threads} thread(s) a side, {', '.join(versions)}; {load}.\n"


def main() -> None:
    """Parse arguments, run the contests, print the table."""
    parser = argparse.ArgumentParser(prog="python -m studies.contests", description=__doc__)
    parser.add_argument("-k", default="", help="contests whose name holds this text")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1, help="of every side, each on a core of its own")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put a line a contest into this document")
    given = parser.parse_args()
    if given.side:
        serve(given.side, given.threads)
        return
    lines = []
    print("| contest | side | least time, us | ratio to hograd |\n|---|---|---|---|")
    for name, sides in CONTESTS.items():
        if given.k not in name:
            continue
        sides = tuple(side.replace("/cpu/t1", f"/cpu/t{given.threads}") for side in sides)
        least = contest(sides, given.rounds, given.threads)
        lines.append(line(name, dict(zip(sides, least, strict=True))))
        for label, ns in zip(sides, least, strict=True):
            ratio = f"{ns / least[0]:.2f}" if ns and least[0] else "-"
            print(f"| {name} | {shown(label)} | {ns / 1e3 if ns else 'none'} | {ratio} |", flush=True)
    if given.write is not None:
        head = ("contest", "compiled, µs", "graph, µs", "eager, µs", "quickest peer", "µs", "ratio")
        text = f"{conditions(given.threads)}\n{table(head, lines)}\n"
        document = given.write.read_text(encoding="utf-8")
        section = {f"contests, {given.threads} thread(s)": text}
        given.write.write_text(written_into(document, section), encoding="utf-8")


if __name__ == "__main__":
    main()
