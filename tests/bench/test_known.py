"""What was measured is left for auto in the form that hograd_core reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hograd_bench import advise as advising
from hograd_bench import known, schema, store
from hograd_bench.cells import Cell

import hograd_core
from hograd_core import auto


def rows() -> list[dict[str, object]]:
    metrics = {"seconds_min": 1e-4, "peak_bytes": 800, "allowed": True}
    cells = [Cell("derivative_tensor", m, "mine", 4) for m in ("rows", "batched_rows", "vmap_hvp", "functional")]
    return [
        schema.row(cells[0], "ok", metrics=metrics, numel=4),
        schema.row(cells[1], "wrong", "another value", metrics=metrics, numel=4),
        schema.row(cells[2], "ok", metrics={**metrics, "allowed": False}, numel=4),
        schema.row(cells[3], "ok", metrics={"peak_bytes": 800}, numel=4),
    ]


def test_only_what_is_right_and_timed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = store.frame_of(list(enumerate(rows())))
    monkeypatch.delenv(known.CACHE, raising=False)
    assert known.remember("a", frame) is None
    monkeypatch.setenv(known.CACHE, str(tmp_path / "new"))
    assert known.remember("a", frame, {"mine": "f0"}) == tmp_path / "new" / "a.json"
    (entry,) = auto.entries()
    assert entry == auto.Entry("f0", "derivative_tensor", 2, "rows", "float32", "cpu", 1, 4, 1e-4, 800)
    assert (known.CACHE, known.FORMAT) == (auto.CACHE, auto.FORMAT)
    assert known.entries(frame)[0]["function"] == "mine/4/1/1"


def test_the_load_of_a_moment_is_taken_out(tmp_path: Path) -> None:
    """Where a machine was three times as slow for one method, so was the gradient beside it."""

    def row(method: str, seconds: float, gradients: float | None, problem: str = "mine") -> dict[str, object]:
        metrics = {"seconds_min": seconds, "gradient_equivalents": gradients}
        missing = {} if gradients is not None else {"gradient_equivalents": "none"}
        cell = Cell("derivative_tensor", method, problem, 4)
        return schema.row(cell, "ok", numel=4, metrics=metrics, missing=missing)

    given = [
        row("rows", 4.0, 4.0),
        row("batched_rows", 9.0, 3.0),
        row("vmap_hvp", 5.0, None),
        row("rows", 7.0, 1.0, "b"),
    ]
    frame = store.frame_of(list(enumerate(given)))
    assert known.steady(frame).tolist() == [4.0, 3.0, 5.0, 7.0]
    assert [e["seconds"] for e in known.entries(frame)] == [4.0, 3.0, 5.0, 7.0]
    assert known.steady(frame.drop(columns="gradient_equivalents")).tolist() == [4.0, 9.0, 5.0, 7.0]


@pytest.mark.slow
def test_auto_takes_what_advice_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(known.CACHE, str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:

        def f(x: torch.Tensor) -> torch.Tensor:
            return (x**3).sum()

        x = torch.ones(4)
        found = advising.advise(f, x, operators=("gradient",), seconds=600)
        choice = hograd_core.explain("gradient", f, x)
    finally:
        torch.set_num_threads(threads)
    assert choice.source == "this function"
    eager = [r for r in found.rankings[0].ranked if r.status == "ok" and r.preparation == "eager"]
    fastest = min(eager, key=lambda r: r.seconds)  # auto chooses among methods, which a call makes without preparing
    assert choice.method == fastest.method
