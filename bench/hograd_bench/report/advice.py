"""The method to take, by what is needed, dimension, order, memory and number of products. A pure function of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.data import exact, numbers, positive

BANDS = (16, 128, 1024, 16384)
"""Upper ends of the ranges of dimension."""
TIERS = tuple(2.0 ** (20 + 2 * i) for i in range(9))
"""Memory budgets that are spoken of, in bytes: 1 MiB to 64 GiB."""
MOST_PLACES = 6
"""Pairs of a machine and a device that are advised on, those with the most rows."""
SUPPORT = 1 / 3
"""Share of a situation's problems and sizes that a method was measured on at least, to be one to take."""
FITS = 0.9
"""Share of those where it stays within the budget."""
_POINT = ["problem", "n", "depth", "batch", "order", "machine"]
_SPOKEN = [
    "operator", "method", "preparation", *_POINT, "dtype", "device", "threads", "numel", "seconds_min", "peak_bytes",
    "gradient_equivalents", "anchor",
]  # fmt: skip
_WAY = ["operator", "method", "preparation"]
_PRODUCTS = (
    ("one Hessian-vector product (any k: Dᵏf·v⋯v)", "one Hessian-vector product", 1),
    ("ten Hessian-vector products (any k: Dᵏf·v⋯v)", "ten Hessian-vector products", 10),
    ("the whole Hessian (any k: all of Dᵏf), or n products", "the whole Hessian, or n products", None),
)  # fmt: skip
"""What is needed, what it is called at order 2, and how many products it is, None: one for each dimension."""
_ALONG = ("the second derivative along v (any k: a number Dᵏf·v⋯v)", "the second derivative along v, vᵀHv")

_ARGUMENTS = {
    "derivative_tensor": ("hessian", "x"), "derivative_vector_product": ("hvp", "x, v"),
    "directional_derivative": ("", "x, v"),
}  # fmt: skip
"""Operator of a function -> what it is called at order 2, and what it takes after f."""


@dataclass(frozen=True)
class Pick:
    """The method to take in one situation.

    Attributes:
        operator, method: what to call; "" where there is none to take.
        points: number of measured problems and sizes that speak for it.
        fastest: in how many of them it is the fastest.
        worst: how many times longer than the fastest it takes at worst.
        preparation: what is done once before it is called: eager, graph, compiled, ...
        dimension, seconds, peak, gradients: medians of those points; NaN where that was not measured.
        next_best: the method that comes after it, in words, or "".
        slower: how many times its time the next best takes, the geometric mean where both were measured.
        anchors: evidence, (anchor, what) a point.
        why: why there is none to take, else "".
        order: of the derivative.
    """

    operator: str
    method: str
    points: int
    fastest: int
    worst: float
    preparation: str = "eager"
    dimension: float = math.nan
    seconds: float = math.nan
    peak: float = math.nan
    gradients: float = math.nan
    next_best: str = ""
    slower: float = math.nan
    anchors: tuple[tuple[str, str], ...] = ()
    why: str = ""
    order: int = 0

    @property
    def call(self) -> str:
        """What to write with f, x and v at hand, by names of hograd_core; "" for operators that take other things."""
        if self.operator not in _ARGUMENTS:
            return ""
        alias, arguments = _ARGUMENTS[self.operator]
        name, order = (alias, "") if alias and self.order == 2 else (self.operator, f", order={self.order}")
        how = f'{order}, method="{text.clean(self.method, 40)}"'
        if self.preparation == "eager":
            return f"{name}(f, {arguments}{how})"
        return f'prepare({name}, f, x{how}, preparation="{text.clean(self.preparation, 20)}")({arguments})'

    @property
    def words(self) -> str:
        """The method, and what is done before it."""
        return way(self.method, self.preparation)

    @property
    def figures(self) -> str:
        """``61 µs, 242 KiB, 1.1 gradients``."""
        known = (
            (self.seconds, units.seconds(self.seconds)),
            (self.peak, units.binary(self.peak) if math.isfinite(self.peak) else ""),
            (self.gradients, f"{units.figures(self.gradients)} gradients"),
        )
        return ", ".join(words for value, words in known if math.isfinite(value))


