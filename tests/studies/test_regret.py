"""Regret of auto's choices: from frames alone, held out, ties counted as none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hograd_bench import schema, store
from hograd_bench.cells import Cell
from studies import regret
from studies.regret import _now


def rows(problem: str, run: str, n: int = 8, iqr: float = 0.0, **seconds: float) -> list[dict[str, Any]]:
    return [
        schema.row(
            Cell("derivative_tensor", method, problem, n), "ok", numel=n, run=run,
            metrics={"seconds_min": time, "seconds_iqr": iqr, "peak_bytes": 1},
        )
        for method, time in seconds.items()
    ]  # fmt: skip


def found(*series: list[dict[str, Any]]) -> dict[tuple[str, str], regret.Regret]:
    frames = [store.frame_of(list(enumerate(each))) for each in series]
    import pandas as pd

    frame = pd.concat(frames, ignore_index=True).assign(machine="m")
    return {(r.mode, str(r.where[2])): r for r in regret.regrets(frame)}


def test_each_mode_by_hand() -> None:
    first = rows("a", "1", rows=4.0, batched_rows=2.0, vmap_hvp=1.0)
    second = rows("b", "1", rows=3.0, batched_rows=1.0, vmap_hvp=2.0)
    again = rows("a", "2", rows=4.0, batched_rows=2.0, vmap_hvp=1.0)
    judged = found(first, second, again)
    assert judged["rule", "a"].ratio == 2.0
    assert judged["rule", "b"].ratio == 1.0
    assert judged["cache, others", "a"].chosen == "batched_rows"  # b says so
    assert judged["cache, others", "b"].chosen == "vmap_hvp"  # a says so, and is wrong about b
    assert judged["cache, others", "b"].ratio == 2.0
    assert judged["cache, itself", "a"].ratio == judged["probe", "a"].ratio == 1.0
    assert ("probe", "b") not in judged


def test_a_tie_is_no_regret() -> None:
    assert found(rows("a", "1", batched_rows=1.2, vmap_hvp=1.0))["rule", "a"].ratio == pytest.approx(1.2)
    assert found(rows("a", "1", iqr=0.3, batched_rows=1.2, vmap_hvp=1.0))["rule", "a"].ratio == 1.0


def test_a_busy_moment_is_no_regret() -> None:
    slow = rows("a", "1", batched_rows=3.0, vmap_hvp=1.1)
    for row, gradients in zip(slow, (1.0, 1.1), strict=True):
        row["metrics"]["gradient_equivalents"] = gradients
    assert found(slow)["rule", "a"].ratio == 1.0


def test_the_summary_names_the_worst() -> None:
    judged = list(
        found(rows("a", "1", batched_rows=1.0, rows=2.0), rows("b", "1", batched_rows=9.0, rows=1.0)).values()
    )
    (line, *_) = regret.summary(judged)
    assert line[:2] == ("rule", 2)
    assert line[4] == 9.0
    assert line[5] == "derivative_tensor 2 b 8 1 1: batched_rows, not rows"


def test_a_probe_of_now_is_judged_by_what_was_measured() -> None:
    series = rows("a", "1", batched_rows=2.0, vmap_hvp=1.0)
    frame = store.frame_of(list(enumerate(series))).assign(machine="m")
    asked = []

    def probed(place: Any) -> str:
        asked.append((place["operator"], place["problem"], place["n"]))
        return "batched_rows"

    judged = {r.mode: r for r in regret.regrets(frame, probed)}
    assert asked == [("derivative_tensor", "a", 8)]
    assert judged["probe, now"].ratio == 2.0
    assert "probe, now" not in {r.mode for r in regret.regrets(frame, lambda place: "rows")}  # which nobody measured


@pytest.mark.slow
def test_a_function_as_its_user_wrote_it_is_probed_and_judged(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(x):\n    return (x[1:] * x[:-1]).square().sum()\n", encoding="utf-8")
    ((frame, probed),) = _now.advised(tmp_path / "mine.py", 1, 60)
    assert set(frame["problem"]) == {"mine"}
    judged = [r for r in regret.regrets(frame, probed) if r.mode == "probe, now"]
    assert judged
    assert {r.where[2] for r in judged} == {"mine"}
