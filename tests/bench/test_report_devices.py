"""The report of a CPU and two GPU machines: devices stand side by side wherever methods do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import report_fakes as fakes
from hograd_bench import claims, report, store
from hograd_bench.report import advice, run_diff
from hograd_bench.report.cells import anchors_of
from hograd_bench.report.data import report_data
from hograd_bench.report.figures import devices
from hograd_bench.report.verdicts import views


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a CPU and one on each GPU."""
    base = tmp_path_factory.mktemp("devices")
    fakes.write(base, "cpu-run", fakes.rows("cpu-run"))
    for machine, (name, speed) in fakes.GPUS.items():
        run = f"run-{machine[-4:]}"
        fakes.write(base, run, fakes.gpu_rows(run, speed), machine, gpus=[{"name": name}])
    return base


@pytest.fixture(scope="module")
def page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report's HTML."""
    return report.build(results, tmp_path_factory.mktemp("out")).path.read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    """One section's HTML."""
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found is not None, name
    return found[0]


@pytest.mark.slow
def test_figures_name_every_device_and_compare_time_bytes_and_energy(page: str) -> None:
    figure = re.search(r'<figure id="devices-0.*?</figure>', section(page, "devices"), re.DOTALL)
    assert figure is not None
    for wanted in ("Test CPU", "NVIDIA H100", "NVIDIA L4", "Time of the fastest method", "Time of a call", "Peak bytes",
                   "Energy of a call"):  # fmt: skip
        assert wanted in figure[0], wanted
    assert len(re.findall(r'<a href="#c\d+"', figure[0])) > 20


@pytest.mark.slow
def test_the_line_of_each_device_is_its_fastest_method(results: Path) -> None:
    what = report_data(store.load(results))
    drawn = next(d for d in devices.draw(what) if d.title.startswith("Hessian-vector product"))
    fastest = re.search(r'<p class="hide">(Time of each device.*?)</p>', drawn.panels[0])
    assert fastest is not None
    named = re.findall(r"by (\w+) at", fastest[1])
    assert named == ["double_backward"] * 6, "at both ends of three lines: the fakes make it the fastest everywhere"


def test_two_machines_of_one_model_are_told_apart(tmp_path: Path) -> None:
    for machine in fakes.GPUS:
        run = f"run-{machine[-4:]}"
        fakes.write(tmp_path, run, fakes.gpu_rows(run, 8), machine, gpus=[{"name": "Same GPU"}])
    what = report_data(store.load(tmp_path))
    assert set(devices.places(what, what.rows)) == {"Same GPU aaaaaa", "Same GPU bbbbbb"}


@pytest.mark.slow
def test_advice_is_given_for_each_device_of_each_machine(results: Path, page: str) -> None:
    needs = advice.advise(report_data(store.load(results)).ok)
    places = {"cpu of test-machine-0123456789", "cuda of gpu-machine-aaaaaaaaaa", "cuda of gpu-machine-bbbbbbbbbb"}
    assert {n.device for n in needs} == places
    points = {n.device: max(p.points for s in n.situations for p in s.picks) for n in needs}
    assert len(set(points.values())) == 1, "each speaks for itself"
    assert "You need one Hessian-vector product (any k: Dᵏf·v⋯v), on cuda of gpu-machine-aaaaaaaaaa" in section(
        page, "advice"
    )


@pytest.mark.slow
def test_verdicts_judge_devices_as_cases_of_their_own(page: str) -> None:
    answers = section(page, "answers")
    assert "device cuda" in answers
    assert "device cpu" in answers


def test_table_and_evidence_show_the_device_and_its_metrics(page: str) -> None:
    table = section(page, "cells")
    assert ">cuda" in table
    assert ">cpu" in table
    assert "gpu-machine-bbbbbbbbbb" in table
    evidence = page[page.index('<aside id="evidence"') :]
    for wanted in ("cuda_warm_seconds_min", "cuda_peak_requested_bytes", "gpu_joules_per_call", "gpu_throttling"):
        assert f"{wanted}\t" in evidence, wanted
    assert "gpu_celsius: NVML does not report a temperature" in evidence


@pytest.mark.slow
def test_the_evidence_of_a_verdict_is_of_the_machine_it_speaks_about(tmp_path: Path) -> None:
    """Two machines measured the same cells, one with three times the bytes: each case links to its own rows."""
    for machine, factor in (("aaa", 1), ("zzz", 3)):
        made = fakes.rows(f"run-{machine}")
        for row in made:
            if isinstance(row["metrics"].get("peak_bytes"), int):
                row["metrics"]["peak_bytes"] *= factor
        fakes.write(tmp_path, f"run-{machine}", made, machine)
    loaded = store.load(tmp_path)
    verdicts = claims.adjudicate(store.newest(loaded.rows))
    cited = {cell for v in verdicts for p in v.parts for f in p.findings for cell in f.cells}
    what = report_data(loaded, first=cited)
    machine_of = dict(zip(what.rows["anchor"], what.rows["machine"], strict=True))
    checked = 0
    for view in views(verdicts, anchors_of(what.rows)):
        for finding in (f for p in view["parts"] for f in p["findings"]):
            for machine in ("aaa", "zzz"):
                if f"machine {machine}" in finding["name"]:
                    links = [anchor for anchor, _ in finding["links"]] + [finding["worst_link"]]
                    assert {machine_of[anchor] for anchor in links if anchor} == {machine}
                    checked += 1
    assert checked >= 4


def test_news_of_a_machine_link_to_its_own_rows(tmp_path: Path) -> None:
    for machine in ("aaa", "zzz"):
        for run, extra in (("r1", 0), ("r2", 64)):
            fakes.write(tmp_path, run, fakes.rows(run, extra=extra), machine)
    what = report_data(store.load(tmp_path))
    machine_of = dict(zip(what.rows["anchor"], what.rows["machine"], strict=True))
    told = {n.machine: {machine_of[c[0]] for c in n.changes} for n in run_diff.run_diffs(what, anchors_of(what.rows))}
    assert told == {"aaa": {"aaa"}, "zzz": {"zzz"}}


def test_news_are_told_against_a_run_of_the_same_cells(tmp_path: Path) -> None:
    part_of = {row["cell"]: i % 3 for i, row in enumerate(fakes.rows("r"))}
    first = next(cell for cell, part in part_of.items() if part == 0)  # one of r2, too
    for run, part in (("r1", 0), ("r2", 1), ("r3", 0)):
        made = [r for r in fakes.rows(run) if part_of[r["cell"]] == part or (run == "r2" and r["cell"] == first)]
        fakes.write(tmp_path, run, made, "aaa")
    what = report_data(store.load(tmp_path))
    (news,) = run_diff.run_diffs(what, anchors_of(what.rows))
    assert (news.before, news.after) == ("r1", "r3")
    assert news.comparison.cells == sum(part == 0 for part in part_of.values())
    fakes.write(tmp_path, "r4", [r for r in fakes.rows("r4") if part_of[r["cell"]] == 0], "aaa")
    what = report_data(store.load(tmp_path))
    (news,) = run_diff.run_diffs(what, anchors_of(what.rows))
    assert (news.before, news.after) == ("r3", "r4"), "of runs that share as many cells the later"
    fakes.write(tmp_path, "r5", [r for r in fakes.rows("r5") if part_of[r["cell"]] == 2], "aaa")
    what = report_data(store.load(tmp_path))
    assert run_diff.run_diffs(what, anchors_of(what.rows)) == []
