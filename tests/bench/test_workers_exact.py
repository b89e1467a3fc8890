"""Several workers change who measures an exact figure, never the figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hograd_bench.metrics import metrics


def exact(folder: Path, workers: int) -> bytes:
    """Everything exact that a run of a part of the smoke preset wrote, in order of cells."""
    arguments = ["--preset", "smoke", "-k", "/mlp/", "--untimed", "--workers", str(workers)]
    command = [sys.executable, "-m", "hograd_bench", "run", *arguments, "--results", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*/*/rows.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [
        [row["cell"], row["status"], row["reason"], row["numel"], row["missing"], row["details"].get("aten_by_op")]
        + [[name, value] for name, value in row["metrics"].items() if metrics()[name].deterministic]
        for row in sorted(rows, key=lambda row: row["cell"])
    ]
    assert sum(status == "ok" for _, status, *_ in kept) > 5
    return json.dumps(kept).encode()


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(tmp_path: Path) -> None:
    assert exact(tmp_path / "one", 1) == exact(tmp_path / "two", 2)
