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

from studies.contests import LOSSES, VECTORS

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
print("seconds", made(sys.argv[1]).prepare_seconds)
"""


def seconds(cell: str, folder: str) -> float:
    """Seconds that a new process takes to prepare a cell, with inductor's cache in a folder."""
    variables = {"TORCHINDUCTOR_CACHE_DIR": folder, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, cell], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return float(done.stdout.partition("seconds ")[2])


def main() -> None:
    """Parse arguments, prepare, print the table."""
    parser = argparse.ArgumentParser(prog="python -m studies.preparation", description=__doc__)
    parser.add_argument("-k", default="", help="kernels whose name holds this text")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print("| kernel | new, s | in a second process, s |\n|---|---|---|")
    headers = []
    for name, cell in CELLS.items():
        if given.k not in name:
            continue
        new, again = [], []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory(prefix="hograd_") as folder:
                headers.append(seconds(FIRST, folder))
                new.append(seconds(cell, folder))
                again.append(seconds(cell, folder))
        print(f"| {name} | {min(new):.2f} | {min(again):.2f} |", flush=True)
    if headers:
        print(f"\nThe first kernel of a machine, of four numbers, took {min(headers):.1f} s, headers included.")


if __name__ == "__main__":
    main()
