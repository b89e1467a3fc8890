"""Cell by cell over the commits: what changed, where, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hograd_bench import units
from hograd_bench.report import history, style, text
from hograd_bench.report.data import ReportData
from hograd_bench.report.figures._contract import Drawn, Note, panel
from hograd_bench.report.palette import ordinal

ORDER = 890
TITLE = "What changed between commits"
ABOUT = (
    "Of each operator and method the cell that changed most, over the commits that were measured, in their order. "
    "Bytes and calls are exact: a step is a change of code or of torch. Times move with the machine's mood as well."
)
MOST = 6
_EXACT = ("peak_bytes", "aten_calls")
_PANELS = {"peak_bytes": "Peak bytes", "aten_calls": "ATen calls", "gradient_equivalents": "Time in gradients"}
_NAMED = 3
"""Steps of a line that are named, the largest; the lines beneath name all."""


class Step(NamedTuple):
    """A value that is another than at the version before."""

    place: int
    was: float
    now: float

    @property
    def size(self) -> float:
        """How far apart, whichever way; infinite from or to nothing."""
        return abs(math.log(self.now / self.was)) if self.was > 0 and self.now > 0 else math.inf

    @property
    def said(self) -> str:
        """``+12%``, ``3.4×``, or what it is now where there was nothing."""
        if self.was <= 0 or self.now <= 0:
            return f"{units.plain(self.was)} → {units.plain(self.now)}"
        ratio = self.now / self.was
        return units.times(ratio) if ratio >= 2 else f"{100 * (ratio - 1):+.3g}%"


class Changed(NamedTuple):
    """A cell whose exact figures changed.

    Attributes:
        size: of its largest step, as a logarithm; infinite from or to nothing.
        cell: id.
        others: how many more cells of its operator and method changed.
    """

    size: float
    cell: str
    others: int


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a cell: a panel a metric that changed, and its time."""
    rows, found = data.everything, []
    for name, mine in rows.groupby("machine", observed=True, sort=True):
        versions = history.versions(data, str(name), mine["run"].unique())
        if len(versions) > 1:
            seen = history.by_version(mine, versions, tuple(_PANELS))
            found += [(one, seen, versions, str(name)) for one in changed(seen)]
    found.sort(key=lambda item: -item[0].size)
    newest = data.rows[data.rows["cell"].isin([one.cell for one, *_ in found[:MOST]])]
    anchors = dict(zip(zip(newest["machine"], newest["cell"], strict=True), newest["anchor"], strict=True))
    for number, (one, seen, versions, machine) in enumerate(found[:MOST]):
        part, anchor = seen[seen["cell"] == one.cell], anchors.get((machine, one.cell), "")
        yield _picture(part, versions, one.others, machine, anchor, f"commits-{number}")


def changed(seen: pd.DataFrame) -> list[Changed]:
    """Of each operator and method the cell whose exact figures took the largest step, the largest first."""
    size = pd.concat([_sizes(seen, metric) for metric in _EXACT], axis=1).max(axis=1).sort_index()
    named = seen.drop_duplicates("cell").set_index("cell")[["operator", "method"]]
    table = named.loc[size.index].assign(size=size).sort_values("size", ascending=False, kind="stable")
    methods = table.groupby(["operator", "method"], observed=True)["size"]
    table = table.assign(others=methods.transform("size") - 1)[methods.cumcount() == 0]
    return [Changed(size, str(cell), others) for cell, size, others in table[["size", "others"]].itertuples(name=None)]


def _sizes(seen: pd.DataFrame, metric: str) -> pd.Series[float]:
    """The largest step of each cell that took one."""
    told = seen[seen[metric].notna()].sort_values(["cell", "place"], kind="stable")
    was, now = told.groupby("cell", observed=True)[metric].shift(), told[metric]
    both = (was > 0) & (now > 0)
    size = (now / was).where(both, 1.0).map(math.log).abs().where(both, math.inf)
    moved = was.notna() & (was != now)
    largest: pd.Series[float] = size[moved].groupby(told.loc[moved, "cell"], observed=True).max()
    return largest


def steps(part: pd.DataFrame, metric: str) -> list[Step]:
    """Where a metric of one cell changed; versions that lack it are passed over."""
    told = part[part[metric].notna()].sort_values("place")
    places, values = told["place"].to_list(), told[metric].to_list()
    pairs = zip(places[1:], values, values[1:], strict=False)
    return [Step(int(place), was, now) for place, was, now in pairs if was != now]


def _picture(
    part: pd.DataFrame, versions: Sequence[history.Version], others: int, machine: str, anchor: str, name: str
) -> Drawn:  # fmt: skip
    first = part.iloc[0]
    notes: list[Note] = []
    panels: list[str] = []
    for metric, label in _PANELS.items():
        told, moved = part[part[metric].notna()], steps(part, metric)
        if len(told) < 2 or not moved:
            continue
        panels.append(_panel(told, moved, versions, metric, label, anchor, f"{name}-{len(panels)}"))
        for step in moved if metric in _EXACT else ():
            version = versions[step.place]
            was, now = (text.metric(metric, value) for value in (step.was, step.now))
            torch = f", torch {version.torch}" if version.torch != versions[step.place - 1].torch else ""
            said = f"{label.lower()} {was} → {now} ({step.said}), {text.minute(version.moment)}{torch}"
            notes.append(Note(None, text.clean(version.name, 20), said))
    title = f"{text.operator_name(first['operator'], first['order'])} by {text.clean(first['method'], 40)}"
    more = f"{others} more cell{'s' * (others != 1)} of this method changed." if others else ""
    keys = {"machine": text.clean(machine, 60), "method": title}
    return Drawn(name, text.titled(first), keys, panels, notes, more, "Changes")


def _panel(
    told: pd.DataFrame, moved: Sequence[Step], versions: Sequence[history.Version], metric: str, label: str,
    anchor: str, name: str,
) -> str:  # fmt: skip
    look = ordinal(list(_PANELS).index(metric))
    figure, axes = style.canvas(4.4, 2.6, left=0.16, right=0.97)
    last = told["place"] == told["place"].max()
    line = told.sort_values("place").assign(anchor=np.where(last, anchor, ""))
    style.line(axes, line, "place", metric, look, drawstyle="steps-post" if metric in _EXACT else "default")
    style.points(axes, [style.Series(line, look)], "place", metric, 18)
    low, high = line[metric].min(), line[metric].max()
    for step in sorted(moved, key=lambda s: -s.size)[:_NAMED] if metric in _EXACT else ():
        left = step.place > len(versions) / 2
        axes.annotate(
            f"{text.clean(versions[step.place].name, 12)} {step.said}", (step.place, step.now),
            xytext=(-5 if left else 5, 6), textcoords="offset points", ha="right" if left else "left", fontsize=8,
        )  # fmt: skip
    axes.set(xlim=(-0.3, len(versions) - 0.7), ylim=(low * 0.9, high * 1.15) if low > 0 else (0, high * 1.15))
    if low > 0:
        style.values(axes, metric)
    style.named_ticks(axes, list(range(len(versions))), [text.clean(version.name, 12) for version in versions])
    style.heading(axes, label)
    values = zip(line["place"], line[metric], strict=True)
    said = "; ".join(f"{versions[place].name} {text.metric(metric, value)}" for place, value in values)
    return panel(figure, name, f"{label} by commit: {said}")
