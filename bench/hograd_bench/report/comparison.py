"""Two runs side by side, as a page of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench import compare as comparing
from hograd_bench import makeup, store, units
from hograd_bench.compare import Comparison
from hograd_bench.environment import Environment, MetricRecord
from hograd_bench.report import flame, page, run_diff, text
from hograd_bench.report.cells import command
from hograd_bench.report.data import report_data
from hograd_bench.report.figures import Drawn
from hograd_bench.report.figures._contract import panel
from hograd_bench.report.history import fact
from hograd_bench.report.palette import Palette

MOST_DIFFERENCES = 500
_FACTS = (  # label, section of the environment, key
    ("recorded", "", "recorded"),
    ("commit", "source", "commit"),
    ("torch", "torch", "version"),
    ("CPU", "cpu", "model"),
    ("instruction set", "torch", "capability"),
    ("Python", "python", "version"),
    ("kernel", "system", "kernel"),
)
_PANELS = (("gradient_equivalents", "Time in gradients"), ("peak_bytes", "Peak bytes"))


def render(
    a: store.Results, b: store.Results, name_a: str, name_b: str, records: Mapping[str, MetricRecord] | None = None
) -> str:
    """The page that compares run ``name_b`` with run ``name_a``.

    Args:
        a: one run, from ``store.load``.
        b: another.
        name_a: its id.
        name_b: its id.
        records: metric records; None: those installed, and those that came with the runs.
    """
    known = {**report_data(b, records).records, **report_data(a, records).records}
    env_a, env_b = (next(iter(r.environments.values()), {}) for r in (a, b))
    result = comparing.compare(a.rows, b.rows, env_a, env_b, known)
    differences = run_diff.changes(result, {}, MOST_DIFFERENCES)
    return page.template("compare.html.j2").render(
        **page.assets(),
        title=f"hograd: {name_b} against {name_a}",
        a=name_a, b=name_b, result=result, note=comparing.TIME_NOTE.replace("`", ""), changed=comparing.CHANGED,
        facts=_facts(env_a, env_b),
        by_metric=by_metric(result),
        differences=[(command(d[1]), *d[1:]) for d in differences],
        cut=max(0, len(result.differences) - len(differences)),
        statuses=[(command(s[1]), *s[1:]) for s in run_diff.statuses(result, {}, MOST_DIFFERENCES)],
        only_a=result.only_a[:200], only_b=result.only_b[:200],
        picture=picture(a.rows, b.rows), made_of=made_of(result, a.rows, b.rows),
    )  # fmt: skip


def _facts(a: Environment, b: Environment) -> list[tuple[str, str, str, bool]]:
    """What each run was made with, and whether that is a difference; two runs always differ in when."""
    found = [(label, key, _fact(a, section, key), _fact(b, section, key)) for label, section, key in _FACTS]
    return [(label, x, y, x != y and key != "recorded") for label, key, x, y in found]


def made_of(result: Comparison, a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any] | None:
    """What the figures that changed most are made of in both runs, drawn."""
    if "details" not in a or "details" not in b:
        return None
    was, now = (dict(zip(rows["cell"], rows["details"], strict=True)) for rows in (a, b))
    cells = list(dict.fromkeys(result.differences["cell"]))[: flame.MOST]
    return flame.section([c for cell in cells for c in makeup.changes(cell, was.get(cell), now.get(cell))])


def by_metric(result: Comparison) -> list[dict[str, Any]]:
    """A line a metric: how many cells grew, shrank, and the geometric mean and extremes of the ratio."""
    lines = []
    for frame, exact in ((result.differences, True), (result.ratios, False)):
        for metric, part in frame.groupby("metric", sort=True):
            ratio = pd.to_numeric(part["ratio"], errors="coerce")
            ratio = ratio[(ratio > 0) & np.isfinite(ratio)]
            logs = np.log(ratio)
            lines.append({
                "metric": metric, "exact": exact, "cells": len(part), "more": int((ratio > 1).sum()),
                "less": int((ratio < 1).sum()), "mean": units.times(float(np.exp(logs.mean()))) if len(logs) else "",
                "least": units.times(float(ratio.min())) if len(logs) else "",
                "most": units.times(float(ratio.max())) if len(logs) else "",
            })  # fmt: skip
    return lines


def picture(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any] | None:
    """Ratios of every cell that is ok in both runs, a strip a method."""
    both = a[a["status"] == "ok"].merge(b[b["status"] == "ok"], on="cell", suffixes=("", "_b"))
    palette = Palette(zip(both["operator"], both["method"], strict=True))
    panels: list[str] = []
    from hograd_bench.report import style  # seaborn: for those who draw

    with style.style():
        for metric, label in _PANELS:
            if metric not in both or f"{metric}_b" not in both:
                continue
            old, new = (pd.to_numeric(both[c], errors="coerce") for c in (metric, f"{metric}_b"))
            have = both.assign(ratio=new / old)[(old > 0) & (new > 0)]
            if not have.empty:
                panels.append(_strips(have, palette, label, f"ratios-{len(panels)}"))
    if not panels:
        return None
    return page.picture(Drawn("ratios", "Every cell, B over A, by method", {}, panels))


def _strips(have: pd.DataFrame, palette: Palette, label: str, name: str) -> str:
    from hograd_bench.report import style

    methods = sorted(have["method"].unique(), reverse=True)
    figure, axes = style.canvas(5.4, 1.2 + 0.26 * len(methods), left=0.3, right=0.96)
    style.strips(axes, have, "ratio", "method", methods, {method: palette[method] for method in methods}, size=3.5)
    spans = have.groupby("method", observed=True)["ratio"].agg(["min", "max"])
    said = [f"{method}: {low:.3g} to {high:.3g}" for method, low, high in spans.itertuples(name=None)]
    axes.axvline(1, color=style.INK, linewidth=0.8, zorder=1)
    axes.set(xlim=(min(have["ratio"].min() / 1.1, 0.8), max(have["ratio"].max() * 1.1, 1.25)))
    style.ratios(axes, "x")
    style.heading(axes, label)
    return panel(figure, name, f"{label}, B over A. " + "; ".join(said))


def _fact(environment: Environment, section: str, key: str) -> str:
    return fact(environment, section, key) if section else text.clean(environment.get(key) or "unknown", 40)
