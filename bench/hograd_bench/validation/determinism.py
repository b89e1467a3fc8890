"""Deterministic metrics in fresh processes: other hash seeds, other cells before, the same figures.

Run as ``python -m hograd_bench.validation.determinism``, it answers a request on stdin; :func:`fresh` does that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hograd_bench import measure
from hograd_bench.cells import Cell
from hograd_bench.metrics import metrics

Figures = dict[str, Any]


def figures(cell: Cell, families: Sequence[str] = measure.DETERMINISTIC) -> Figures:
    """The row's status, deterministic metrics and tables of a cell, measured in this process.

    Args:
        cell: what to measure.
        families: metric families to read.

    Returns:
        Name -> value: what two processes must agree on.
    """
    row = measure.measure(cell, families)
    known = metrics()
    stable = {name: value for name, value in row["metrics"].items() if known[name].deterministic}
    tables = {k: v for k, v in row["details"].items() if k not in ("traceback", "warnings")}
    return {"status": row["status"], "reason": row["reason"], **stable, **tables}


def fresh(cells: Sequence[Cell], hash_seed: int, timeout: float = 3600.0) -> dict[str, Figures]:
    """The same of several cells, one after the other in one fresh process.

    Args:
        cells: what to measure, in this order.
        hash_seed: PYTHONHASHSEED of that process.
        timeout: seconds.

    Returns:
        Figures by cell id.

    Raises:
        RuntimeError: the process failed; the message ends with its last words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hograd_bench.validation.determinism"],
        input=json.dumps([cell.id for cell in cells]),
        capture_output=True,
        text=True,
        timeout=timeout,
        # Waiting threads that spin would take the cores from whatever else runs; figures do not depend on it.
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"determinism: the process ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return {line["cell"]: line["figures"] for line in map(json.loads, done.stdout.splitlines())}


def differences(a: Mapping[str, Figures], b: Mapping[str, Figures]) -> dict[str, list[str]]:
    """Names of the figures that differ, by cell; a cell that only one side has differs as a whole."""
    found: dict[str, list[str]] = {}
    for cell in sorted(a.keys() | b.keys()):
        ours, theirs = a.get(cell), b.get(cell)
        if ours is None or theirs is None:
            found[cell] = ["cell"]
            continue
        names = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        if names:
            found[cell] = names
    return found


def main() -> None:
    """Answer one request from stdin: a line of JSON for each cell."""
    for identifier in json.loads(sys.stdin.read()):
        print(json.dumps({"cell": identifier, "figures": figures(Cell.parse(identifier))}), flush=True)


if __name__ == "__main__":
    main()
