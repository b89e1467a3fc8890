"""From the frame of rows to rankings, and to the method to take. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hograd_bench import known
from hograd_bench.advise import _remedies
from hograd_bench.advise._plan import FORETOLD, Need, foretold_seconds, methods

TIE = 1.05
"""Times within this ratio, or within each other's spread, are the same: the one that takes less memory is taken."""


@dataclass(frozen=True)
class Ranked:
    """A method on the target.

    Attributes:
        method, preparation: what to call, and what is done once before the calls.
        status: "ok", or why there are no figures: a row's status, or "refused" by hograd's guard.
        exact: False for an estimate.
        fits: whether its peak keeps to the memory budget; None: not known.
        seconds, spread: fastest call and interquartile range; NaN where it was not timed.
        gradients: the same in gradients of the same function.
        peak: bytes, exactly; NaN where not known.
        error: relative error against float64 truth.
        pays_after: calls after which what was done once has paid for itself; NaN where nothing was, or it never does.
        reason, remedy: why there are no figures, and what to do about it.
        sampled: what of the result was held against truth, where not all of it; "" where all was.
        foretold: seconds that a call would take which was not measured, from the time of one product; NaN where that
            says nothing.
    """

    method: str
    preparation: str
    status: str
    exact: bool
    fits: bool | None
    seconds: float
    spread: float
    gradients: float
    peak: float
    error: float
    pays_after: float = math.nan
    reason: str = ""
    remedy: str = ""
    sampled: str = ""
    foretold: float = math.nan

    @property
    def usable(self) -> bool:
        """Whether it was measured, is right, is exact, fits, and pays where something was done once."""
        paid = self.preparation == "eager" or math.isfinite(self.pays_after)
        return paid and self.status == "ok" and self.exact and self.fits is True and math.isfinite(self.seconds)


@dataclass(frozen=True)
class Ranking:
    """The methods of one need, usable ones first, by time; ``best`` is the one to take, None where there is none."""

    need: Need
    ranked: tuple[Ranked, ...]
    best: Ranked | None

    @property
    def at_once(self) -> Ranked | None:
        """The best of those that need nothing done before."""
        return _best([r for r in self.ranked if r.usable and r.preparation == "eager"])

    @property
    def why(self) -> str:
        """Why there is none to take."""
        if self.best is not None:
            return ""
        if not self.ranked:
            return "no method is defined for it"
        right = [r for r in self.ranked if r.status == "ok" and r.exact]
        if right:
            return "no method that is right keeps to the memory budget"
        counts: dict[str, int] = {}
        for each in self.ranked:
            counts[each.status] = counts.get(each.status, 0) + 1
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"no method gave a result that agrees with float64 truth ({said})"


def ranking(frame: pd.DataFrame, described: Mapping[str, Any], need: Need) -> Ranking:
    """The methods of a need, from the rows at the target's own size.

    Args:
        frame: rows as ``store`` makes them.
        described: the target's description.
        need: which operator and order.
    """
    exact = {m["name"]: bool(m["exact"]) for m in methods(described, need)}
    if "seconds_min" in frame:
        frame = frame.assign(seconds_min=known.steady(frame))
    rows = frame[(frame["operator"] == need.operator) & (frame["order"] == need.order) & (frame["n"] == described["n"])]
    found = [
        _ranked(row, exact[row["method"]], described, need) for row in rows.to_dict("records") if row["method"] in exact
    ]
    found.sort(key=lambda r: (not r.usable, r.status != "ok", not r.exact, r.seconds if r.seconds > 0 else math.inf))
    return Ranking(need, tuple(found), _best([r for r in found if r.usable]))


def _best(usable: list[Ranked]) -> Ranked | None:
    """Of those that are as fast as the fastest, the one with the least peak."""
    if not usable:
        return None
    first = usable[0]
    same = [r for r in usable if r.seconds <= max(TIE * first.seconds, first.seconds + min(first.spread, r.spread))]
    return min(same, key=lambda r: (r.peak, r.seconds))


def _ranked(row: Mapping[Any, Any], exact: bool, described: Mapping[str, Any], need: Need) -> Ranked:
    number = {name: float(row.get(name, math.nan)) for name in _FIGURES}
    status, reason = str(row["status"]), str(row["reason"] or "")
    missing = row["missing"] or {}
    if status == "ok" and row.get("allowed") == 0:
        status, reason = "refused", str(row["details"].get("refused", "hograd's guard refuses it"))
    elif status == "ok" and not math.isfinite(number["seconds_min"]):
        status, reason = "failed", str(missing.get("seconds_min", "it was not timed"))
    elif status == "skipped" and reason.startswith(FORETOLD):
        status, reason = "not measured", reason.removeprefix(FORETOLD)
    foretold = foretold_seconds(described, need, row["method"]) if status == "not measured" else None
    fits = number["peak_bytes"] <= float(described["memory"]) if math.isfinite(number["peak_bytes"]) else None
    return Ranked(
        method=str(row["method"]), preparation=str(row["preparation"]), status=status, exact=exact, fits=fits,
        seconds=number["seconds_min"], spread=number["seconds_iqr"], gradients=number["gradient_equivalents"],
        peak=number["peak_bytes"], error=number["relative_error"],
        pays_after=number["breakeven_calls"], reason=reason,
        remedy=_remedies.remedy(status, reason), sampled=str(row["details"].get("sampled", "")),
        foretold=math.nan if foretold is None else foretold,
    )  # fmt: skip


_FIGURES = ("seconds_min", "seconds_iqr", "gradient_equivalents", "peak_bytes", "relative_error", "breakeven_calls")