@dataclass(frozen=True)
class Situation:
    """One line: an order and a range of dimensions, with a pick for each memory budget."""

    order: int
    band: str
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class Need:
    """What is needed, with a line for every situation that was measured.

    Attributes:
        title: in words.
        second: the name that everybody uses at order 2, "" for none.
        budgets: bytes, the last of them infinite.
        situations: by order and dimension.
        main: whether it is one of the derivative operators of a function.
        device: what it holds on, where rows of several devices or machines were measured, else "".
        rows: what it was found from, with each row's ``cost`` in seconds, ``peak``, and ``band`` of dimension.
    """

    title: str
    second: str
    budgets: tuple[float, ...]
    situations: tuple[Situation, ...]
    main: bool
    device: str = ""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)

    @property
    def spoken(self) -> Situation:
        """The line that a sentence is made of: of the lowest order above one, the largest dimension."""
        order = min((s.order for s in self.situations if s.order > 1), default=self.situations[-1].order)
        return [s for s in self.situations if s.order == order][-1]

    @property
    def words(self) -> str:
        """The need and the device."""
        return self._here(self.title)

    def at(self, order: int) -> str:
        """The need at an order, and the device: ``one Hessian-vector product``."""
        return self._here(self.second if order == 2 and self.second else f"{self.title}, k = {order}")

    def _here(self, said: str) -> str:
        return f"{said}, on {self.device}" if self.device else said


def advise(ok: pd.DataFrame) -> list[Need]:
    """Recommendations from rows that came out well.

    Each device of each machine is advised on by itself. Of it only the dtype and number of threads with the most rows
    speak, and no approximations.
    """
    timed = positive(exact(ok)[[c for c in _SPOKEN if c in ok]], "seconds_min")
    sizes = timed.groupby(["machine", "device"], observed=True).size().sort_values(ascending=False, kind="stable")
    places = sorted(sizes.index[:MOST_PLACES])
    machines, devices = len({m for m, _ in places}), len({d for _, d in places})
    found = []
    for machine, device in places:
        here = timed[(timed["machine"] == machine) & (timed["device"] == device)]
        named = [text.clean(device, 12)] * (devices > 1) + [text.clean(machine, 40)] * (machines > 1)
        found += [replace(need, device=" of ".join(named)) for need in _advise(_comparable(here))]
    return found


def _advise(rows: pd.DataFrame) -> list[Need]:
    """Recommendations for one device of one machine."""
    found = [_need(title, second, _products(rows, count)) for title, second, count in _PRODUCTS]
    derivatives = ("derivative_tensor", "derivative_vector_product")
    names = sorted(set(rows["operator"]) - set(derivatives), key=lambda o: (o != "directional_derivative", o))
    for operator in names:
        part = rows[rows["operator"] == operator]
        title, second = _ALONG if operator == "directional_derivative" else (text.operator_name(operator), "")
        found.append(_need(title, second, part.assign(cost=part["seconds_min"])))
    return [n for n in found if n is not None]


def way(method: str, preparation: str) -> str:
    """A method and its preparation in words: ``double_backward, compiled``."""
    named = text.clean(method, 40)
    return named if preparation == "eager" else f"{named}, {text.clean(preparation, 20)}"


def budgets_of(peaks: Sequence[float]) -> tuple[float, ...]:
    """The tiers of memory that some measured peak keeps and some other does not, then no limit."""
    known = [p for p in peaks if p > 0 and math.isfinite(p)]
    return (*(t for t in TIERS if known and min(known) <= t < max(known)), math.inf)


def _comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """One dtype, device and number of threads: that of most rows."""
    if rows.empty:
        return rows
    setting = rows.groupby(["dtype", "device", "threads"], observed=True).size().idxmax()
    mask = np.ones(len(rows), dtype=bool)
    for column, value in zip(("dtype", "device", "threads"), setting, strict=True):  # type: ignore[call-overload]
        mask &= (rows[column] == value).to_numpy()
    chosen: pd.DataFrame = rows[mask]
    return chosen


