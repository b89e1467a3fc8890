"""Problems of one's own: every method at every size side by side, before anything that speaks of the suite's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.advice import way
from hograd_bench.report.data import ReportData, numbers, setting_of

MOST = 200
"""Lines of all tables at most: the cell table has all."""
_TABLE = ["problem", "operator", "order", "machine"]
_SIZES = ["n", "depth", "batch", "dtype", "device", "threads"]
_HEADS = ("time", "spread", "× best", "gradients", "peak", "error")
_NOTHING = "–"


def declared(data: ReportData) -> set[str]:
    """The names of the problems that files of one's own declared."""
    plans = (environment.get("plan") for environment in data.environments.values())
    named = (plan.get("problems") for plan in plans if isinstance(plan, Mapping))
    return {str(name) for names in named if isinstance(names, Mapping) for name in names}


def tables(data: ReportData) -> list[dict[str, Any]]:
    """A table a problem and operator, its lines by size and then time, at most :data:`MOST` lines in all."""
    rows = data.rows[data.rows["problem"].isin(declared(data))]
    orders = rows.groupby(["problem", "operator"], observed=True)["order"].nunique()
    machines = rows["machine"].nunique()
    made, left = [], MOST
    for _, part in rows.groupby(_TABLE, observed=True, sort=True):
        lines = list(_lines(data, part))[:left]
        left -= len(lines)
        if lines:
            operator, order, problem = (part.iloc[0][c] for c in ("operator", "order", "problem"))
            titled = f"{text.operator_name(operator, int(order))} of {text.clean(problem)}"
            if orders[problem, operator] > 1:
                titled += f", k = {order}"
            if machines > 1:
                titled += f", on {text.clean(part.iloc[0]['machine'], 40)}"
            told = [i for i in range(len(_HEADS)) if any(line["figures"][i] != _NOTHING for line in lines)]
            for line in lines:
                line["figures"] = [line["figures"][i] for i in told]
            made.append({"title": titled, "heads": [_HEADS[i] for i in told], "lines": lines,
                         "left": len(part) - len(lines),
                         "trouble": any(line["status"] != "ok" for line in lines)})  # fmt: skip
    return made


def _lines(data: ReportData, part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    shown = ("seconds_min", "seconds_iqr", "gradient_equivalents", "peak_bytes", "relative_error")
    part = part.assign(**{name: numbers(part, name) for name in shown})
    best = part["seconds_min"].where(part["status"] == "ok").groupby([part[c] for c in _SIZES]).transform("min")
    part = part.assign(times=part["seconds_min"] / best)
    ordered = part.assign(bad=part["status"] != "ok").sort_values([*_SIZES, "bad", "seconds_min"], kind="stable")
    before = None
    for row in ({str(k): v for k, v in each.items()} for each in ordered.to_dict("records")):
        size = ", ".join(filter(None, (text.sizes(row), setting_of(row, data.telling))))
        yield {
            "size": "" if size == before else size,
            "method": way(row["method"], row["preparation"]),
            "anchor": row["anchor"],
            "best": row["times"] == 1,
            "status": row["status"],
            "reason": row["reason"] or "",
            "figures": [
                _or_dash(row["seconds_min"], units.seconds),
                _or_dash(row["seconds_iqr"], lambda value: f"± {units.seconds(value)}"),
                _or_dash(row["times"], units.times),
                _or_dash(row["gradient_equivalents"], units.figures),
                _or_dash(row["peak_bytes"], units.binary),
                _or_dash(row["relative_error"], lambda value: f"{value:.1e}"),
            ],
        }
        before = size


def _or_dash(value: float, said: Any) -> str:
    return said(value) if text.is_number(value) else _NOTHING
