"""What figures plot: every marker, bar and line lies where the frame says, in data coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_fakes as fakes
import seaborn
from hograd_bench import claims, laws, store, units
from hograd_bench.report import advice, figures, history
from hograd_bench.report.data import ReportData, positive, report_data
from hograd_bench.report.figures import _contract
from hograd_bench.report.style import style
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
Row = dict[str, Any]
Column = Callable[[Row], float]


def of(name: str) -> Column:
    return lambda row: float(row[name])


TITLED = {  # a panel's title -> what stands at its side
    "Time of a call": of("seconds_min"), "Peak bytes": of("peak_bytes"),
    "Time in gradients": of("gradient_equivalents"), "Time of the fastest method": of("seconds_min"),
    "Energy of a call": of("gpu_joules_per_call"), "Peak bytes by order": of("peak_bytes"),
    "Cost in plain steps": of("steps"), "Operations a second": lambda r: r["flops"] / r["seconds_min"],
}  # fmt: skip


def operations(row: Row) -> float:
    return float(row["flops"]) / float(claims.operations_of(row["problem"], row["n"], row["depth"], row["batch"]) or 1)


AXES: dict[str, tuple[Column | None, Column | None]] = {  # figure -> x, y; None: a place, or what the title says
    "dimension": (of("n"), None), "length": (of("depth"), None), "orders": (of("order"), None),
    "batch": (of("batch"), None), "threads": (of("threads"), None), "devices": (None, None),
    "pareto": (of("peak_bytes"), of("seconds_min")), "gradients": (of("gradient_equivalents"), None),
    "accuracy": (lambda r: max(float(r["relative_error"]), 1e-18), None), "bounds": (operations, None),
    "roofline": (lambda r: r["flops"] / r["moved_bytes"], None),
    "noise": (lambda r: math.log10(r["seconds_min"]), None),
}  # fmt: skip
WAYS = {"accuracy", "gradients"}
"""Figures whose strips are methods with their preparations."""
UNLINKED = {"commits", "composition", "history", "problems"}
"""Whose marks are no markers of rows: tests of their own."""


def add_devices(base: Path) -> None:
    for machine, (name, speed) in fakes.GPUS.items():
        run = f"run-{machine[-4:]}"
        fakes.write(base, run, fakes.gpu_rows(run, speed), machine, gpus=[{"name": name}])


@pytest.fixture(
    scope="module", params=["fakes", *(pytest.param(p, marks=pytest.mark.slow) for p in ("devices", "reference"))]
)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """What a page shows, each row with an anchor."""
    base = REFERENCE
    if request.param != "reference":
        base = tmp_path_factory.mktemp("plots")
        fakes.write(base, "run-1", fakes.rows("run-1"))
        fakes.write(base, "run-2", fakes.rows("run-2", extra=64))
    if request.param == "devices":
        add_devices(base)
    found = report_data(store.load(base))
    return replace(found, rows=found.rows.assign(anchor=[f"c{i}" for i in range(len(found.rows))]))


def drawn(source: ReportData, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[tuple[str, Axes]]:
    """(Name of a panel, its axes) of the figures of these names, or of all."""
    kept: list[tuple[str, Axes]] = []

    def keep(figure: Any, name: str, alt: str) -> str:
        kept.append((name, figure.axes[0]))
        return f"<p>{alt}</p>"

    monkeypatch.setattr(_contract, "svg", keep)
    with style():
        for module in figures.figures():
            if not names or module.__name__.rpartition(".")[2] in names:
                list(module.draw(source))
    return kept


def marks(axes: Axes) -> Iterator[tuple[str, float, float]]:
    """(Anchor, x, y) of the markers that lead to evidence."""
    for found in axes.collections:
        urls = found.get_urls()
        if isinstance(found, PathCollection) and any(urls):
            places = np.ma.filled(found.get_offsets(), np.nan)
            assert len(urls) == len(places), "a marker a row"
            for url, (x, y) in zip(urls, places, strict=True):
                yield url[1:], float(x), float(y)


def check_marks(source: ReportData, panels: list[tuple[str, Axes]]) -> int:
    """Compare all marks with the frame; how many there were."""
    rows = {row["anchor"]: row for row in source.rows.to_dict("records")}
    count = 0
    for name, axes in panels:
        figure = name.split("-")[0]
        if figure in UNLINKED:
            continue
        x_of, y_of = AXES[figure]  # a new figure says here what it plots
        y_of = y_of or TITLED.get(axes.get_title(loc="left"))
        found = list(marks(axes))
        assert found, name
        for anchor, x, y in found:
            count += 1
            if x_of is not None:
                assert x == pytest.approx(x_of(rows[anchor]), rel=1e-12), (name, rows[anchor]["cell"])
            if y_of is not None:
                assert y == pytest.approx(y_of(rows[anchor]), rel=1e-12), (name, rows[anchor]["cell"])
            else:  # a strip: its name stands there
                strips = axes.get_yticklabels()
                row = rows[anchor]
                told = advice.way(row["method"], row["preparation"]) if figure in WAYS else row["method"]
                told = row["problem"] if figure == "bounds" else told
                assert strips[round(y)].get_text()[:23] == told[:23], name
                assert abs(y - round(y)) < 0.3, name
    return count


def check_lines(source: ReportData, panels: list[tuple[str, Axes]]) -> int:
    """Lines of the figures of growth: dotted ones join markers, solid ones are the laws of some method's markers."""
    rows = source.rows.set_index("anchor")
    count = 0
    for name, axes in panels:
        figure = name.split("-")[0]
        variable = {"dimension": "n", "length": "depth", "orders": "order", "batch": "batch"}.get(figure)
        metric = {"Time of a call": "seconds_min", "Time in gradients": "gradient_equivalents"}.get(
            axes.get_title(loc="left"), "peak_bytes"
        )
        if variable is None:
            continue
        for found, points in zip(axes.lines, axes.collections, strict=True):
            count += 1
            cells = rows.loc[[url[1:] for url in points.get_urls()]]
            x, y = (np.asarray(v, dtype=float) for v in found.get_data())
            if found.get_linestyle() != "-":
                told = cells[[variable, metric]].astype(float).sort_values([variable, metric]).to_numpy()
                assert np.column_stack([x, y]) == pytest.approx(told), name
                continue
            law = laws.law_of(positive(cells, metric), metric, [variable])
            for at, value in zip(x, y, strict=True):
                told = (
                    law.overhead + law.coefficient * at**law.exponent if isinstance(law, laws.FittedLaw)
                    else sum(float(c) * at ** e[law.polynomial.variables.index(variable)]
                             for e, c in law.polynomial.terms.items())
                )  # fmt: skip
                assert value == pytest.approx(told, rel=1e-9), name
    return count


