"""The study of foretold sizes and of stability, on frames of known truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from frame_fakes import frame
from hograd_bench.cells import Cell
from studies.laws import __main__ as command
from studies.laws import prediction, sections


def rows(
    value: Callable[[int], float],
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128),
    metric: str = "peak_bytes",
    **same: Any,
) -> pd.DataFrame:
    made = frame([{"n": n, metric: value(n), **same} for n in sizes])
    fields = list(Cell.__dataclass_fields__)
    return made.assign(cell=[Cell(**{k: r[k] for k in fields}).id for r in made[fields].to_dict("records")])


def test_targets_are_four_and_eight_times_the_largest_size() -> None:
    (series,) = prediction.series_of(rows(lambda n: 4 * (n * n + 3)))
    assert series.law is not None
    assert [(c.n, told) for c, told in series.targets] == [(n, 4 * (n * n + 3)) for n in (512, 1024)]


def test_sizes_are_lowered_until_eight_times_fits_the_budget() -> None:
    (series,) = prediction.series_of(rows(lambda n: 4 * n * n, (8, 16, 32, 64, 128, 256)), budget=4 * 1024**2)
    assert [c.n for c, _ in series.targets] == [512, 1024]
    (none,) = prediction.series_of(rows(lambda n: 4 * n * n), budget=100)
    assert none.law is None
    assert none.why


def test_series_are_judged_with_their_reason() -> None:
    law, broken = (prediction.series_of(rows(lambda n: 4.0 * n, method=m))[0] for m in ("double_backward", "rows"))
    (single,) = prediction.series_of(rows(lambda n: 4.0 * n, (8,)))
    (unmeasured,) = prediction.series_of(rows(lambda n: 4.0 * n, method="jvp_of_grad"))
    peaks: dict[str, int | str] = {c.id: told for c, told in law.targets}
    peaks |= {c.id: told + (4 if c.n == 1024 else 0) for c, told in broken.targets}
    peaks |= {unmeasured.targets[0][0].id: "MemoryError"}
    found = prediction.judged([law, broken, single, unmeasured], peaks)
    assert [j.outcome for j in found] == ["exact", "missed", "no law", "not measured"]
    assert "4,100 B at n=1024, T=1, foretold 4,096 (+4)" in found[1].reason
    assert "MemoryError" in found[3].reason
    text = sections._bytes_table(found)
    assert "| exact | 1 | 5 | 31.2% |" in text
    assert "1 series (1 cells) have a single size" in text


@pytest.mark.slow
def test_times_are_foretold_from_the_sizes_below_alone() -> None:
    sizes = (64, 128, 256, 512, 1024, 2048, 4096)
    good = rows(lambda n: 1e-6 * n, sizes, "seconds_min")
    assert {(f.largest, f.factor) for f in prediction.forecasts(good)} == {(512, 4), (512, 8), (1024, 4)}
    assert all(f.covered for f in prediction.forecasts(good))
    jump = rows(lambda n: 1e-6 * n * (50 if n > 1024 else 1), sizes, "seconds_min")
    assert not any(f.covered for f in prediction.forecasts(jump))
    assert "| 4N, the same run | 2 | 2 | 100.0% |" in sections._times_table(good)
    assert [c.n for c in prediction.timed_targets(good)] == [8192]


def results(powers: list[int]) -> pd.DataFrame:
    """Runs in each of which the bytes of a product grow with another power of n."""
    sizes = (16, 256, 512, 1024, 1536, 2048)
    runs = [rows(lambda n, p=power: 4 * n**p, sizes, run=f"r{i}") for i, power in enumerate(powers)]  # type: ignore[misc]
    return pd.concat(runs, ignore_index=True)


@pytest.mark.parametrize(("powers", "flips"), [([1, 1, 1], 0), ([1, 2, 1], 1)])
def test_flips_between_runs_are_counted(
    powers: list[int], flips: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = results(powers)
    monkeypatch.setattr(sections.store, "load", lambda *a, **k: type("R", (), {"rows": table})())
    monkeypatch.setattr(sections.claims, "load", lambda: [c for c in CLAIMS if c.id == "C8"])
    text = sections.stability(tmp_path)
    counted = {
        line.split("|")[1].strip(): line.split("|")[5].strip() for line in text.splitlines() if line.count("|") == 6
    }
    assert counted["cases"] == str(flips)
    assert ("Cases that flip" in text) == bool(flips)


CLAIMS = sections.claims.load()


def test_peaks_are_kept_as_they_come_and_failures_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Cell("gradient", "autograd", "rosenbrock", 8, 1)
    path = tmp_path / "peaks.json"
    first = sections._peaks([good], path)
    assert isinstance(first[good.id], int)

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("cannot")

    monkeypatch.setattr(sections, "trace", refuse)
    other = Cell("gradient", "func", "rosenbrock", 8, 1)
    again = sections._peaks([good, other], path)
    assert again == {**first, other.id: "RuntimeError: cannot"} == json.loads(path.read_text(encoding="utf-8"))


def test_the_section_goes_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "laws.md"
    document.write_text("a\n<!-- study: synthetic -->\nold\n<!-- end of study: synthetic -->\nb\n", encoding="utf-8")
    monkeypatch.setattr(sections, "synthetic", lambda trials: f"{trials} trials")
    monkeypatch.setattr("sys.argv", ["laws", "synthetic", "--trials", "3", "--write", str(document)])
    command.main()
    assert document.read_text(encoding="utf-8") == (
        "a\n<!-- study: synthetic -->\n3 trials\n<!-- end of study: synthetic -->\nb\n"
    )
    monkeypatch.setattr("sys.argv", ["laws", "prediction"])
    with pytest.raises(SystemExit):
        command.main()
