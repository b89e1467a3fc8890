"""How much longer than the best method what ``auto`` chooses takes, over the problems and sizes of a run.

Regret is the time of the choice over the time of the best, both with the load of their moment taken out
(``known.steady``); where the difference lies within both spreads, it is 1.

- rule: neither a cache nor a probe.
- cache, others: entries of all problems but the one that is chosen for, at about its size.
- cache, itself: entries of the same cells in another run (--base holds several): what was measured before is known.
- probe: in place of a few calls now, the times of another run; the choice is judged by this one.
- probe, now: a probe of the function itself, in this process (--now, or --examples).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from hograd_bench import facts, known

import hograd_core
from hograd_core.auto import Entry, choose

POINT = ["machine", "run", "operator", "order", "problem", "n", "depth", "batch", "dtype", "device", "threads"]
MODES = ("rule", "cache, others", "cache, itself", "probe", "probe, now")


@dataclass(frozen=True)
class Regret:
    """One choice.

    Attributes:
        mode: what it knew.
        where: operator, order, problem and sizes.
        chosen, best: methods.
        ratio: time of the choice over time of the best, at least 1.
    """

    mode: str
    where: tuple[object, ...]
    chosen: str
    best: str
    ratio: float


def regrets(
    rows: pd.DataFrame, probed: Callable[[Mapping[str, Any]], str | None] = lambda place: None
) -> Iterator[Regret]:
    """Of every point where hograd has two exact methods or more, in every mode for which there are rows.

    Args:
        rows: of one or several runs.
        probed: the method that a probe takes at a point; None: it takes none that is among the rows.
    """
    timed = _timed(rows)
    for key, here in timed.groupby(POINT, observed=True):
        if len(here) < 2:
            continue
        place = dict(zip(POINT, key, strict=True))
        near = timed[(timed["machine"] == place["machine"]) & (timed["operator"] == place["operator"])]
        others = near[near["problem"] != place["problem"]]
        same = [near[column] == place[column] for column in POINT if column != "run"]
        before = near[functools.reduce(operator.and_, same) & (near["run"] != place["run"])]
        chosen = {"rule": _choice(here, ()), "cache, others": _choice(here, _entries(others))}
        if set(here["method"]) <= set(before["method"]):
            chosen["cache, itself"] = _choice(here, _entries(before))
            chosen["probe"] = str(_fastest(before)["method"])
        if (now := probed(place)) in set(here["method"]):
            chosen["probe, now"] = str(now)
        for mode, method in chosen.items():
            yield _regret(mode, tuple(place[c] for c in POINT[2:8]), here, method)


def summary(found: Sequence[Regret]) -> list[tuple[object, ...]]:
    """Mode, number of points, median, 95th percentile, worst and where."""
    lines: list[tuple[object, ...]] = []
    for mode in MODES:
        mine = [r for r in found if r.mode == mode]
        if mine:
            ratios = pd.Series([r.ratio for r in mine])
            worst = max(mine, key=lambda r: r.ratio)
            where = " ".join(map(str, worst.where))
            lines.append((mode, len(mine), float(ratios.median()), float(ratios.quantile(0.95)), worst.ratio,
                          f"{where}: {worst.chosen}, not {worst.best}"))  # fmt: skip
    return lines


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of hograd's exact methods that were timed."""
    ours = facts.without_peers(rows)
    ours = ours[(ours["status"] == "ok") & (ours["seconds_min"] > 0) & (ours["preparation"] == "eager")]
    operators = hograd_core.operators()
    exact = [
        o in operators and m in operators[o].methods and operators[o].methods[m].exact
        for o, m in zip(ours["operator"], ours["method"], strict=True)
    ]
    if not any(exact):
        return ours.head(0)
    kept: pd.DataFrame = ours[exact].assign(seconds_min=known.steady(ours[exact]))
    return kept


def _entries(rows: pd.DataFrame) -> tuple[Entry, ...]:
    return tuple(Entry.from_json(each) for each in known.entries(rows))


def _choice(here: pd.DataFrame, entries: Sequence[Entry]) -> str:
    """The first candidate that was measured here."""
    row = here.iloc[0]
    record = hograd_core.operators()[row["operator"]]
    choice = choose(
        record, int(row["order"]) if record.takes_order else None,
        function=lambda: f"{row['problem']}/{row['n']}/{row['depth']}/{row['batch']}", numel=int(row["numel"]),
        dtype=row["dtype"], device=row["device"], threads=int(row["threads"]), known=entries,
    )  # fmt: skip
    measured = set(here["method"])
    return next((c.method for c in choice.candidates if c.method in measured), str(row["method"]))


def _fastest(rows: pd.DataFrame) -> Any:
    return rows.sort_values("seconds_min", kind="stable").iloc[0]


def _regret(mode: str, where: tuple[object, ...], here: pd.DataFrame, method: str) -> Regret:
    best = _fastest(here)
    mine = here[here["method"] == method].iloc[0]
    tie = mine["seconds_min"] - best["seconds_min"] <= min(mine["seconds_iqr"], best["seconds_iqr"])
    ratio = 1.0 if tie else float(mine["seconds_min"] / best["seconds_min"])
    return Regret(mode, where, method, str(best["method"]), ratio)
