"""What sweeps on Ray gain and cost, for docs/scale.md: ``python -m studies.scale``, on a machine that is idle.

The same untimed cells through ``Local(1)``, and through nodes of one CPU each on this machine, 1 and 2, in turns.
Speed-up is 1 node's time over 2 nodes'; overhead, 1 node's over Local's. The best of the repetitions of each counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path

from hograd_bench.cells import Cell
from hograd_bench.engine import Cluster, Engine, Local, Task

from studies._document import table, write

FAMILIES = ("accuracy", "counts", "memory")
PROBLEMS = ("quadratic", "rosenbrock", "log_sum_exp", "separable_exp", "tanh_chain")
METHODS = ("double_backward", "jvp_of_grad", "vjp_of_grad")


def tasks(count: int) -> list[Task]:
    """That many small cells."""
    sizes = range(4, 4 + count)
    cells = (
        Cell("derivative_vector_product", method, problem, n)
        for n, problem, method in product(sizes, PROBLEMS, METHODS)
    )  # fmt: skip
    return [Task(cell, FAMILIES) for cell in islice(cells, count)]


@contextmanager
def nodes(count: int) -> Iterator[Engine]:
    """An engine on nodes of this machine with a CPU each."""
    from ray.cluster_utils import Cluster as Nodes

    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(count):
        cluster.add_node(num_cpus=1)
    try:
        with Cluster(cluster.address) as connected:
            (engine,) = connected.machines()
            yield engine
    finally:
        cluster.shutdown()


def seconds(engine: Engine, given: list[Task]) -> float:
    """Wall time until every cell settled as ok."""
    start = time.perf_counter()
    ended = [event.row["status"] for event in engine.run(given) if event.row is not None]
    if ended != ["ok"] * len(given):
        raise SystemExit(f"expected {len(given)} cells ok, got {len(ended)} and {set(ended)}")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m studies.scale", description=__doc__)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this document")
    chosen = parser.parse_args()
    given = tasks(chosen.cells)
    taken: dict[str, list[float]] = {"local": [], "1 node": [], "2 nodes": []}
    for _ in range(chosen.repeats):
        taken["local"].append(seconds(Local(1), given))
        for count, name in ((1, "1 node"), (2, "2 nodes")):
            with nodes(count) as engine:
                taken[name].append(seconds(engine, given))
        print({name: [round(value, 1) for value in values] for name, values in taken.items()}, flush=True)
    local, one, two = (min(values) for values in taken.values())
    head = ("cells", "Local, s", "1 node, s", "2 nodes, s", "overhead of Ray", "speed-up of 2 nodes")
    shown = table(head, [(chosen.cells, local, one, two, f"{one / local - 1:.1%}", one / two)])
    print(shown)
    if chosen.write is not None:
        write(chosen.write, {"scale": shown + "\n"})


if __name__ == "__main__":
    main()
