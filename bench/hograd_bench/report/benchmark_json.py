"""Rows in pytest-benchmark's own JSON, for whatever reads that: `pytest-benchmark compare`, services that plot it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd
from pytest_benchmark.stats import Stats

from hograd_bench.cells import Cell
from hograd_bench.report.text import is_number
from hograd_bench.store import metric_columns


def document(rows: pd.DataFrame, environment: Mapping[str, Any]) -> dict[str, Any]:
    """The timed rows of one machine.

    Args:
        rows: as ``store.newest`` gives them; those without samples of time are left out.
        environment: the run's they are of.

    Returns:
        JSON-ready. A benchmark's name is the cell's id, its group the same without the method, and its ``extra_info``
        has every other metric of the row. Statistics are of the samples that the row keeps (at most 200, evenly
        thinned), but for ``min``, ``median`` and ``rounds``, which are of all rounds.
    """
    metrics = sorted(metric_columns(rows))
    records = rows.to_dict("records")
    return {
        "machine_info": _machine(environment),
        "commit_info": {**_section(environment, "source", id="commit", dirty="dirty"), "project": "hograd"},
        "benchmarks": [made for row in records if (made := _benchmark(row, metrics)) is not None],
        "datetime": environment.get("recorded"),
        "version": version("pytest-benchmark"),
    }


def _benchmark(row: Mapping[Any, Any], metrics: list[str]) -> dict[str, Any] | None:
    samples = row["details"].get("samples_seconds") if row["status"] == "ok" else None
    figures = [row.get(name) for name in ("seconds_min", "seconds_median", "rounds")]
    if not isinstance(samples, list) or not samples or not all(map(is_number, (*samples, *figures))):
        return None
    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for seconds in samples:
        stats.update(seconds)
    known = {name: row[name] for name in metrics if pd.notna(row[name])}
    cell = Cell.parse(row["cell"])
    taken = {**stats.as_dict(), "data": samples, "iterations": 1}
    taken |= {"min": figures[0], "median": figures[1], "rounds": int(known["rounds"])}
    return {
        "group": cell.id.replace(f"/{cell.method}/", "/", 1),
        "name": cell.id,
        "fullname": f"hograd::{cell.id}",
        "params": cell.as_dict(),
        "param": cell.id,
        "extra_info": {"run": row["run"], **known},
        "options": {"disable_gc": True, "timer": "perf_counter", "warmup": False},
        "stats": taken,
    }


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node": environment.get("machine"),
        **_section(environment, "system", system="os", release="kernel"),
        **_section(
            environment, "python", python_version="version", python_implementation="implementation",
            python_compiler="compiler",
        ),
        "machine": _section(environment, "cpu", machine="architecture")["machine"],
        "cpu": _section(environment, "cpu", brand_raw="model", count="logical", arch="architecture"),
    }  # fmt: skip


def _section(environment: Mapping[str, Any], section: str, **names: str) -> dict[str, Any]:
    facts = environment.get(section)
    return {theirs: facts.get(ours) if isinstance(facts, Mapping) else None for theirs, ours in names.items()}
