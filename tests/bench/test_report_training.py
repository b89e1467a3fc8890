"""The report's section on training steps: ratios, picks, links, and nothing where nothing was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import report_fakes as fakes
from hograd_bench import report, schema, store
from hograd_bench.cells import Cell
from hograd_bench.report import training
from hograd_bench.report.data import ReportData, report_data

RUN = "20260101T000000Z-aaaaaaaa"
# method -> plain steps, bytes over the plain step's, tolerance, deviation
WAYS = {
    "plain": (1.0, 1.0, 1e12, 0.4),
    "quick": (2.5, 3.0, 1e-4, 1e-6),
    "small": (4.0, 1.5, 1e-4, 1e-6),
    "rough": (1.5, 1.0, 1e12, 0.2),
}


def row(operator: str, problem: str, method: str, batch: int, drift: float = 1.0, **more: Any) -> dict[str, Any]:
    steps, bytes_, tolerance, deviation = WAYS[method]
    values = {
        "seconds_min": drift * 1e-3 * batch * steps, "gradient_equivalents": 1.1 * steps,
        "peak_bytes": int(1000 * batch * bytes_), "tolerance": tolerance, "deviation": deviation,
        "relative_error": deviation,
    }  # fmt: skip
    cell = Cell(operator, method, problem, 4, 2, 1, batch, **more)
    return schema.row(
        cell, status="ok", reason="", metrics=values, missing={}, numel=4, started="2026-01-02T03:04:05+00:00",
        wall_seconds=0.1, details={}, run=RUN,
    )  # fmt: skip


def rows(methods: Sequence[str] = tuple(WAYS), batches: Sequence[int] = (4, 8, 16, 32)) -> list[dict[str, Any]]:
    made = []
    for operator, problem in (("critic_training_step", "critic_loss"), ("odd_training_step", fakes.EVIL)):
        # The machine was twice as slow when the other methods were timed: their gradients were too.
        made += [row(operator, problem, m, b, 1.0 if m == "plain" else 2.0) for m in methods for b in batches]
    return made


def seen(tmp_path: Path, made: list[dict[str, Any]]) -> ReportData:
    fakes.write(tmp_path / "results", RUN, made)
    return report_data(store.load(tmp_path / "results"))


def test_ratios_and_picks(tmp_path: Path) -> None:
    critic, odd = training.workloads(seen(tmp_path, rows()))
    assert (critic.name, critic.problem) == ("WGAN critic", "critic_loss")
    assert odd.name == "odd", "a step that the page has no words for goes by its own name"
    assert [p.sizes for p in critic.points] == [f"n = 4, B = {b}" for b in (4, 8, 16, 32)]
    point = critic.points[-1]
    assert point.pick is not None
    assert point.smallest is not None
    assert point.approximation is not None
    assert (point.pick.method, point.smallest.method, point.approximation.method) == ("quick", "small", "rough")
    assert point.pick.steps == pytest.approx(2.5), "drift of the machine cancels"
    assert point.pick.growth == pytest.approx(3.0)
    assert point.approximation.deviation == pytest.approx(0.2)
    assert point.plain.steps == 1
    assert [w.method for w in point.ways] == ["rough", "quick", "small"]


def test_without_an_exact_method_none_is_recommended(tmp_path: Path) -> None:
    # All tolerances are the same: the tightest there is counts as exact, since nothing says otherwise.
    made = rows(("plain", "rough"), (4,))
    (critic, _) = training.workloads(seen(tmp_path, made))
    assert critic.points[0].pick is not None
    made = [row("critic_training_step", "critic_loss", m, 4) for m in ("plain", "quick", "rough")]
    (critic,) = training.workloads(seen(tmp_path / "b", made))
    assert [w.exact for w in critic.points[0].ways] == [False, True]


def test_a_step_without_its_plain_one_or_without_any_other_is_left_out(tmp_path: Path) -> None:
    assert training.workloads(seen(tmp_path, rows(("quick", "small")))) == []
    assert training.workloads(seen(tmp_path / "b", rows(("plain",)))) == []
    assert training.workloads(seen(tmp_path / "c", fakes.rows(RUN))) == []
    assert list(training.pictures(seen(tmp_path / "d", fakes.rows(RUN)))) == []


@pytest.mark.slow
def test_an_approximation_that_is_no_faster_is_not_offered_and_noise_is_marked(tmp_path: Path) -> None:
    made = [row("critic_training_step", "critic_loss", m, 4) for m in ("plain", "quick", "rough")]
    made[-1]["metrics"].update(seconds_min=1.0, gradient_equivalents=9.0, noisy=True)
    (critic,) = training.workloads(seen(tmp_path, made))
    assert critic.points[0].approximation is None
    assert [w.noisy for w in critic.points[0].ways] == [False, True]
    page = report.build(tmp_path / "results", tmp_path / "reports").path.read_text(encoding="utf-8")
    assert "none faster" in page
    assert re.search(r"≈ 8\.18×", page)


def test_a_ratio_that_the_seconds_contradict_is_marked(tmp_path: Path) -> None:
    made = [row("critic_training_step", "critic_loss", m, 4) for m in ("plain", "quick", "rough")]
    made[1]["metrics"]["seconds_min"] *= 1.5
    (critic,) = training.workloads(seen(tmp_path, made))
    assert {w.method: w.noisy for w in critic.points[0].ways} == {"quick": True, "rough": False}


def test_settings_are_not_mixed(tmp_path: Path) -> None:
    made = [row("critic_training_step", "critic_loss", m, 4) for m in ("plain", "quick")]
    made += [row("critic_training_step", "critic_loss", m, 4, 3.0, threads=2) for m in ("plain", "quick")]
    one, two = training.workloads(seen(tmp_path, made))
    assert (one.setting, two.setting) == ("1 thread", "2 threads")
    assert one.points[0].pick is not None
    assert one.points[0].pick.steps == pytest.approx(2.5)


@pytest.mark.slow
def test_a_missing_peak_is_a_dash_and_not_a_number(tmp_path: Path) -> None:
    made = [row("critic_training_step", "critic_loss", m, 4) for m in ("plain", "quick")]
    for r in made:
        del r["metrics"]["peak_bytes"]
        r["metrics"]["peak_bytes"] = None
        r["missing"]["peak_bytes"] = "not asked for"
    (critic,) = training.workloads(seen(tmp_path, made))
    assert math.isnan(critic.points[0].plain.peak)
    assert critic.points[0].smallest is None
    page = report.build(tmp_path / "results", tmp_path / "reports").path.read_text(encoding="utf-8")
    start = page.index('<section id="training">')
    section = page[start : page.index("</section>", start)]
    assert ">–<" in section
    assert ">nan" not in section


@pytest.mark.slow
def test_the_page_has_the_section_with_links_and_figures(tmp_path: Path) -> None:
    fakes.write(tmp_path / "results", RUN, rows())
    page = report.build(tmp_path / "results", tmp_path / "reports").path.read_text(encoding="utf-8")
    start = page.index('<section id="training">')
    section = page[start : page.index("</section>", start)]
    assert 'href="#training"' in page[:start], "the contents lead there"
    assert re.search(r'<a href="#c\d+">2\.5×</a>', section)
    assert "off by 20 %" in section
    assert section.count("<figure") == 2
    assert fakes.EVIL not in section, "hostile names are escaped"
    targets = set(re.findall(r'href="#(c\d+)"', section))
    assert targets <= set(re.findall(r'id="(c\d+)"', page))


@pytest.mark.slow
def test_the_summary_has_a_line_a_workload(tmp_path: Path) -> None:
    fakes.write(tmp_path / "results", RUN, rows())
    report.build(tmp_path / "results", tmp_path / "reports", markdown=tmp_path / "job.md")
    said = (tmp_path / "job.md").read_text(encoding="utf-8")
    assert "WGAN critic: the gradient penalty, critic\\_loss, n = 4, B = 32 | 32 ms | quick | 2.5× | 3×" in said
    assert "<" not in said


@pytest.mark.slow
def test_no_section_where_nothing_was_measured(tmp_path: Path) -> None:
    fakes.write(tmp_path / "results", RUN, fakes.rows(RUN))
    page = report.build(tmp_path / "results", tmp_path / "reports").path.read_text(encoding="utf-8")
    assert "In a training step" not in page
