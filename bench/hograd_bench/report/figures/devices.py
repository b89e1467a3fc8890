"""The same cells on several devices or machines, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, numbers, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import MOST, SYMBOLS, keys_of
from hograd_bench.report.palette import ordinal

ORDER = 110
TITLE = "Devices side by side"
ABOUT = (
    "The same cells on every machine and device they were measured on. First, where sizes were swept: the fastest "
    "method of each device, so that lines cross where the other device begins to pay. Then every method at the largest "
    "size that the devices share. Times are a caller's, the wait for the device included."
)
_SERIES = ["operator", "problem", "order", "dtype", "preparation"]
_SIZES = ["n", "depth", "batch"]
_METRICS = (
    ("seconds_min", "Time of a call"),
    ("peak_bytes", "Peak bytes"),
    ("gpu_joules_per_call", "Energy of a call"),
)


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator, problem and order that several devices share; nothing where there is one device."""
    rows = positive(data.ok, "seconds_min")
    if len(rows[["machine", "device"]].drop_duplicates()) < 2:
        return
    rows = rows.assign(where=places(data, rows))
    ranked: list[tuple[dict[str, Any], pd.DataFrame]] = []
    for key, part in rows.groupby(_SERIES, observed=True, sort=True):
        shared = part.groupby([*_SIZES, "method"], observed=True)["where"].transform("nunique")
        part = part[shared > 1]
        if not part.empty:
            ranked.append((dict(zip(_SERIES, key, strict=True)), part))
    ranked.sort(key=lambda item: (-item[1]["where"].nunique(), -len(item[1])))
    for number, (named, part) in enumerate(ranked[:MOST]):
        name = f"devices-{number}-{slug(named['operator'], named['problem'])}"
        counts = part.groupby(_SIZES, observed=True)["where"].nunique()
        size = counts[counts == counts.max()].index.max()
        here = part[(part[_SIZES] == list(size)).all(axis=1)]
        panels = [p for p in [_sweep(part, f"{name}-0")] if p]
        for metric, label in _METRICS:
            have = positive(here, metric) if metric in here else here.iloc[:0]
            if have["where"].nunique() > 1 or (metric.startswith("gpu") and len(have)):
                panels.append(_methods(data, have, metric, label, f"{name}-{len(panels)}"))
        title = f"{text.operator_name(named['operator'], named['order'])} of {text.clean(named['problem'], 40)}, "
        yield Drawn(name, title + text.sizes(here.iloc[0]), keys_of(named, data), panels)


def places(data: ReportData, rows: pd.DataFrame) -> list[str]:
    """Where each row was measured, in a reader's words: the GPU's or CPU's name, with threads where they differ."""
    several = rows.loc[rows["device"] == "cpu", "threads"].nunique() > 1
    columns = (rows[c].to_list() for c in ("machine", "run", "device", "threads"))
    keys = list(zip(*columns, strict=True))
    named: dict[tuple[str, str], str] = {}
    for machine, run, device, _ in keys:
        if (machine, device) not in named:
            named[machine, device] = _model(data.environments.get((machine, run), {}), machine, device)
    taken = list(named.values())
    for (machine, device), name in named.items():
        if taken.count(name) > 1:  # two machines of one model: the end of the machine's name tells them apart
            named[machine, device] = f"{name} {text.clean(machine[-6:])}"
    return [
        named[machine, device] + (f", {text.threads(int(threads))}" if several and device == "cpu" else "")
        for machine, _, device, threads in keys
    ]


def _model(environment: Mapping[str, Any], machine: str, device: str) -> str:
    gpus, cpu = environment.get("gpus"), environment.get("cpu")
    known = gpus[0] if device == "cuda" and isinstance(gpus, list) and gpus else cpu if device == "cpu" else None
    found = known.get("name" if device == "cuda" else "model") if isinstance(known, Mapping) else None
    return text.clean(found, 34) if found else f"{text.clean(machine, 26)} {text.clean(device, 12)}"


def _sweep(part: pd.DataFrame, name: str) -> str:
    """The fastest method of each device against the size that was swept, or "" where none was."""
    variable = max(_SIZES, key=lambda s: part[s].nunique())
    others = [s for s in _SIZES if s != variable]
    counts = part.groupby(others, observed=True)[variable].nunique()
    if counts.max() < 3:
        return ""
    chosen = counts[counts == counts.max()].index.max()
    line = part[(part[others] == list(chosen)).all(axis=1)]
    best = line.sort_values("seconds_min", kind="stable").drop_duplicates(["where", variable]).sort_values(variable)
    figure, axes = style.canvas()
    drawn, ends, said = [], [], []
    for i, (where, cells) in enumerate(best.groupby("where", observed=True, sort=True)):
        look = ordinal(i)
        drawn.append(style.Series(cells, look))
        ends.append((str(where), cells["seconds_min"].iloc[-1], look))
        told = (f"{units.seconds(c['seconds_min'])} by {c['method']} at {c[variable]:g}"
                for c in (cells.iloc[0], cells.iloc[-1]))  # fmt: skip
        said.append(f"{where}: " + ", ".join(told))
    style.series(axes, drawn, variable, "seconds_min")
    held = zip(others, chosen, strict=True)
    at = ", ".join(f"{SYMBOLS[s]} = {v}" for s, v in held if v != 1 or s == "n")
    style.sizes_axis(axes, best[variable], f"{SYMBOLS[variable]}, at {at}" if at else SYMBOLS[variable])
    style.values(axes, "seconds_min")
    style.heading(axes, "Time of the fastest method")
    style.label_ends(axes, ends)
    return panel(figure, name, f"Time of each device's fastest method against {variable}. " + "; ".join(said) + ".")


def _methods(data: ReportData, cells: pd.DataFrame, metric: str, label: str, name: str) -> str:
    """Every method at one size, a line a method from device to device."""
    where = sorted(cells["where"].unique())
    figure, axes = style.canvas(5.4, 3.7)
    drawn, ends, said = [], [], []
    cells = cells.assign(**{metric: numbers(cells, metric)}, place=cells["where"].map(where.index))
    for method, mine in cells.groupby("method", observed=True, sort=True):
        best = mine.sort_values(metric).drop_duplicates("where").sort_values("where")
        look = data.palette[str(method)]
        drawn.append(style.Series(best, look))
        ends.append((str(method), best[metric].iloc[-1], look))
        values = zip(best["where"], best[metric], strict=True)
        said.append(f"{method}: " + ", ".join(f"{w} {text.metric(metric, v)}" for w, v in values))
    style.series(axes, drawn, "place", metric)
    axes.set_xticks(range(len(where)), ["\n".join(textwrap.wrap(w, 16)[:3]) for w in where])
    axes.set_xlim(-0.3, len(where) - 0.7)
    style.values(axes, metric)
    style.heading(axes, label)
    style.label_ends(axes, ends)
    return panel(figure, name, f"{label}, by device and method. " + "; ".join(said) + ".")
