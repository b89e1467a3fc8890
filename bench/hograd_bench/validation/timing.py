"""Times of calls whose cost is known, and of cells by two instruments, from pytest-benchmark's own output."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hograd_bench.engine.child import ROUNDS


@dataclass(frozen=True)
class Timed:
    """One call.

    Attributes:
        name: the cell's id, or the busy loop's seconds.
        known: seconds by construction, or None.
        rounds: fastest of pytest-benchmark's rounds, seconds: what ``seconds_min`` is.
        single: fastest single call, seconds: what ``gradient_seconds`` is.
        torch: fastest of torch.utils.benchmark, seconds, or None.
    """

    name: str
    known: float | None
    rounds: float
    single: float
    torch: float | None


def measured() -> list[Timed]:
    """Run the benchmarks of known cost in a process of their own, with the options that workers use.

    Raises:
        RuntimeError: they did not run; the message ends with what pytest said.
    """
    benches = Path(__file__).with_name("known_cost.py")
    configuration = Path(__file__).parents[1] / "sweeps" / "pytest.ini"
    with tempfile.TemporaryDirectory(prefix="hograd-") as folder:
        written = Path(folder, "timing.json")
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-c", str(configuration), str(benches)),
                *(*ROUNDS, f"--benchmark-json={written}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if ran.returncode != 0:
            raise RuntimeError(f"the benchmarks of known cost did not run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        return [_timed(entry) for entry in json.loads(written.read_text(encoding="utf-8"))["benchmarks"]]


def _timed(entry: dict[str, Any]) -> Timed:
    known = (entry["params"] or {}).get("seconds")
    extra = entry["extra_info"]
    return Timed(entry["param"] or "nothing", known, entry["stats"]["min"], extra["single"], extra.get("torch"))
