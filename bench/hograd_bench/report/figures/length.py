"""Time and bytes against the length of the computation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from matplotlib.ticker import MaxNLocator, MultipleLocator

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, Note, panel, slug
from hograd_bench.report.figures._series import MOST, SETTING, keys_of, lines, swept
from hograd_bench.report.figures._sweep import fit
from hograd_bench.report.palette import ordinal

ORDER = 20
TITLE = "Growth with the length T of the computation"
ABOUT = (
    "Peak bytes of the k-th derivative of a chain of T steps, a line an order k. Is it Tᵏ? A straight line is O(T), "
    "whatever its slope: axes are linear here, the law through the points is exact, and its formula stands below."
)
_FIXED = ("operator", "method", "problem", "n", "batch", *SETTING)


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator, method and problem that was swept over depth."""
    found = positive(data.ok, "peak_bytes")
    ranked = list(swept(found, _FIXED, "order", "depth", 3))
    ranked.sort(key=lambda item: -len(item[1]))
    for number, (named, part) in enumerate(ranked[:MOST]):
        figure, axes = style.canvas(5.4, 3.6)
        drawn, ends, notes, said = [], [], [], []
        for place, (order, line) in enumerate(lines(part, "depth", "order")):
            look, last = ordinal(place), line.iloc[-1]
            law = fit(line, "peak_bytes", "depth")
            drawn.append(style.Series(line, look, law))
            if law is not None:
                notes.append(Note(look.index, f"order {order}", law.said, f"#{last['anchor']}"))
            ends.append((f"k = {order}", last["peak_bytes"], look))
            said.append(f"order {order}: {law.said if law else units.binary(last['peak_bytes'])}")
        style.series(axes, drawn, "depth", "peak_bytes")
        axes.set(xlabel="T, steps of the chain", xlim=(0, None), ylim=(0, None))
        style.ticks(axes, "y", units.binary, base=None)
        axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.ceil(math.log2(max(axes.get_ylim()[1], 8) / 5))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        method, n = text.clean(named["method"], 30), named["n"]
        style.heading(axes, "Peak bytes by order")
        style.label_ends(axes, ends)
        name = f"length-{number}-{slug(named['operator'], named['problem'])}"
        alt = f"Peak bytes against T by {method}, n = {n}. " + "; ".join(said)
        title = (
            f"{text.operator_name(str(named['operator']))} of {text.clean(named['problem'], 40)} by {method}, n = {n}"
        )
        keys = {**keys_of(named, data), "method": method}
        yield Drawn(name, title, keys, [panel(figure, f"{name}-0", alt)], notes)
