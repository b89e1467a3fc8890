"""How much times scatter: the rounds of each method, this run's beside the run before's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import FEW, at_largest, keys_of
from hograd_bench.report.palette import ordinal

ORDER = 95
TITLE = "How sure are the times?"
ABOUT = (
    "The rounds that each time was taken from, as densities: above the line the run before's, where there was one, "
    "below it this run's. The mark is the fastest round, which figures and tables speak of: what disturbs a call "
    "only ever adds to it. Changes are of medians; those within both interquartile ranges are noise."
)
_LEAST = 5
_NOW, _BEFORE = "this run", "the run before"


def answer(data: ReportData) -> str:
    """How many rows are marked noisy."""
    if "noisy" not in data.ok:
        return ""
    known = data.ok["noisy"].dropna()
    noisy = int((known == 1).sum())
    return (
        f"{noisy:,} of {len(known):,} times are marked noisy: their rounds scatter, or the machine changed."
        if len(known)
        else ""
    )


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator, problem and order, at the largest size that most methods reached."""
    rows = positive(data.ok, "seconds_min")
    if "details" not in rows:
        return
    number = 0
    for named, part in at_largest(rows):
        if number >= FEW:
            return
        here = part.sort_values("seconds_min", ascending=False)
        table = _rounds(data, here)
        if table["place"].nunique() < 2:
            continue
        name = f"noise-{number}-{slug(named['operator'], named['problem'])}"
        title = f"{text.operator_name(named['operator'], named['order'])} of {text.clean(named['problem'], 40)}"
        sizes = text.sizes(here.iloc[0])
        yield Drawn(name, f"{title}, {sizes}", keys_of(named, data), [_violins(data, here, table, f"{name}-0")])
        number += 1


def rounds(details: Any) -> list[float]:
    """The rounds of a row, in seconds; none where it has none or they cannot be read."""
    try:
        found = details.get("samples_seconds") if isinstance(details, Mapping) else None
    except (OSError, ValueError):
        return []
    return [float(s) for s in found if text.is_number(s) and s > 0] if isinstance(found, list) else []


def _rounds(data: ReportData, here: pd.DataFrame) -> pd.DataFrame:
    """Columns place, run, seconds: the rounds of each row, and of the same cell in the run before."""
    made = []
    earlier = data.everything[data.everything["cell"].isin(here["cell"]) & (data.everything["status"] == "ok")]
    for place, row in enumerate(here.to_dict("records")):
        before = earlier[
            (earlier["cell"] == row["cell"]) & (earlier["machine"] == row["machine"]) & (earlier["run"] < row["run"])
        ].sort_values("run")
        for run, details in ((_NOW, row["details"]), *((_BEFORE, d) for d in before["details"].tail(1))):
            found = rounds(details)
            made += [(place, run, seconds) for seconds in found if len(found) >= _LEAST]
    return pd.DataFrame(made, columns=["place", "run", "seconds"])


def _violins(data: ReportData, here: pd.DataFrame, table: pd.DataFrame, name: str) -> str:
    names = here["method"].tolist()
    figure, axes = style.canvas(7.2, 1.0 + 0.4 * len(names), left=0.25, right=0.82, top=0.3)
    looks = {_NOW: ordinal(0), _BEFORE: ordinal(8)}
    present = [run for run in looks if run in set(table["run"])]
    sns.violinplot(
        table.assign(log=np.log10(table["seconds"])), x="log", y="place", hue="run", hue_order=present, orient="h",
        order=range(len(names)), split=len(present) > 1, inner=None, cut=0, linewidth=0, alpha=0.55,
        density_norm="width", palette={run: looks[run].colour for run in present}, legend=False, ax=axes,
    )  # fmt: skip
    places = here.assign(place=range(len(here)), log=np.log10(here["seconds_min"]))
    style.points(axes, [style.Series(places, ordinal(1))], "log", "place", 22)
    said = []
    for place, method in enumerate(names):
        now, before = (table[(table["place"] == place) & (table["run"] == run)]["seconds"] for run in looks)
        spread = _spread(now)
        change = f", {now.median() / before.median() - 1:+.0%}" if len(now) and len(before) else ""
        axes.annotate(f"{spread}{change}", (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", fontsize=8, va="center")  # fmt: skip
        said.append(f"{method}: {units.seconds(here['seconds_min'].iloc[place])}, {spread}{change}")
    style.name_rows(axes, names, {method: data.palette[method] for method in names})
    low, high = axes.get_xlim()
    at = style.log_ticks(10.0**low, 10.0**high)
    style.named_ticks(axes, [math.log10(seconds) for seconds in at], [units.seconds(seconds) for seconds in at])
    axes.set_xlabel("seconds a call, logarithmic; at the right the spread, and the change of the median")
    if len(present) > 1:
        style.key(axes, looks)
    return panel(figure, name, "Fastest round and spread of the rounds. " + "; ".join(said))


def _spread(found: pd.Series[float]) -> str:
    """The interquartile range over the median."""
    if not len(found):
        return "no rounds"
    low, middle, high = (float(found.quantile(q)) for q in (0.25, 0.5, 0.75))
    return f"± {(high - low) / 2 / middle:.1%}"
