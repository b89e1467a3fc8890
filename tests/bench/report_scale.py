"""Results of many runs, made from the recorded reference rows: what a laboratory has after a year.

    python tests/bench/report_scale.py FOLDER [--rows 100000] [--runs 200] [--cells N]

writes FOLDER/<machine>/<run>/ as the store does. Rows are recorded ones with all their details; only what tells
runs apart is changed: times vary as between processes, the bytes of one method change for good with one commit, and
half of the machines ran their cells on a GPU. With more cells than were recorded, problems get further names.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from pathlib import Path
from typing import Any

from hograd_bench import schema, store
from hograd_bench.cells import Cell

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
MACHINES = tuple(f"made-up-{name}-{i:010x}" for i, name in enumerate(("laptop", "desktop", "server", "cluster")))
_TIMES = ("seconds", "gradient_equivalents")


def write(results: Path, *, rows: int = 100_000, runs: int = 200, cells: int | None = None, seed: int = 0) -> None:
    """Write that many rows, over that many runs, of that many distinct cells.

    Args:
        results: folder to fill.
        rows: in all.
        runs: over a few machines in turn.
        cells: distinct cells, over which a machine's runs go in turn; None: those that were recorded.
        seed: of the variation.
    """
    oldest = min(store.run_folders(REFERENCE), key=lambda folder: folder.name)
    recorded, environment = store.read_rows(oldest), store.environment_of(oldest)
    draw = random.Random(seed)
    cells = cells or len(recorded)
    for index in range(runs):
        machine, turn = MACHINES[index % len(MACHINES)], index // len(MACHINES)
        day = f"{2024 + index // 360:04d}{1 + index // 30 % 12:02d}{1 + index % 30:02d}"
        run = f"{day}T120000Z-{index:08x}"
        count = rows * (index + 1) // runs - rows * index // runs
        device = "cuda" if 2 * MACHINES.index(machine) >= len(MACHINES) else "cpu"
        made = [_row(recorded, (turn * count + i) % cells, run, turn, device, draw) for i in range(count)]
        folder = results / machine / run
        folder.mkdir(parents=True)
        of_run = _environment(environment, machine, day, turn)
        (folder / store.ENVIRONMENT).write_text(json.dumps(of_run), encoding="utf-8")
        (folder / store.ROWS).write_bytes(b"".join(map(schema.encode, made)))


def _row(
    recorded: list[dict[str, Any]], cell: int, run: str, turn: int, device: str, draw: random.Random
) -> dict[str, Any]:
    row = dict(recorded[cell % len(recorded)])
    copies = cell // len(recorded)
    problem = f"{row['problem']}_{copies}" if copies else row["problem"]
    changed = {"problem": problem, "device": device}
    identity = Cell(**{name: row[name] for name in schema.CELL_FIELDS} | changed).id
    day = f"{run[:4]}-{run[4:6]}-{run[6:8]}T12:00:00+00:00"
    drift = draw.lognormvariate(0, 0.05)
    metrics = {
        name: value * drift if isinstance(value, float) and any(t in name for t in _TIMES) else value
        for name, value in row["metrics"].items()
    }
    if row["method"] == "double_backward" and turn >= 30 and metrics.get("peak_bytes"):
        metrics["peak_bytes"] += 64
    return {**row, **changed, "run": run, "cell": identity, "started": day, "metrics": metrics}


def _environment(recorded: dict[str, Any], machine: str, day: str, turn: int) -> dict[str, Any]:
    made = copy.deepcopy(recorded)
    made["machine"], made["recorded"] = machine, f"{day[:4]}-{day[4:6]}-{day[6:8]}T12:00:00+00:00"
    made["source"]["commit"] = f"{turn // 3:08x}" * 5
    made["torch"]["version"] = f"2.{11 + turn // 20}.0"
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    for name, default in (("rows", 100_000), ("runs", 200), ("cells", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    write(given.results, rows=given.rows, runs=given.runs, cells=given.cells)
    print(f"{given.rows:,} rows over {given.runs} runs in {given.results}")


if __name__ == "__main__":
    main()
