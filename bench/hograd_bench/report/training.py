"""What the second-order part costs in a training step, and which method to take. A pure function of rows.

A training step is an operator whose name ends in ``_training_step``; its method ``plain`` is the step without the
second-order part. Whatever operator of that kind was measured is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.data import ReportData, approximations, numbers, positive, setting_of, telling
from hograd_bench.report.figures import Drawn

SUFFIX, PLAIN = "_training_step", "plain"
STEPS = "plain_steps"
METRICS = ((STEPS, "Cost in plain steps"), ("peak_bytes", "Peak bytes"))
DRIFT = 1.2
"""A cost in plain steps is doubtful where the seconds give another, by this factor: the gradients that both were
measured in differ by as much."""
WORDS = {
    "critic_training_step": ("WGAN critic", "the gradient penalty"),
    "pinn_training_step": ("PINN", "the derivatives of the equation"),
    "meta_training_step": ("MAML", "the gradient through T inner steps"),
    "newton_training_step": ("Newton", "the solve with the Hessian"),
    "natural_training_step": ("natural gradient", "the solve with the Fisher matrix"),
}
_POINT = ("operator", "problem", "n", "depth", "batch", "dtype", "device", "threads", "preparation", "machine")
_SIZES = (("n", "n"), ("depth", "T"), ("batch", "B"))


@dataclass(frozen=True)
class Way:
    """One method of one step at one size.

    Attributes:
        method: its name.
        anchor: of its evidence, or "".
        seconds: of a step.
        steps: time in plain steps; each was timed beside a gradient of the same loss, so that drift cancels.
        peak: bytes, or NaN.
        growth: peak over the plain step's.
        deviation: from the exact step, relative to its largest entry, or NaN.
        exact: whether it computes the step itself, not an approximation of it.
        noisy: whether the machine changed while it or the plain step was timed, or between the two (:data:`DRIFT`).
    """

    method: str
    anchor: str
    seconds: float
    steps: float
    peak: float
    growth: float
    deviation: float
    exact: bool
    noisy: bool

    @property
    def off(self) -> str:
        """The deviation in words, "" where it is not known."""
        if math.isnan(self.deviation):
            return ""
        return f"{100 * self.deviation:.2g} %" if self.deviation < 1 else units.times(self.deviation)


@dataclass(frozen=True)
class Point:
    """A step at one size: without the second-order part, and with it by every method measured, fastest first."""

    sizes: str
    plain: Way
    ways: tuple[Way, ...]

    @property
    def pick(self) -> Way | None:
        """The fastest exact method."""
        return min((w for w in self.ways if w.exact), key=lambda w: w.steps, default=None)

    @property
    def smallest(self) -> Way | None:
        """The exact method with the least peak; of several the fastest."""
        known = (w for w in self.ways if w.exact and not math.isnan(w.peak))
        return min(known, key=lambda w: (w.peak, w.steps), default=None)

    @property
    def approximation(self) -> Way | None:
        """The fastest approximation, where it is faster than every exact method."""
        found = min((w for w in self.ways if not w.exact), key=lambda w: w.steps, default=None)
        slow = found is not None and self.pick is not None and found.steps >= self.pick.steps
        return None if slow else found


@dataclass(frozen=True)
class Workload:
    """A training step on a problem.

    Attributes:
        name: of the kind of step, in words.
        part: what its second-order part is.
        problem: its name.
        setting: what of dtype, device, threads and machine tells it from others on the page.
        points: by size, smallest first.
    """

    name: str
    part: str
    problem: str
    setting: str
    points: tuple[Point, ...]


def steps_of(data: ReportData) -> pd.DataFrame:
    """The timed rows of training steps that have a plain step at the same size, with their cost in plain steps."""
    rows = data.ok
    rows = positive(rows[rows["operator"].str.endswith(SUFFIX)], "seconds_min", "gradient_equivalents")
    if rows.empty:
        nothing: pd.DataFrame = rows.assign(**{STEPS: math.nan})
        return nothing
    keys = list(_POINT)
    plain = rows[rows["method"] == PLAIN].drop_duplicates(keys).set_index(keys)["gradient_equivalents"]
    unit = plain.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy()
    return positive(rows.assign(**{STEPS: rows["gradient_equivalents"].to_numpy() / unit}), STEPS)


def workloads(data: ReportData) -> list[Workload]:
    """Every training step that was measured, in the order of :data:`WORDS`, then by name."""
    rows = steps_of(data)
    if rows.empty:
        return []
    rows = rows.assign(**{name: numbers(rows, name) for name in ("peak_bytes", "deviation", "noisy")})
    loose = approximations(rows[rows["method"] != PLAIN])
    rows = rows.assign(loose=[way in loose for way in zip(rows["operator"], rows["method"], strict=True)])
    order = {name: place for place, name in enumerate(WORDS)}
    found = []
    by = ["operator", "problem", *_POINT[5:]]
    for key, part in rows.groupby(by, observed=True, sort=True):
        named = dict(zip(by, key, strict=True))
        points = [p for _, at in part.groupby(["n", "depth", "batch"], sort=True) if (p := _point(at)) is not None]
        if points:
            operator = str(named["operator"])
            name, what = WORDS.get(operator, (text.clean(operator.removesuffix(SUFFIX).replace("_", " ")), "the rest"))
            setting = setting_of(named, telling(rows))
            workload = Workload(name, what, text.clean(named["problem"], 40), setting, tuple(points))
            found.append((order.get(operator, len(order)), operator, workload))
    return [workload for _, _, workload in sorted(found, key=lambda item: item[:2])]


def _point(at: pd.DataFrame) -> Point | None:
    records = at.drop_duplicates("method").to_dict("records")
    plain = next(r for r in records if r["method"] == PLAIN)
    others = [r for r in records if r["method"] != PLAIN]
    if not others:
        return None
    ways = sorted((_way(r, plain) for r in others), key=lambda w: w.steps)
    sizes = ", ".join(f"{s} = {plain[name]}" for name, s in _SIZES if plain[name] != 1 or name == "n")
    return Point(sizes, _way(plain, plain), tuple(ways))


def _way(row: Mapping[Any, Any], plain: Mapping[Any, Any]) -> Way:
    peak, exact = row["peak_bytes"], row["method"] != PLAIN and not row["loose"]
    by_time = row["seconds_min"] / plain["seconds_min"] / row[STEPS]
    return Way(
        text.clean(row["method"], 40), row["anchor"], row["seconds_min"], row[STEPS], peak, peak / plain["peak_bytes"],
        row["deviation"], exact, row["noisy"] == 1 or plain["noisy"] == 1 or not 1 / DRIFT < by_time < DRIFT,
    )  # fmt: skip


def table(data: ReportData) -> list[tuple[str, ...]]:
    """A line a workload, at its largest size: what it is, plain step, method to take, plain steps, peak over plain."""
    lines: list[tuple[str, ...]] = []
    for w in workloads(data):
        point = w.points[-1]
        if point.pick is not None:
            peak = "" if math.isnan(point.pick.growth) else units.times(point.pick.growth)
            what = ", ".join(filter(None, (f"{w.name}: {w.part}", w.problem, point.sizes, w.setting)))
            pick = point.pick
            lines.append((what, units.seconds(point.plain.seconds), pick.method, units.times(pick.steps), peak))
    return lines


def pictures(data: ReportData) -> Iterator[Drawn]:
    """Cost in plain steps and peak bytes against each size that was swept; draw inside ``style.style()``."""
    rows = steps_of(data)
    if rows.empty:
        return
    from hograd_bench.report.figures._sweep import sweep  # seaborn: for those who draw

    # The plain step is the unit: it has bytes to show, but no cost.
    sub = replace(data, rows=rows.assign(**{STEPS: rows[STEPS].where(rows["method"] != PLAIN)}))
    for variable, axis in (("batch", "batch B"), ("depth", "T, inner steps or layers"), ("n", "n")):
        yield from sweep(sub, f"training-{variable}", variable, axis, metrics=METRICS)
