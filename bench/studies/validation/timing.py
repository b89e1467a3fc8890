"""Times of calls whose cost is known, and of cells by two instruments, from pytest-benchmark's own output."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hograd_bench.engine import Host, call
from hograd_bench.engine.child import ROUNDS
from hograd_bench.sweeps import plugin


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
    """Run the benchmarks of known cost in a process of their own, with the options by which cells are timed.

    Raises:
        LostError: they did not run.
    """
    return [_timed(entry) for entry in call(Host(), f"{__name__}:benchmarks", seconds=600.0)]


def benchmarks() -> list[dict[str, Any]]:
    """What pytest-benchmark writes of known_cost.py."""
    configuration = Path(plugin.__file__).with_name("pytest.ini")
    with tempfile.TemporaryDirectory(prefix="hograd-") as folder:
        written = Path(folder, "timing.json")
        benches = str(Path(__file__).with_name("known_cost.py"))
        code = pytest.main(["-c", str(configuration), benches, *ROUNDS, f"--benchmark-json={written}"])
        if code != 0:
            raise RuntimeError(f"the benchmarks of known cost did not run: pytest's exit code is {int(code)}")
        entries: list[dict[str, Any]] = json.loads(written.read_text(encoding="utf-8"))["benchmarks"]
        return entries


def _timed(entry: dict[str, Any]) -> Timed:
    known = (entry["params"] or {}).get("seconds")
    extra = entry["extra_info"]
    return Timed(entry["param"] or "nothing", known, entry["stats"]["min"], extra["single"], extra.get("torch"))
