"""What figures are beside their marks: names within the picture, runs told apart, a new one by one file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import report_fakes as fakes
from hograd_bench import store
from hograd_bench.report import figures, palette
from hograd_bench.report.data import report_data
from hograd_bench.report.figures import _contract, history
from hograd_bench.report.style import canvas, label_ends, style
from matplotlib.backends.backend_agg import FigureCanvasAgg


@pytest.mark.slow
def test_names_at_the_ends_of_lines_stay_within_the_picture() -> None:
    with style():
        figure, axes = canvas()
        axes.plot([0, 1], [0, 1])
        label_ends(axes, [("derivative vector products", 0.5, palette.ordinal(0)), ("a", 1.0, palette.ordinal(1))])
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        before = canvas()[1].get_position()
    drawn = [text.get_window_extent().x1 for text in axes.texts]
    assert len(drawn) == 2
    assert axes.get_position().x1 < before.x1
    assert max(drawn) < figure.bbox.x1


def test_runs_of_different_commits_are_named_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, commit in enumerate("abc"):
        run = f"2026020{number}T000000Z-aaaaaaaa"
        fakes.write(tmp_path, run, fakes.rows(run), source={"commit": commit * 40})
    kept: list[list[str]] = []
    monkeypatch.setattr(
        _contract, "svg", lambda figure, *_: kept.append([t.get_text() for t in figure.axes[0].get_xticklabels()])
    )
    with style():
        list(history.draw(report_data(store.load(tmp_path))))
    assert kept
    assert all(names == ["aaaaaaa", "bbbbbbb", "ccccccc"] for names in kept)


def test_a_new_figure_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hograd_bench import report

    (tmp_path / "cells_by_n.py").write_text(
        "from hograd_bench.report import style\n"
        "from hograd_bench.report.figures._contract import Drawn, panel\n"
        "from hograd_bench.report.palette import ordinal\n"
        "ORDER, TITLE, ABOUT = 15, 'A figure of mine', 'What it shows.'\n"
        "def draw(data):\n"
        "    figure, axes = style.canvas()\n"
        "    style.points(axes, [style.Series(data.ok, ordinal(0))], 'n', 'depth')\n"
        "    yield Drawn('mine-0', 'Depth against n', {}, [panel(figure, 'mine-0-0', 'in words')])\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    figures.figures.cache_clear()
    try:
        fakes.write(tmp_path / "results", "run", fakes.rows("run"))
        page = report.build(tmp_path / "results", tmp_path / "out").path.read_text(encoding="utf-8")
    finally:
        figures.figures.cache_clear()
        sys.modules.pop("hograd_bench.report.figures.cells_by_n", None)
    assert '<section id="cells_by_n">' in page
    assert "A figure of mine" in page
    mine = page[page.index('<figure id="mine-0"') :]
    assert mine[: mine.index("</figure>")].count('<a href="#c') == len(report_data(store.load(tmp_path / "results")).ok)
