"""A metric against one size, a line a method, with its law: what the figures of n, T, k, B and threads share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from hograd_bench import laws
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, Note, panel, slug
from hograd_bench.report.figures._series import SYMBOLS, groups, keys_of, lines, title_of
from hograd_bench.report.palette import ordinal

METRICS = (("seconds_min", "Time of a call"), ("peak_bytes", "Peak bytes"))


@dataclass(frozen=True)
class Fit:
    """A law of one line, as far as a picture needs it."""

    said: str
    at: Callable[[float], float]
    start: float


Residual = tuple[str, str, pd.DataFrame, Fit]
"""Metric, method, rows, law."""


def sweep(
    data: ReportData, prefix: str, variable: str, axis: str, *, least: int = 3,
    metrics: Sequence[tuple[str, str]] = METRICS, fitted: bool = True,
) -> Iterator[Drawn]:  # fmt: skip
    """One picture a group: a panel a metric, laws as lines, residuals on demand."""
    rows = data.ok
    for number, (named, part) in enumerate(groups(rows, variable, least)):
        panels: list[str] = []
        notes: list[Note] = []
        residuals: list[Residual] = []
        title = title_of(named, variable)
        name = f"{prefix}-{number}-{slug(named['operator'], named['problem'])}"
        for metric, label in metrics:
            have = positive(part, metric)
            if have[variable].nunique() < least:
                continue
            svg, said, off = _panel(data, have, variable, axis, metric, label, f"{name}-{len(panels)}", fitted)
            panels.append(svg)
            notes += said
            residuals += off
        if not panels:
            continue
        more = _residuals(residuals, variable, axis, f"{name}-r") if fitted else []
        yield Drawn(
            name, title, keys_of(named, data, but=("order",) if variable == "order" else ()), panels, notes, more
        )


def _panel(
    data: ReportData, have: pd.DataFrame, variable: str, axis: str, metric: str, label: str, name: str, fitted: bool
) -> tuple[str, list[Note], list[Residual]]:
    figure, axes = style.canvas()
    drawn, ends, notes, residuals, said = [], [], [], [], []
    for method, line in lines(have, variable):
        look, last = data.palette[method], line.iloc[-1]
        law = fit(line, metric, variable) if fitted else None
        drawn.append(style.Series(line, look, law))
        if law is not None:
            residuals.append((metric, method, line, law))
            notes.append(Note(look.index, f"{method}, {label.lower()}", law.said, f"#{last['anchor']}"))
        ends.append((method, last[metric], look))
        said.append(f"{method}: {text.metric(metric, last[metric])} at {last[variable]:g}")
    style.series(axes, drawn, variable, metric)
    style.sizes_axis(axes, have[variable], axis, log=variable not in ("order", "threads"))
    style.values(axes, metric)
    style.heading(axes, label)
    style.label_ends(axes, ends)
    alt = f"{label} against {axis}, {have[variable].min()} to {have[variable].max()}. " + "; ".join(said) + "."
    return (
        panel(figure, name, alt),
        notes,
        [(m, n, li, la) for m, n, li, la in residuals if _noisy(li, m, variable, la)],
    )


def fit(line: pd.DataFrame, metric: str, variable: str) -> Fit | None:
    """The law of one line; None where the data are too few or disagree."""
    try:
        law = laws.law_of(line, metric, [variable])
    except ValueError:
        return None
    if isinstance(law, laws.ExactLaw):
        place, terms = law.polynomial.variables.index(variable), law.polynomial.terms
        return Fit(
            law.text,
            lambda v: sum(float(c) * v ** e[place] for e, c in terms.items()),
            float(law.start.get(variable, 1)),
        )
    if isinstance(law, laws.FittedLaw):
        a, b, p = law.overhead, law.coefficient, law.exponent
        return Fit(law.text, lambda v: a + b * v**p, 0.0)
    return None


def _noisy(line: pd.DataFrame, metric: str, variable: str, law: Fit) -> bool:
    """Whether the law misses a point at all."""
    return any(abs(y / law.at(float(x)) - 1) > 1e-12 for x, y in zip(line[variable], line[metric], strict=True))


def _residuals(found: Sequence[Residual], variable: str, axis: str, name: str) -> list[tuple[str, str]]:
    """How far the points lie from the fitted laws, in percent."""
    if not found:
        return []
    figure, axes = style.canvas(5.4, 2.8)
    drawn, ends, worst = [], [], 0.0
    for place, (metric, method, line, law) in enumerate(found):
        look = ordinal(place)
        off = line.assign(
            off=[100 * (y / law.at(float(x)) - 1) for x, y in zip(line[variable], line[metric], strict=True)]
        )
        drawn.append(style.Series(off, look))
        worst = max(worst, off["off"].abs().max())
        ends.append((method if metric == found[0][0] else f"{method}, {metric}", off["off"].iloc[-1], look))
    style.series(axes, drawn, variable, "off", 18)
    style.sizes_axis(axes, [v for f in found for v in f[2][variable]], axis)
    axes.set_ylabel("measured / law − 1, %")
    style.heading(axes, "Residuals of the fitted laws")
    style.label_ends(axes, ends)
    alt = f"Residuals against {SYMBOLS.get(variable, variable)}: at most {worst:.0f} percent."
    return [("Residuals: what the laws miss", panel(figure, name, alt))]
