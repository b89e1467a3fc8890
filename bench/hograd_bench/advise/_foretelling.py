"""What happens at sizes that nobody measured, by exact laws of sizes that were. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pandas as pd

from hograd_bench import laws, units
from hograd_bench.advise._plan import Need
from hograd_bench.advise._ranking import Ranking
from hograd_bench.laws.frames import ITEMSIZE

_LARGEST = 2**60  # n beyond which nobody asks


@dataclass(frozen=True)
class Foretold:
    """One figure at one size.

    Attributes:
        need: name of the operator.
        method: by which; "" for the result alone, which every method has to hold.
        n: the size.
        bytes: what it needs.
        law: the formula, where the figure is a law's; "": it follows from the shape of the result, or was measured.
        largest: the largest n that keeps to the memory budget; None: not known, or without an end.
        fits: whether it keeps to it at n.
        measured: whether it was measured there.
    """

    need: str
    method: str
    n: int
    bytes: int
    law: str
    largest: int | None
    fits: bool
    measured: bool = False

    @property
    def text(self) -> str:
        """A sentence."""
        what = f"by {self.method}, at its peak" if self.method else "for its result alone"
        end = f"; the largest n that fits is {self.largest:,}" if self.largest is not None else ""
        seen = " (measured)" if self.measured else ""
        return f"at n = {self.n:,} {self.need} needs {units.binary(self.bytes)} {what}{seen}{end}"


def foretell(
    frame: pd.DataFrame, described: Mapping[str, Any], rankings: Sequence[Ranking], sizes: Sequence[int]
) -> list[Foretold]:
    """Peak bytes of the method to take, and bytes of the result, at other sizes.

    Args:
        frame: rows at several sizes.
        described: the target's description.
        rankings: with the method to take for each need.
        sizes: values of the target's parameter.

    Returns:
        By need and size; of a need without a law only what follows from the shape of its result.
    """
    if not described["law_sizes"]:
        return []
    found: list[Foretold] = []
    memory = int(described["memory"])
    numel = _numel(frame)
    for ranking in rankings:
        series = _series(frame, ranking)
        law = _law(series)
        for n in sizes:
            found += _peak(ranking, law, series, n, memory)
            if numel is not None:
                found += _result(ranking.need, numel, described["dtype"], n, memory)
    return found


def _series(frame: pd.DataFrame, ranking: Ranking) -> pd.DataFrame:
    """The rows of the method to take that have a peak, at all sizes."""
    best = ranking.at_once
    found: pd.DataFrame = frame[
        (frame["operator"] == ranking.need.operator)
        & (frame["order"] == ranking.need.order)
        & (frame["method"] == (best and best.method))
        & (frame["preparation"] == "eager")
        & frame.reindex(columns=["peak_bytes"])["peak_bytes"].notna()
    ]
    return found


def _law(series: pd.DataFrame) -> laws.ExactLaw | None:
    found = laws.exact_law(series, "peak_bytes", ("n",)) if len(series) else None
    return found if isinstance(found, laws.ExactLaw) else None


def _numel(frame: pd.DataFrame) -> laws.ExactLaw | None:
    """Elements of x by n."""
    known: dict[tuple[int, ...], int | float | Fraction]
    known = {(int(n),): int(numel) for n, numel in zip(frame["n"], frame["numel"], strict=True) if numel == numel}
    found = laws.fit_exact(known, ("n",), metric="numel")
    return found if isinstance(found, laws.ExactLaw) else None


def _peak(ranking: Ranking, law: laws.ExactLaw | None, series: pd.DataFrame, n: int, memory: int) -> Iterator[Foretold]:
    best = ranking.at_once
    seen = [int(peak) for at, peak in zip(series["n"], series["peak_bytes"], strict=True) if at == n]
    needed = seen[0] if seen else None if law is None else _at(law, n)
    if best is None or needed is None:
        return
    largest = None
    if law is not None:
        largest = _largest(lambda size: _at(law, size), memory, max(law.step.get("n", 1), 1), law.start.get("n", 1))
    text = law.text if law is not None else ""
    yield Foretold(ranking.need.name, best.method, n, needed, text, largest, needed <= memory, bool(seen))


def _result(need: Need, numel: laws.ExactLaw, dtype: str, n: int, memory: int) -> Iterator[Foretold]:
    def of(size: int) -> int | None:
        elements = _at(numel, size)
        return None if elements is None else need.entries(elements) * ITEMSIZE[dtype]

    needed = of(n)
    if needed is not None and need.full:
        largest = _largest(of, memory, max(numel.step.get("n", 1), 1), numel.start.get("n", 1))
        yield Foretold(need.name, "", n, needed, "", largest, needed <= memory)


def _at(law: laws.ExactLaw, n: int) -> int | None:
    try:
        return law.predict({"n": n})
    except ValueError:
        return None


def _largest(of: Any, memory: int, step: int, start: int) -> int | None:
    """The largest size on the law's lattice that keeps to the budget."""
    low, high = start, start
    if (first := of(low)) is None or first > memory:
        return None
    while (at := of(high)) is not None and at <= memory:
        low, high = high, high * 2
        if high > _LARGEST:
            return None
    while high - low > step:
        middle = low + max(step, (high - low) // 2 // step * step)
        at = of(middle)
        if at is not None and at <= memory:
            low = middle
        else:
            high = middle
    return low if math.isfinite(low) else None
