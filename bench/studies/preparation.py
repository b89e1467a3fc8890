"""What preparing takes, in new processes: with nothing on disk, with inductor's headers there, with the kernel there.

``python -m studies.preparation [-k TEXT] [--rounds N]``: each kernel is prepared in processes of one thread that start
with an empty folder for inductor's cache, and then again; the least of the rounds counts. Seconds are those of
``prepare`` with all that it loads (inductor itself, in a new process), and without torch's own import.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from studies._document import table, write
from studies.contests._contests import LOSSES, VECTORS
from studies.contests._table import conditions

PRODUCT = "derivative_vector_product/double_backward/{}/{}/float32/cpu/t1/{}"
CELLS = {
    **{f"product, MLP n={n}": PRODUCT.format(*cell, "compiled") for n, cell in VECTORS.items() if n < 2048},
    **{f"product, {name}": PRODUCT.format(*cell, "compiled") for name, cell in LOSSES.items()},
    "Hessian, MLP n=64": "derivative_tensor/rows/mlp/n=64,order=2,depth=2,batch=1/float32/cpu/t1/compiled",
}
FIRST = PRODUCT.format("quadratic", "n=4,order=2,depth=1,batch=1", "compiled")
"""Prepared in the same folder before the others, so that headers are there."""
PREPARE = """
import sys
from hograd_bench.gate.twins.worker import made
subject = made(sys.argv[1])
print("seconds", subject.prepare_seconds)
print(*(line for line in subject.prepared.explain().splitlines() if "without" in line), file=sys.stderr, end="")
"""


def seconds(cell: str, folder: str) -> float:
    """Seconds that a new process takes to prepare a cell, with inductor's cache in a folder."""
    variables = {"TORCHINDUCTOR_CACHE_DIR": folder, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, cell], env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.partition("seconds ")[2])


def main() -> None:
    """Parse arguments, prepare, print the table."""
    parser = argparse.ArgumentParser(prog="python -m studies.preparation", description=__doc__)
    parser.add_argument("-k", default="", help="kernels whose name holds this text")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this document")
    given = parser.parse_args()
    head = ("kernel", "new, s", "in a second process, s")
    print(table(head, []))
    headers, rows = [], []
    for name, cell in CELLS.items():
        if given.k not in name:
            continue
        new, again = [], []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory(prefix="hograd_") as folder:
                headers.append(seconds(FIRST, folder))
                new.append(seconds(cell, folder))
                again.append(seconds(cell, folder))
        rows.append((name, min(new), min(again)))
        print(*rows[-1], sep=" | ", flush=True)
    told = f"The first kernel in an empty folder, of four numbers, took {min(headers, default=0.0):.1f} s."
    print(f"\n{told}")
    if given.write is not None:
        text = f"{conditions(1)}\n{table(head, rows)}\n\n{told}\n"
        write(given.write, {"preparation": text})


if __name__ == "__main__":
    main()
