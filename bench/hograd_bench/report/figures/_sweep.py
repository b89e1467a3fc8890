"""A metric against one size, a line a method, with its law: what the figures of n, T, k, B and threads share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from hograd_bench import laws
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, Note, panel, slug
from hograd_bench.report.figures._series import groups, keys_of, lines, title_of

METRICS = (("seconds_min", "Time of a call"), ("peak_bytes", "Peak bytes"))


@dataclass(frozen=True)
class Fit:
    """A law of one line, as far as a picture needs it."""

    said: str
    at: Callable[[float], float]
    start: float


def sweep(
    data: ReportData, prefix: str, variable: str, axis: str, *, least: int = 3,
    metrics: Sequence[tuple[str, str]] = METRICS, fitted: bool = True,
) -> Iterator[Drawn]:  # fmt: skip
    """One picture a group: a panel a metric, laws as lines and in words, with what they miss."""
    rows = data.ok
    for number, (named, part) in enumerate(groups(rows, variable, least)):
        panels: list[str] = []
        notes: list[Note] = []
        title = title_of(named, variable)
        name = f"{prefix}-{number}-{slug(named['operator'], named['problem'])}"
        for metric, label in metrics:
            have = positive(part, metric)
            if have[variable].nunique() < least:
                continue
            svg, said = _panel(data, have, variable, axis, metric, label, f"{name}-{len(panels)}", fitted)
            panels.append(svg)
            notes += said
        if panels:
            keys = keys_of(named, data, but=("order",) if variable == "order" else ())
            yield Drawn(name, title, keys, panels, notes)


def _panel(
    data: ReportData, have: pd.DataFrame, variable: str, axis: str, metric: str, label: str, name: str, fitted: bool
) -> tuple[str, list[Note]]:
    figure, axes = style.canvas()
    drawn, ends, notes, said = [], [], [], []
    for method, line in lines(have, variable):
        look, last = data.palette[method], line.iloc[-1]
        law = fit(line, metric, variable) if fitted else None
        drawn.append(style.Series(line, look, law))
        if law is not None:
            words = law.said + _missed(line, metric, variable, law)
            notes.append(Note(look.index, f"{method}, {label.lower()}", words, f"#{last['anchor']}"))
        ends.append((method, last[metric], look))
        said.append(f"{method}: {text.metric(metric, last[metric])} at {last[variable]:g}")
    style.series(axes, drawn, variable, metric)
    style.sizes_axis(axes, have[variable], axis, log=variable not in ("order", "threads"))
    style.values(axes, metric)
    style.heading(axes, label)
    style.label_ends(axes, ends)
    alt = f"{label} against {axis}, {have[variable].min()} to {have[variable].max()}. " + "; ".join(said) + "."
    return panel(figure, name, alt), notes


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


def _missed(line: pd.DataFrame, metric: str, variable: str, law: Fit) -> str:
    """How far the points lie from the law at most, in words; "" where it meets them all."""
    off = max(abs(y / law.at(float(x)) - 1) for x, y in zip(line[variable], line[metric], strict=True))
    return f"; misses a point by {100 * off:.2g}% at most" if off > 1e-12 else ""