def check_all(source: ReportData, panels: list[tuple[str, Axes]]) -> None:
    assert check_marks(source, panels) > 100
    assert check_lines(source, panels) > 10


@pytest.mark.slow
def test_every_marker_lies_where_its_row_says(source: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    check_all(source, drawn(source, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("axis", [pytest.param("x", marks=pytest.mark.slow), "y"])
@pytest.mark.parametrize("which", ["scatterplot", "plot", "stripplot"])
def test_a_planted_factor_is_found(which: str, axis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.write(tmp_path, "run", fakes.rows("run"))
    found = report_data(store.load(tmp_path))
    if which == "plot":
        plot = Axes.plot
        factor = {"x": (3.7, 1), "y": (1, 3.7)}[axis]
        monkeypatch.setattr(Axes, "plot", lambda self, x, y, **k: plot(self, factor[0] * x, factor[1] * y, **k))
    else:
        monkeypatch.setattr(seaborn, which, moving(which, axis))
    panels = drawn(found, monkeypatch, "dimension", "gradients", "accuracy")
    with pytest.raises(AssertionError):
        check_all(found, panels)


def moving(which: str, axis: str) -> Callable[..., Any]:
    """A function of seaborn that plots each row at 3.7 times its place."""
    whole = getattr(seaborn, which)

    def wrong(data: pd.DataFrame, **given: Any) -> Any:
        moved = data.assign(**{given[axis]: data[given[axis]] * 3.7})
        if which == "stripplot" and axis == "y":  # strips are places: another's
            moved = data.assign(place=data["place"].max() - data["place"])
        return whole(data=moved, **given)

    return wrong


@pytest.mark.slow
def test_lines_between_devices_join_their_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.write(tmp_path, "cpu", fakes.rows("cpu"))
    add_devices(tmp_path)
    panels = drawn(report_data(store.load(tmp_path)), monkeypatch, "devices")
    assert panels
    for name, axes in panels:
        for line, points in zip(axes.lines, axes.collections, strict=True):
            assert np.column_stack(line.get_data()) == pytest.approx(np.ma.filled(points.get_offsets())), name


@pytest.mark.slow
def test_squares_of_the_map_are_speeds(source: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = source.rows.set_index("anchor")
    panels = drawn(source, monkeypatch, "problems")
    assert panels
    for name, axes in panels:
        squares = np.asarray(axes.collections[0].get_array())
        methods, problems = ([t.get_text() for t in side] for side in (axes.get_yticklabels(), axes.get_xticklabels()))
        linked = [told for told in axes.texts if told.get_url()]
        assert len(linked) == np.isfinite(np.ma.filled(squares, np.nan)).sum() > 3, name
        for told in linked:
            row = rows.loc[told.get_url()[1:]]
            x, y = (int(at) for at in told.get_position())
            assert row["method"].startswith(methods[y].split(",")[0].rstrip("…")), name
            assert row["problem"].startswith(problems[x].rstrip("…")) or "<" in row["problem"], name
            like = ["operator", "problem", "order", "n", "depth", "batch", "dtype", "device", "threads", "machine"]
            same = rows[(rows[like] == row[like]).all(axis=1) & (rows["method"] == "double_backward")]
            same = same[same["preparation"] == "eager"]
            if len(same):
                speed = same["seconds_min"].iloc[0] / row["seconds_min"]
                assert told.get_text() == units.figures(speed), name
                assert squares[y, x] == pytest.approx(np.clip(np.log2(speed), -3, 3)), name


def test_violins_span_their_rounds(source: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extent of each method's density is that of the logarithms of its rounds."""
    rows = source.rows.set_index("anchor")
    panels = drawn(source, monkeypatch, "noise")
    assert panels
    for name, axes in panels:
        (points,) = [c for c in axes.collections if isinstance(c, PathCollection)]
        for url, (_, place) in zip(points.get_urls(), np.asarray(points.get_offsets()), strict=True):
            rounds = np.log10(rows.loc[url[1:], "details"]["samples_seconds"])
            extents = [
                (path.vertices[:, 0].min(), path.vertices[:, 0].max())
                for violin in axes.collections if not isinstance(violin, PathCollection)
                for path in violin.get_paths() if abs(path.vertices[:, 1].mean() - place) < 0.4
            ]  # fmt: skip
            assert any(found == pytest.approx((rounds.min(), rounds.max()), rel=1e-6) for found in extents), name


@pytest.mark.slow
def test_bars_of_the_composition_are_its_shares(source: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = source.rows.set_index("anchor")
    panels = drawn(source, monkeypatch, "composition")
    assert panels
    for name, axes in panels:
        by = "phase" if name.endswith("-0") else "op"
        for place, label in enumerate(axes.get_yticklabels()):
            blocks = pd.DataFrame(rows.loc[label.get_url()[1:], "details"]["peak_attribution"])
            blocks = blocks[blocks["bytes"] > 0]
            shares = 100 * blocks.groupby(by)["bytes"].sum() / blocks["bytes"].sum()
            bars = [b for b in axes.patches if round(b.get_y() + b.get_height() / 2) == place and b.get_width() > 0]
            assert sum(b.get_width() for b in bars) == pytest.approx(100), name
            assert max(b.get_width() for b in bars) == pytest.approx(shares.max()) or len(shares) > 6, name
            bars.sort(key=lambda b: b.get_x())
            ends = [b.get_x() + b.get_width() for b in bars]
            assert [b.get_x() for b in bars] == pytest.approx([0.0, *ends[:-1]]), "side by side"


def test_the_history_is_the_chained_mean_ratio(source: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    paired = history.steps(source.everything)
    for name, axes in drawn(source, monkeypatch, "history"):
        metric = "peak_bytes" if axes.get_title(loc="left").startswith("Peak") else "gradient_equivalents"
        mine = paired[(paired[metric] > 0) & (paired[f"was_{metric}"] > 0)]
        machines = [
            [
                np.exp(np.log(cells[metric] / cells[f"was_{metric}"]).groupby(cells["run"]).mean().sum())
                for _, cells in part.groupby("operator")
            ]
            for _, part in mine.groupby("machine")
        ]
        ends = sorted(float(line.get_ydata()[-1]) for line in axes.lines if len(line.get_ydata()) and
                      line.get_linestyle() == "-")  # fmt: skip
        assert any(ends == pytest.approx(sorted(m)) for m in machines), name
