"""Runs in their order: what each was made with, and what changed against the one before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench import units
from hograd_bench.environment import Environment
from hograd_bench.report import text
from hograd_bench.report.data import ReportData, numbers

MOST_RUNS = 60
_NAMES = ["machine", "run", "cell", "operator", "method"]
_TRACKED = ("peak_bytes", "aten_calls", "gradient_equivalents")
_MADE_OF = (("source", "commit"), ("source", "dirty"), ("torch", "version"))


def fact(environment: Environment, section: str, key: str) -> str:
    """A fact of an environment as text, "unknown" where it was not recorded."""
    found = environment.get(section)
    value = found.get(key) if isinstance(found, Mapping) else None
    return "unknown" if value is None else text.clean(value, 40)


def runs(data: ReportData) -> pd.DataFrame:
    """One line a run: machine, run, torch, commit, number of rows and of rows that are ok, and against the run before
    of the same machine: number of cells whose peak_bytes or aten_calls changed, and the geometric mean of the ratio of
    each tracked metric over common cells.
    """
    rows = data.everything
    made = rows.groupby(["machine", "run"], observed=True, sort=True).agg(
        rows=("cell", "size"), ok=("status", lambda s: int((s == "ok").sum()))
    ).reset_index()  # fmt: skip
    for name, section, key in (("torch", "torch", "version"), ("commit", "source", "commit")):
        made[name] = [
            fact(data.environments.get((m, r), {}), section, key)
            for m, r in zip(made["machine"], made["run"], strict=True)
        ]
    made["recorded"] = [
        text.minute(data.environments.get((m, r), {}).get("recorded") or r)
        for m, r in zip(made["machine"], made["run"], strict=True)
    ]
    joined: pd.DataFrame = pd.concat([made, _steps(rows, made)], axis=1)
    return joined


def steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Each ok row beside the row of the same cell in the latest earlier run of its machine: metrics and ``was_*``."""
    tracked = [m for m in _TRACKED if m in rows.columns]
    ok = rows.loc[rows["status"] == "ok", _NAMES].assign(**{m: numbers(rows, m) for m in tracked})
    ok = ok.sort_values(["machine", "cell", "run"], kind="stable")
    before = ok.groupby(["machine", "cell"], observed=True, sort=False)
    for metric in tracked:
        ok[f"was_{metric}"] = before[metric].shift()
    ok["previous"] = before["run"].shift()
    paired: pd.DataFrame = ok[ok["previous"].notna()]
    return paired


@dataclass(frozen=True)
class Version:
    """What some runs of a machine were made with.

    Attributes:
        name: the commit's first seven digits, ``+`` where files differed from it; without a commit the run's time.
        moment: when it was committed, or where that is not recorded, first measured; in ISO form.
        torch: version.
        runs: ids, the latest last.
    """

    name: str
    moment: str
    torch: str
    runs: tuple[str, ...]


def versions(data: ReportData, machine: str, runs: Iterable[str]) -> list[Version]:
    """The versions that a machine's runs measured, in the order of their commits."""
    found: dict[tuple[str, ...], Version] = {}
    for run in sorted(runs):
        environment = data.environments.get((machine, run), {})
        commit, dirty, torch = (fact(environment, *of) for of in _MADE_OF)
        measured = text.clean(environment.get("recorded") or run, 40)
        committed = fact(environment, "source", "committed")
        known = commit != "unknown"
        name = commit[:7] + "+" * (dirty == "True") if known else text.minute(measured)
        made = Version(name, measured if committed == "unknown" else committed, torch, ())
        key = (commit, dirty, torch) if known else (run,)
        met = found.get(key, made)
        found[key] = replace(met, runs=(*met.runs, run))
    return sorted(found.values(), key=lambda version: (version.moment, version.runs))


def by_version(rows: pd.DataFrame, made: Sequence[Version], metrics: Sequence[str]) -> pd.DataFrame:
    """Of each cell and version its latest row that is ok, with ``place``: the version's place in order."""
    place = {run: i for i, version in enumerate(made) for run in version.runs}
    ok = rows.loc[rows["status"] == "ok", [*_NAMES, "problem", "n", "order", "depth", "batch"]]
    ok = ok.assign(place=ok["run"].map(place), **{m: numbers(rows, m) for m in metrics})
    latest: pd.DataFrame = ok.sort_values(["cell", "place", "run"], kind="stable").drop_duplicates(
        ["cell", "place"], keep="last"
    )
    return latest


def _steps(rows: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    paired = steps(rows)
    index = pd.MultiIndex.from_frame(made[["machine", "run"]])
    out: dict[str, Any] = {}
    changed = pd.Series(False, index=paired.index)
    for metric in ("peak_bytes", "aten_calls"):
        if metric in paired:
            a, b = paired[f"was_{metric}"], paired[metric]
            changed |= a.notna() & b.notna() & (a != b)
    keys = [paired["machine"], paired["run"]]
    out["compared"] = paired.groupby(keys, observed=True).size().reindex(index, fill_value=0).to_numpy()
    out["changed"] = changed.groupby(keys, observed=True).sum().reindex(index, fill_value=0).to_numpy(dtype=int)
    for metric in _TRACKED:
        ratio = np.nan * np.ones(len(made))
        if metric in paired:
            both = (paired[metric] > 0) & (paired[f"was_{metric}"] > 0)
            logs: pd.Series[float] = (paired.loc[both, metric] / paired.loc[both, f"was_{metric}"]).map(math.log)
            means = logs.groupby([paired.loc[both, "machine"], paired.loc[both, "run"]], observed=True).mean()
            ratio = np.exp(means.reindex(index).to_numpy(dtype=float))
        out[f"step_{metric}"] = ratio
    made_of: pd.DataFrame = pd.DataFrame(out)
    return made_of


def table(made: pd.DataFrame) -> tuple[list[dict[str, Any]], int]:
    """The latest runs, newest first, each with what differs from the one before; and how many are left out."""
    before: dict[str, dict[str, Any]] = {}
    lines = []
    for raw in made.to_dict("records"):
        run = {str(k): v for k, v in raw.items()}
        was = before.get(run["machine"])
        marks = [name for name in ("torch", "commit") if was is not None and was[name] != run[name]]
        ratio = run["step_gradient_equivalents"]
        lines.append(
            {**run, "marks": marks, "speed": units.times(ratio) if text.is_number(ratio) else "", "first": was is None}
        )
        before[run["machine"]] = run
    lines.reverse()
    return lines[:MOST_RUNS], max(0, len(lines) - MOST_RUNS)
