"""Rows in pytest-benchmark's JSON, read by pytest-benchmark's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hograd_bench import report, store
from hograd_bench.report import benchmark_json

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture(scope="module")
def run() -> store.Results:
    """A committed run with times, the smallest."""
    folder = min(store.run_folders(REFERENCE), key=lambda f: (f / "rows.jsonl").stat().st_size)
    return store.load(folder)


@pytest.fixture(scope="module")
def document(run: store.Results) -> dict[str, object]:
    (environment,) = run.environments.values()
    return benchmark_json.document(store.newest(run.rows), environment)


def test_every_timed_row_is_there_with_its_own_figures(run: store.Results, document: dict[str, list[dict]]) -> None:
    rows = store.newest(run.rows).set_index("cell")
    timed = rows[(rows["status"] == "ok") & rows["seconds_min"].notna()]
    assert len(timed) > 0
    assert {b["name"] for b in document["benchmarks"]} == set(timed.index)
    for benchmark in document["benchmarks"]:
        row = timed.loc[benchmark["name"]]
        assert benchmark["stats"]["min"] == row["seconds_min"]
        assert benchmark["stats"]["rounds"] == row["rounds"]
        assert benchmark["stats"]["data"] == row["details"]["samples_seconds"]
        assert benchmark["extra_info"]["seconds_iqr"] == row["seconds_iqr"]
        assert benchmark["params"]["method"] == row["method"]
        assert f"/{row['method']}/" not in benchmark["group"]


@pytest.mark.slow
def test_pytest_benchmark_compares_them(document: dict[str, list[dict]], tmp_path: Path) -> None:
    few = {**document, "benchmarks": document["benchmarks"][:3]}
    (tmp_path / "times.json").write_text(json.dumps(few, allow_nan=False), encoding="utf-8")
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "times.json", "--columns=min,rounds", "--name=long"]
    wide = {**os.environ, "COLUMNS": "400"}
    ended = subprocess.run(command, cwd=tmp_path, env=wide, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for benchmark in few["benchmarks"]:
        assert benchmark["name"] in ended.stdout


def test_one_file_has_one_machine() -> None:
    rows = pd.DataFrame({"machine": ["a", "b"], "run": ["1", "2"]})
    with pytest.raises(report.ReportError, match=r"--benchmark-json: the rows are of 2 machines \(a, b\)"):
        report.build.__globals__["_benchmarks"](rows, store.Results(rows, {}))
