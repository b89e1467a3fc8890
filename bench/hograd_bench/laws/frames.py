"""From frames of rows to laws: which rows belong together, and which law a metric asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hograd_bench import metrics
from hograd_bench.laws._outcomes import InsufficientData, NoExactLaw
from hograd_bench.laws.exact import ExactLaw, fit_exact
from hograd_bench.laws.fitted import FittedLaw, fit_power

SIZES = ("n", "depth", "batch", "order")
_SERIES = ("operator", "method", "problem", "dtype", "device", "threads", "preparation", "machine")
ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

Law = ExactLaw | FittedLaw


def is_exact(metric: str) -> bool:
    """Whether a metric is a whole number that the program determines, so that a law must hit it exactly."""
    return metrics.is_exact(metric)


def allows_overhead(metric: str) -> bool:
    """Whether a fitted law of the metric has a constant beside its growth: all do but quotients."""
    record = metrics.record(metric)
    return record is None or record.overhead


def _kind(metric: str) -> str:
    record = metrics.record(metric)
    return record.kind if record is not None else ""


def select(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows with those values in those columns; a list, tuple or set means any of them.

    Raises:
        ValueError: the frame has no such column.
    """
    mask = pd.Series(True, index=frame.index)
    for column, wanted in where.items():
        if column not in frame.columns:
            raise ValueError(f"column: got {column!r}, expected one of {', '.join(map(str, frame.columns))}")
        choices = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        mask &= frame[column].isin(choices)
    chosen: pd.DataFrame = frame.loc[mask]
    return chosen


def points(frame: pd.DataFrame, metric: str, variables: Sequence[str]) -> dict[tuple[int, ...], list[float]]:
    """Sizes -> the finite values of a metric in the rows that came out ``ok``."""
    found: dict[tuple[int, ...], list[float]] = {}
    if metric not in frame.columns:
        return found
    columns = [frame[v] for v in variables]
    for status, value, *sizes in zip(frame["status"], frame[metric], *columns, strict=True):
        number = _number(value)
        if status == "ok" and number is not None and all(_number(s) is not None for s in sizes):
            found.setdefault(tuple(int(s) for s in sizes), []).append(number)
    return found


def exact_law(
    frame: pd.DataFrame, metric: str, variables: Sequence[str] = ("n", "depth", "batch"), *, max_degree: int = 3
) -> ExactLaw | NoExactLaw | InsufficientData:
    """The exact law of one series: rows that differ in nothing but the variables (and run).

    Rows of the same cell must agree to the last digit; if they do not, the metric is not determined there
    and has no exact law.

    Raises:
        ValueError: the rows mix several series.
    """
    single_series(frame, variables)
    values = points(frame, metric, variables)
    for sizes, seen in values.items():
        if len(set(seen)) > 1:
            at = ", ".join(f"{v}={s}" for v, s in zip(variables, sizes, strict=True))
            return NoExactLaw(f"{metric} is not the same in every run: {min(seen):g} to {max(seen):g} at {at}", 0)
    itemsize = ITEMSIZE.get(str(frame["dtype"].iloc[0]), 1) if len(frame) and _kind(metric) == "bytes" else 1
    return fit_exact(
        {s: seen[0] for s, seen in values.items()}, variables, metric=metric, unit=itemsize, max_degree=max_degree
    )


def fitted_law(
    frame: pd.DataFrame, metric: str, variable: str = "n", *, overhead: bool | None = None, level: float | None = None
) -> FittedLaw | InsufficientData:
    """The fitted law of one series in one variable; every row is a measurement of its own.

    Args:
        frame: rows that differ in nothing but the variable and the run.
        metric: positive metric.
        variable: the size it grows with.
        overhead: whether to allow one; None: for all metrics but ratios.
        level: credibility of the exponent's interval; None: the module's default.

    Raises:
        ValueError: the rows mix several series.
    """
    single_series(frame, [variable])
    pairs = [(s[0], v) for s, seen in points(frame, metric, [variable]).items() for v in seen]
    allowed = allows_overhead(metric) if overhead is None else overhead
    extra: Mapping[str, float] = {} if level is None else {"level": level}
    return fit_power(
        [x for x, _ in pairs], [y for _, y in pairs], metric=metric, variable=variable, overhead=allowed, **extra
    )


def law_of(
    frame: pd.DataFrame, metric: str, variables: Sequence[str] = ("n", "depth", "batch")
) -> Law | InsufficientData | NoExactLaw:
    """The law of a metric: exact where it is a count of bytes or of anything else, else fitted.

    Where a counted metric has no exact law in all varying sizes jointly and only one of them varies, the
    fitted law is given instead.

    Raises:
        ValueError: the rows mix several series, or more than one size varies for a fitted law.
    """
    varying = [v for v in variables if len(frame) and frame[v].nunique() > 1]
    if is_exact(metric):
        law = exact_law(frame, metric, variables)
        if isinstance(law, (ExactLaw, InsufficientData)) or len(varying) != 1:
            return law
    if len(varying) > 1:
        raise ValueError(f"{metric}: {', '.join(varying)} vary together, expected one; fix the others")
    return fitted_law(frame, metric, varying[0] if varying else "n")


def table(frame: pd.DataFrame, metrics: Sequence[str] = ("peak_bytes", "aten_calls", "seconds_min")) -> pd.DataFrame:
    """The laws of every series of a frame: by which formula each metric grows with the sizes.

    Args:
        frame: rows, as ``store.load`` and ``hograd_bench.measure`` give them.
        metrics: names of metrics.

    Returns:
        A row for each series and metric: the columns that tell series apart, as far as they take several values,
        ``metric``, ``law`` (the formula with its range and evidence; or why there is none), ``kind`` ("exact",
        "fitted" or "none").

    Raises:
        ValueError: the frame has no such metric.
    """
    for metric in metrics:
        if metric not in frame.columns:
            raise ValueError(f"metrics: got {metric!r}, expected columns of the frame")
    columns = [c for c in (*_SERIES, "order") if c in frame.columns]
    rows: list[dict[str, Any]] = []
    for key, series in frame.groupby(columns, sort=False, dropna=False):
        for metric in metrics:
            found: Any = None
            try:
                found = law_of(series, metric)
                text = found.text if isinstance(found, ExactLaw | FittedLaw) else str(found)
            except ValueError as error:
                text = str(error)
            kind = {ExactLaw: "exact", FittedLaw: "fitted"}.get(type(found), "none")
            rows.append({**dict(zip(columns, key, strict=True)), "metric": metric, "law": text, "kind": kind})
    made: pd.DataFrame = pd.DataFrame(rows, columns=[*columns, "metric", "law", "kind"])
    shown = [c for c in made.columns if c in ("operator", "method", "metric", "law", "kind") or made[c].nunique() > 1]
    return made[shown]


def single_series(frame: pd.DataFrame, variables: Sequence[str]) -> None:
    """Refuse rows that mix methods, problems, machines or sizes that are not variables.

    Raises:
        ValueError: they do; the message names the column and its values.
    """
    for column in (*_SERIES, *SIZES):
        if column in frame.columns and column not in variables:
            values = frame[column].dropna().unique().tolist()
            if len(values) > 1:
                shown = ", ".join(map(str, values[:4]))
                raise ValueError(f"frame: {column} takes {len(values)} values ({shown}), expected one; select first")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