def _products(rows: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """Ways to get that many vector products (None: n of them), with their cost: products one by one, or the tensor."""
    vector = rows[rows["operator"] == "derivative_vector_product"]
    dimension = _dimension(vector)
    vector = vector.assign(cost=vector["seconds_min"] * (dimension if count is None else count))
    tensor = rows[rows["operator"] == "derivative_tensor"]
    both: pd.DataFrame = pd.concat([vector, tensor.assign(cost=tensor["seconds_min"])])
    # Where only the tensor was measured, nothing can be said about a product; of several, neither where only that was.
    points = both.groupby(_POINT, observed=True)["operator"]
    spoken = points.transform("nunique") == 2
    if count == 1:
        spoken |= both["operator"] == "derivative_vector_product"
    compared: pd.DataFrame = both[spoken]
    return compared


def _dimension(rows: pd.DataFrame) -> pd.Series[float]:
    known: pd.Series[float] = numbers(rows, "numel").where(numbers(rows, "numel") > 0, rows["n"].astype(float))
    return known


def _need(title: str, second: str, rows: pd.DataFrame) -> Need | None:
    if len(rows[_WAY].drop_duplicates()) < 2:
        return None
    dimension = _dimension(rows).to_numpy(dtype=float)
    rows = rows.assign(
        peak=numbers(rows, "peak_bytes"), gradients=numbers(rows, "gradient_equivalents"), dimension=dimension,
        band=np.searchsorted(BANDS, dimension),
    )  # fmt: skip
    budgets = budgets_of(rows["peak"].to_list())
    situations = [
        Situation(int(part["order"].iloc[0]), _band(int(part["band"].iloc[0])), tuple(_picks(part, budgets)))
        for _, part in rows.groupby(["order", "band"], sort=True)
    ]
    return Need(title, second, budgets, tuple(situations), bool(second), rows=rows)


def _band(place: int) -> str:
    low = BANDS[place - 1] + 1 if place else 1
    return f"{low:,} – {BANDS[place]:,}" if place < len(BANDS) else f"over {BANDS[-1]:,}"


def _picks(part: pd.DataFrame, budgets: Sequence[float]) -> Iterator[Pick]:
    records = [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]
    names: dict[tuple[Any, ...], int] = {}
    point = np.array([names.setdefault(tuple(r[c] for c in _POINT), len(names)) for r in records])
    cost, peak = part["cost"].to_numpy(dtype=float), part["peak"].to_numpy(dtype=float)
    ways: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(records):
        ways.setdefault(tuple(row[c] for c in _WAY), []).append(i)
    for budget in budgets:
        yield _pick(records, ways, point, cost, peak, budget)


def _pick(
    records: Sequence[dict[str, Any]],
    ways: dict[tuple[str, ...], list[int]],
    point: np.ndarray[Any, Any],
    cost: np.ndarray[Any, Any],
    peak: np.ndarray[Any, Any],
    budget: float,
) -> Pick:
    """The method to take within a budget.

    Of the points that can speak, where some method fits, a method was measured on some. What it was not measured on
    says nothing against it; a point where it does not fit does.
    """
    known = np.full(len(point), True) if math.isinf(budget) else np.isfinite(peak)
    fits = known & (math.isinf(budget) | (peak <= budget))
    best = np.full(point.max() + 1, math.inf)
    np.minimum.at(best, point[fits], cost[fits])
    possible = known & np.isfinite(best[point])  # where nothing fits, no method can be told from another
    points = len(set(point[possible]))
    slower = cost / best[point]
    summary = []
    for key, members in sorted(ways.items()):
        measured = [i for i in members if possible[i]]
        mine = np.array([i for i in measured if fits[i]], dtype=int)
        if len(mine):
            share = len(mine) / len(measured)
            rank = (len(measured) < SUPPORT * points, max(0.0, FITS - share), float(np.log(slower[mine]).mean()))
            summary.append((rank, key, mine))
    if not summary:
        return Pick("", "", 0, 0, math.nan, why="nothing fits" if known.any() else "bytes not measured")
    ranked = sorted(summary, key=lambda s: s[0])
    _, (operator, method, preparation), mine = ranked[0]
    second = _second(ranked, point, cost)
    mine = mine[np.argsort(slower[mine], kind="stable")]
    anchors = tuple(
        (r["anchor"], f"{r['problem']} {text.sizes(r)}: {units.seconds(r['cost'])}, {units.times(slower[i])}")
        for i, r in ((i, records[i]) for i in mine)
        if r["anchor"]
    )
    return Pick(
        operator, method, len(mine), int((slower[mine] <= 1).sum()), float(slower[mine].max()), preparation,
        dimension=_median(records, mine, "dimension"), seconds=_median(records, mine, "cost"),
        peak=_median(records, mine, "peak"), gradients=_median(records, mine, "gradients"),
        next_best=second[0], slower=second[1], anchors=anchors, order=int(records[0]["order"]),
    )  # fmt: skip


_Ranked = Sequence[tuple[Any, tuple[str, ...], np.ndarray[Any, Any]]]


def _second(ranked: _Ranked, point: np.ndarray[Any, Any], cost: np.ndarray[Any, Any]) -> tuple[str, float]:
    """The first of the others that was measured somewhere that the pick was, and how many times its time it takes."""
    taken = {point[i]: cost[i] for i in ranked[0][2]}
    for _, (_, method, preparation), members in ranked[1:]:
        ratios = [cost[i] / taken[point[i]] for i in members if point[i] in taken]
        if ratios:
            return way(method, preparation), float(np.exp(np.mean(np.log(ratios))))
    return "", math.nan


def _median(records: Sequence[dict[str, Any]], members: Iterable[int], name: str) -> float:
    known = [value for i in members if math.isfinite(value := float(records[i][name]))]
    return float(np.median(known)) if known else math.nan
