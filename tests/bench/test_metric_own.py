"""A metric is one file: dropped into a folder, it is in the rows, in the laws, in the report and in the exact gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hograd_bench import facts, metrics
from hograd_bench.claim_cells import shipped_facts
from hograd_bench.metrics import Metric

FAMILY = """
from hograd_bench.metrics import Metric, Readings

METRICS = (Metric("own_elements", "1", True, "numel", "elements of the result", kind="count", label="own elements"),)


def measure(subject):
    return Readings({"own_elements": subject.call().numel()})
"""
CELL = "derivative_vector_product/double_backward/sin_chain/n={n},order=2,depth=2,batch=1/float32/cpu/t1/eager"


def hograd(*arguments: str, folder: Path | None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != metrics.FOLDERS}
    if folder is not None:
        environment[metrics.FOLDERS] = str(folder)
    ran = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout


@pytest.mark.slow
def test_a_dropped_file_is_measured_reported_and_gated(tmp_path: Path) -> None:
    folder, results, reports = tmp_path / "own", tmp_path / "results", tmp_path / "reports"
    folder.mkdir()
    (folder / "elements.py").write_text(FAMILY, encoding="utf-8")
    cells = [CELL.format(n=n) for n in (4, 8, 16, 32, 64)]
    chosen = [part for cell in cells for part in ("--cell", cell)]
    run = hograd("-m", "hograd_bench", "run", *chosen, "--results", str(results), "--json", folder=folder)
    rows = json.loads(run)
    assert [row["metrics"]["own_elements"] for row in rows] == [4, 8, 16, 32, 64]

    # Readers have the record from the run: the file is not theirs.
    law = hograd(
        "-m", "hograd_bench", "law", "--operator", "hvp", "--method", "double_backward", "--problem", "sin_chain",
        "--metric", "own_elements", "--results", str(results), "--json", folder=None,
    )  # fmt: skip
    assert json.loads(law)["kind"] == "ExactLaw"
    hograd("-m", "hograd_bench", "report", "--results", str(results), "--reports", str(reports), folder=None)
    assert "own_elements" in (reports / "rows.csv").read_text().partition("\n")[0]
    assert "own elements" in (reports / "index.html").read_text()

    baselines = tmp_path / "baselines"
    hograd("-m", "hograd_bench", "gate", "--update", "--cell", cells[0], "--baseline", str(baselines), folder=folder)
    (file,) = baselines.glob("*/rows.jsonl")
    assert json.loads(file.read_text())["metrics"]["own_elements"] == 4


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("time.py", FAMILY, "already"),
        ("twice.py", FAMILY.replace("own_elements", "peak_bytes"), "already"),
        ("nothing.py", "", "expected METRICS"),
        ("silent.py", FAMILY.replace("def measure", "def other"), "expected a function measure"),
    ],
)
def test_a_file_that_is_no_family_is_refused(
    name: str, text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv(metrics.FOLDERS, str(tmp_path))
    try:
        with pytest.raises(ValueError, match=says):
            metrics.families.__wrapped__()
    finally:
        sys.modules.pop(f"hograd_bench.metrics.{name.removesuffix('.py')}", None) if name != "time.py" else None


def test_records_survive_their_journey_and_foreign_ones_are_left() -> None:
    for record in metrics.metrics().values():
        assert Metric.from_dict(json.loads(json.dumps(record.as_dict()))) == record
    for bad in (7, {"name": 7}, {"name": "x"}, {**metrics.metrics()["flops"].as_dict(), "kind": "spin"}):
        metrics.carry({"metrics": {"foreign": bad}})
    metrics.carry({"metrics": [1]})
    assert metrics.record("foreign") is None


def test_what_two_processes_do_not_agree_on_is_not_exact() -> None:
    assert metrics.is_exact("peak_bytes")
    assert not any(map(metrics.is_exact, ("peak_rss_bytes", "unseen_bytes", "rounds", "flops_coverage", "unheard")))


def test_the_facts_that_ship_are_those_of_the_registries() -> None:
    shipped = Path(facts.__file__).with_suffix(".json").read_text(encoding="utf-8")
    assert shipped == shipped_facts(), "make it anew: python -m hograd_bench.claim_cells"
