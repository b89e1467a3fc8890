"""Two runs, cell by cell."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hograd_bench import compare, environment, schema, store
from hograd_bench.cells import Cell
from hograd_bench.metrics import Metric, Missing, metrics
from hograd_bench.schema import NOT_ASKED

RECORDS = {
    "peak_bytes": Metric("peak_bytes", "B", True, "i", "d", ("torch", "isa", "threads")),
    "f_calls": Metric("f_calls", "1", True, "i", "d", ("source",)),
    "label": Metric("label", "1", True, "i", "d"),
    "seconds_min": Metric("seconds_min", "s", False, "i", "d", ("machine",)),
}
ENV: dict[str, Any] = {
    "machine": "m", "torch": {"version": "2", "capability": "AVX2"}, "cpu": {"model": "c"}, "gpus": [],
    "variables": {}, "threads": {"intra_op": 1},
}  # fmt: skip


def cell(n: int, device: str = "cpu") -> Cell:
    return Cell("derivative_tensor", "rows", "mlp", n, device=device)


@pytest.fixture
def two(tmp_path: Path) -> Any:
    """Makes two runs of (cell, status, metrics) and loads them."""

    def make(*runs: list[tuple[Cell, str, dict[str, Any]]]) -> list[pd.DataFrame]:
        frames = []
        for name, rows in zip("ab", runs, strict=True):
            with store.create_run(tmp_path, ENV, name) as run:
                for of, status, values in rows:
                    run.append(schema.row(of, status, None if status == "ok" else "because", metrics=values))
            frames.append(store.load(tmp_path, runs=[name], strict=True).rows)
        return frames

    return make


def differing(facts: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(ENV)
    for name, value in facts.items():
        section, _, key = name.partition(".")
        other[section][key] = value
    return other


VALUES = {"peak_bytes": 2**53 - 1, "f_calls": 4, "label": "x", "seconds_min": 0.5}


def test_equal_runs_are_the_same(two: Any) -> None:
    a, b = two([(cell(n), "ok", VALUES) for n in (1, 2)], [(cell(n), "ok", VALUES) for n in (2, 1)])
    found = compare.compare(a, b, ENV, ENV, RECORDS)
    assert found.same
    assert (found.cells, found.values, len(found.differences), len(found.ratios)) == (2, 6, 0, 2)
    assert found.ratios["ratio"].tolist() == [1.0, 1.0]
    assert found.summary() == ["6 deterministic values of 2 cells compared: 0 differ", "cells on cpu: comparable: full"]
    assert len(compare.compare(a, b, ENV, ENV, RECORDS, deterministic_only=True).ratios) == 0


def test_one_byte_is_a_difference(two: Any) -> None:
    a, b = two([(cell(1), "ok", VALUES)], [(cell(1), "ok", {**VALUES, "peak_bytes": 2**53 - 2, "seconds_min": 0.75})])
    found = compare.compare(a, b, ENV, ENV, RECORDS)
    assert not found.same
    (difference,) = found.differences.to_dict("records")
    assert difference == {
        "cell": cell(1).id, "metric": "peak_bytes", "unit": "B", "a": 2**53 - 1, "b": 2**53 - 2, "difference": -1,
        "ratio": pytest.approx(1.0), "note": "",
    }  # fmt: skip
    assert found.ratios["ratio"].tolist() == [1.5]  # a time that differs is no difference
    assert found.to_json()["differences"][0]["difference"] == -1


def test_texts_and_zeros(two: Any) -> None:
    a, b = two([(cell(1), "ok", {"label": "x", "f_calls": 0})], [(cell(1), "ok", {"label": "y", "f_calls": 2})])
    found = compare.compare(a, b, ENV, ENV, RECORDS).differences.set_index("metric")
    assert math.isnan(found.at["label", "difference"])
    assert (found.at["f_calls", "difference"], found.at["label", "b"]) == (2, "y")
    assert math.isnan(found.at["f_calls", "ratio"])


def test_a_value_that_went_missing_is_a_difference_with_its_reason(two: Any) -> None:
    a, b = two(
        [(cell(1), "ok", {"peak_bytes": 3}), (cell(2), "ok", {"peak_bytes": Missing("no")})],
        [(cell(1), "ok", {"peak_bytes": Missing("hooks are barred")}), (cell(2), "ok", {"peak_bytes": Missing("no")})],
    )
    found = compare.compare(a, b, ENV, ENV, RECORDS)
    assert found.differences["note"].tolist() == ["missing in B: hooks are barred"]
    assert found.values == 1
    assert found.to_json()["differences"][0]["b"] is None
    back = compare.compare(b, a, ENV, ENV, RECORDS)
    assert back.differences["note"].tolist() == ["missing in A: hooks are barred"]


def test_a_metric_on_one_side_only_is_a_difference(two: Any) -> None:
    a, b = two([(cell(1), "ok", {"f_calls": 1})], [(cell(1), "ok", {"f_calls": 1, "peak_bytes": 3})])
    found = compare.compare(a, b, ENV, ENV, RECORDS)
    assert found.differences["note"].tolist() == ["missing in A: not recorded"]


def test_a_problem_whose_file_changed_is_not_compared(two: Any) -> None:
    a, b = two([(cell(1), "ok", VALUES)], [(cell(1), "ok", {**VALUES, "peak_bytes": 1})])
    envs = [{**ENV, "plan": {"problems": {"mlp": text}}} for text in ("old", "new")]
    found = compare.compare(a, b, *envs, RECORDS)
    assert (found.cells, found.changed, found.same) == (0, ("mlp",), False)
    assert any("problem mlp: the file that declares it has another text" in line for line in found.summary())
    assert compare.compare(a, b, envs[0], envs[0], RECORDS).cells == 1
    assert compare.compare(a, b, ENV, envs[1], RECORDS).cells == 1, "nothing is known of one side"


def test_what_one_run_was_not_to_measure_is_no_difference(two: Any) -> None:
    a, b = two(
        [(cell(1), "ok", {"peak_bytes": 3}), (cell(2), "ok", {"peak_bytes": 4})],
        [(cell(1), "ok", {"peak_bytes": Missing(NOT_ASKED)}), (cell(2), "ok", {"peak_bytes": 5})],
    )
    for found in (compare.compare(a, b, ENV, ENV, RECORDS), compare.compare(b, a, ENV, ENV, RECORDS)):
        assert found.differences["cell"].tolist() == [cell(2).id]
        assert found.values == 1
        assert found.not_compared["peak_bytes"] == "in 1 cells: not asked for by one of the runs"


def test_cells_on_one_side_and_changed_statuses(two: Any) -> None:
    a, b = two(
        [(cell(1), "ok", VALUES), (cell(2), "ok", VALUES), (cell(3), "unsupported", {})],
        [(cell(2), "oom", {"peak_bytes": 1}), (cell(3), "unsupported", {}), (cell(4), "ok", VALUES)],
    )
    found = compare.compare(a, b, ENV, ENV, RECORDS)
    assert (found.only_a, found.only_b) == ((cell(1).id,), (cell(4).id,))
    (status,) = found.statuses.to_dict("records")
    assert status == {
        "cell": cell(2).id, "status_a": "ok", "status_b": "oom", "reason_a": None, "reason_b": "because",
    }  # fmt: skip
    assert (found.cells, found.values, len(found.differences)) == (1, 0, 0)
    assert not found.same
    assert found.summary()[2:5] == ["1 cells changed their status", "1 cells are in A only", "1 cells are in B only"]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["statuses"][0]["reason_a"] is None


def test_nothing_compared_is_not_the_same(two: Any) -> None:
    a, b = two([(cell(1), "skipped", {})], [(cell(1), "skipped", {})])
    assert not compare.compare(a, b, ENV, ENV, RECORDS).same
    empty = compare.compare(a.iloc[:0], b.iloc[:0], ENV, ENV, RECORDS)
    assert (empty.cells, empty.same) == (0, False)
    assert empty.summary()[-1].startswith("nothing was compared: ")


def test_another_torch_bars_what_depends_on_it(two: Any) -> None:
    a, b = two([(cell(1), "ok", VALUES)], [(cell(1), "ok", {**VALUES, "peak_bytes": 5, "label": "y", "f_calls": 9})])
    found = compare.compare(a, b, ENV, differing({"torch.version": "3"}), RECORDS)
    assert found.comparability["cpu"].level == "none"
    assert found.differences["metric"].tolist() == ["f_calls"]  # which depends on neither
    assert set(found.not_compared) == {"peak_bytes", "label"}
    assert found.not_compared["label"] == "on cpu: torch.version: 2 against 3"
    assert "not compared: label, peak_bytes: on cpu: torch.version: 2 against 3" in found.summary(), "a reason a line"


def test_another_machine_of_the_same_build_bars_nothing_deterministic(two: Any) -> None:
    a, b = two([(cell(1), "ok", VALUES)], [(cell(1), "ok", VALUES)])
    found = compare.compare(a, b, ENV, differing({"cpu.model": "d"}), RECORDS)
    assert (found.same, found.comparability["cpu"].level, found.values) == (True, "deterministic", 3)


def test_an_unknown_environment_compares_nothing(two: Any) -> None:
    a, b = two([(cell(1), "ok", VALUES)], [(cell(1), "ok", VALUES)])
    found = compare.compare(a, b, ENV, {}, RECORDS)
    assert (found.same, found.values) == (False, 0)
    assert "on cpu: an environment is unknown" in found.not_compared.values()


def test_each_device_has_its_own_rule(two: Any) -> None:
    rows = [(cell(1), "ok", VALUES), (cell(1, "cuda"), "ok", VALUES)]
    a, b = two(rows, rows)
    found = compare.compare(a, b, {**ENV, "gpus": [{"name": "H200"}]}, {**ENV, "gpus": [{"name": "A100"}]}, RECORDS)
    assert {device: rule.level for device, rule in found.comparability.items()} == {"cpu": "full", "cuda": "none"}
    assert found.values == 3  # of the CPU's cell
    assert set(found.not_compared) == {"peak_bytes", "label", "f_calls"}


def test_unknown_metrics_are_named(two: Any) -> None:
    a, b = two([(cell(1), "ok", {"old_metric": 1})], [(cell(1), "ok", {"f_calls": 1})])
    found = compare.compare(a, b, ENV, ENV, RECORDS)
    assert found.not_compared == {"old_metric": "this hograd has no metric of that name"}


def test_a_cell_twice_is_an_error(two: Any) -> None:
    a, b = two([(cell(1), "ok", VALUES)], [(cell(1), "ok", VALUES)])
    with pytest.raises(
        ValueError, match=r"rows_b: got several rows of .*n=1,.*; select it with rows\[rows.run == id\]"
    ):
        compare.compare(a, pd.concat([a, b]), ENV, ENV, RECORDS)


def test_the_real_records_serve(two: Any) -> None:
    here = environment.record()
    name = next(name for name, record in metrics().items() if record.deterministic)
    a, b = two([(cell(1), "ok", {name: 1})], [(cell(1), "ok", {name: 2})])
    assert compare.compare(a, b, here, here, metrics()).differences["metric"].tolist() == [name]
