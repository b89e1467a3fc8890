"""How figures look, and the pieces that several figures share: axes with readable ticks, linked points, labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.markers import MarkerStyle
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.palette import Look
from hograd_bench.report.svg import FAINT
from hograd_bench.report.svg import INK as INK

_SETTINGS: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "hograd", "text.parse_math": False, "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif", "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "sans-serif"],
    "font.size": 9.5, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "patch.edgecolor": "w",
    "patch.force_edgecolor": True, "axes.titlecolor": INK, "axes.titlesize": 10.5, "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": FAINT, "grid.linewidth": 0.8, "axes.axisbelow": True,
    "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6, "ytick.major.width": 0, "xtick.major.size": 3,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
    "lines.linewidth": 1.5, "path.simplify": True,
}  # fmt: skip


LEAST_TICKS = 3
_PARTS = {
    10: ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), 2: ((1.0,), (1.0, 1.5), (1.0, 1.25, 1.5, 1.75)),
}  # fmt: skip
"""Base -> parts of a decade or octave that make ticks, from coarse to fine."""
_NAME, _MARK = 8.5, 4.0
"""Points: size of a name beside a point, and half of a marker."""
_AROUND = ((1, 0), (-1, 0), (0, 1.2), (0, -1.2), (1, 0.9), (1, -0.9), (-1, 0.9), (-1, -0.9))
"""Where a name may stand, the best first."""
_LETTER = 0.026
"""Width of a tick's letter, in widths of a panel's axes."""


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this block."""
    # Matplotlib's copy of seaborn's "ticks": seaborn itself would import scipy's statistics, which takes seconds.
    with mpl.style.context("seaborn-v0_8-ticks"), mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # A font without a glyph matters not: the text stays text, and the reader's browser has the fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def canvas(
    width: float = 5.4, height: float = 3.5, *, right: float = 0.73, left: float = 0.13, top: float = 0.42
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, and room on the right for labels. Sizes in inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, 0.48 / height, right - left, 1 - (0.48 + top) / height))
    return figure, axes


def values(axes: Axes, metric: str, *, axis: str = "y", log: bool = True, label: str | None = None) -> None:
    """An axis of a metric: logarithmic, with ticks such as ``10 µs`` or ``64 KiB``. Call it after drawing."""
    one = axes.yaxis if axis == "y" else axes.xaxis
    if log:
        (axes.set_yscale if axis == "y" else axes.set_xscale)("log")
        low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
        one.set_major_locator(FixedLocator(log_ticks(low, high, 2 if "bytes" in metric else 10)))
        one.set_minor_locator(NullLocator())
    one.set_major_formatter(FuncFormatter(lambda v, _: text.metric(metric, v)))
    if label:
        (axes.set_ylabel if axis == "y" else axes.set_xlabel)(label)


def log_ticks(low: float, high: float, base: int = 10) -> list[float]:
    """Three to about eight round places for ticks of a logarithmic axis, however narrow it is."""
    span = math.log(high / low, base)
    step = max(1, math.ceil(span / 7))
    for parts in _PARTS[base] if step == 1 else ((1.0,),):
        first, last = math.floor(math.log(low, base)), math.ceil(math.log(high, base))
        powers = range(first - first % step, last + 1, step)
        found = [part * float(base) ** power for power in powers for part in parts]
        inside = [tick for tick in found if low <= tick <= high]
        if len(inside) >= LEAST_TICKS:
            return inside
    return [float(tick) for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def sizes_axis(axes: Axes, sizes: Iterable[float], label: str, *, log: bool = True) -> None:
    """An x axis with ticks at the sizes that were measured, thinned where they would touch on a logarithmic one."""
    if log:
        axes.set_xscale("log")
    known = sorted(set(map(float, sizes)))
    span = math.log(max(known[-1] / known[0], 1.0001))
    ticks: list[float] = []
    for size in reversed(known):
        letters = (len(f"{size:,.0f}") + len(f"{ticks[-1]:,.0f}")) / 2 + 1 if ticks else 0.0
        if not ticks or not log or math.log(ticks[-1] / size) > _LETTER * letters * span:
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axes.set_xlabel(label)


def points(
    axes: Axes, x: Sequence[float], y: Sequence[float], look: Look, anchors: Sequence[str], size: float = 26
) -> None:
    """Markers, each a link to the evidence of its row."""
    # What axes.scatter makes, without its ten milliseconds of checks.
    marker = MarkerStyle(look.marker)
    path = marker.get_path().transformed(marker.get_transform())
    places = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    drawn = PathCollection(
        (path,), [size], offsets=places, offset_transform=axes.transData, linewidths=0, zorder=3, clip_on=False,
        facecolors=[to_rgba(look.colour)] * len(places),
    )  # fmt: skip
    drawn.set_transform(IdentityTransform())
    drawn.set_urls([f"#{a}" if a else None for a in anchors])
    axes.add_collection(drawn, autolim=False)
    axes.update_datalim(places)
    axes.autoscale_view()


def bars(axes: Axes, boxes: Sequence[tuple[float, float, float, float]], colours: Sequence[str], **looks: Any) -> None:
    """Bars as (left, bottom, width, height), whose limits the caller sets.

    They are one artist: of those, matplotlib takes milliseconds for each.
    """
    corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in boxes]
    axes.add_collection(PolyCollection(corners, facecolors=list(colours), linewidths=0, **looks), autolim=False)


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float, Look]]) -> None:
    """Names at the right of the axes, at the height of (x, y) with their look, moved apart where they would overlap.

    Call it last, when the limits are final.
    """
    figure = axes.get_figure()
    assert figure is not None
    _ = (axes.get_xlim(), axes.get_ylim())  # settles limits that are due to be computed
    height = axes.get_window_extent().height
    places = [(float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]), n, look)
              for n, (x, y, look) in ends.items()]  # fmt: skip
    places.sort(key=lambda place: place[:2])
    gap = 11.5 * figure.dpi / 72 / height
    for (_, name, look), at in zip(places, spread([p[0] for p in places], gap, -0.06, 1.06), strict=True):
        axes.annotate(
            f"{look.sign} {text.clean(name, 26)}", (1, at), xycoords="axes fraction", xytext=(7, 0),
            textcoords="offset points", color=look.colour, fontsize=8.5, va="center", annotation_clip=False,
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Ascending places, moved as little as possible so that neighbours are ``gap`` apart (least squares).

    Pool-adjacent-violators on the places less their ranks (Barlow et al. 1972). They stay within ``low`` and
    ``high`` where there is room; where not, ``high`` gives way.
    """
    blocks: list[tuple[float, int]] = []
    for rank, place in enumerate(wanted):
        mean, count = place - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, size = blocks.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    top = max(high - (len(flat) - 1) * gap, low)
    return [min(max(mean, low), top) + rank * gap for rank, mean in enumerate(flat)]


def name_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Ticks at 0, 1, 2, … under their names, of which those are left out that would touch."""
    low, high = axes.get_xlim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    letter = 0.55 * mpl.rcParams["font.size"] * (figure.dpi / 72) / axes.get_window_extent().width
    kept: list[int] = []
    for place in reversed(range(len(names))):
        letters = (len(names[place]) + len(names[kept[-1]])) / 2 + 1 if kept else 0.0
        if not kept or (kept[-1] - place) / (high - low) > letter * letters:
            kept.append(place)
    axes.set_xticks(kept, [names[place] for place in kept])


def curve(axes: Axes, law: Callable[[float], float], low: float, high: float, look: Look) -> None:
    """A law as a line over its range."""
    x = np.geomspace(low, high, 40) if high > low else np.array([low])
    y = np.array([law(float(v)) for v in x])
    shown = np.isfinite(y) & (y > 0)
    axes.plot(x[shown], y[shown], color=look.colour, linewidth=1.4, zorder=2)


def joined(axes: Axes, x: Sequence[float], y: Sequence[float], look: Look) -> None:
    """Points joined for the eye: dotted, for only laws and bounds are drawn whole."""
    axes.plot(x, y, color=look.colour, linewidth=1, linestyle=(0, (1.5, 2.5)), zorder=2)


def heading(axes: Axes, title: str) -> None:
    """A panel's title, in the corner where reading starts."""
    # At a height of its own: to find one above all ticks, matplotlib would measure every label.
    axes.set_title(text.clean(title, 80), pad=10, x=0, y=1.0)


def ratio_axis(axes: Axes, axis: str = "y") -> None:
    """A logarithmic axis of ratios, with ticks such as ``0.5×``."""
    one, (low, high) = (axes.yaxis, axes.get_ylim()) if axis == "y" else (axes.xaxis, axes.get_xlim())
    one.set_major_locator(FixedLocator(log_ticks(low, high)))
    one.set_minor_locator(NullLocator())
    one.set_major_formatter(FuncFormatter(lambda v, _: units.times(v)))


def powers(axes: Axes, axis: str, unit: str) -> None:
    """Ticks at powers of ten, written such as ``10⁻⁶`` or, with a unit, ``1 G FLOP/s``."""
    one, (low, high) = (axes.yaxis, axes.get_ylim()) if axis == "y" else (axes.xaxis, axes.get_xlim())
    if math.floor(math.log10(high)) - math.ceil(math.log10(low)) < 1:  # one power could not be read as a scale
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        (axes.set_ylim if axis == "y" else axes.set_xlim)(low, high)
    one.set_major_locator(LogLocator(base=10, numticks=9))
    one.set_minor_locator(NullLocator())
    one.set_major_formatter(FuncFormatter(lambda v, _: _power(v, unit)))


def _power(value: float, unit: str) -> str:
    exponent = round(math.log10(value)) if value > 0 else 0
    if unit:
        prefix = {0: "", 1: "k", 2: "M", 3: "G", 4: "T"}.get(exponent // 3)
        if prefix is not None:
            return f"{10 ** (exponent % 3)} {prefix}{unit.strip()}"
    if -3 <= exponent <= 3:
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) + unit


def binary_ticks(axes: Axes, axis: str = "x") -> None:
    """A linear axis of bytes from 0 with four or five round ticks."""
    one, high = (axes.xaxis, axes.get_xlim()[1]) if axis == "x" else (axes.yaxis, axes.get_ylim()[1])
    step = 2.0 ** math.ceil(math.log2(max(high, 8) / 5))
    one.set_major_locator(FixedLocator([float(v) for v in np.arange(0, high, step)]))


def key_above(figure: Figure, axes: Axes, names: Sequence[tuple[str, Look]], title: str) -> None:
    """Names in their colours on one or two lines above the axes, where a direct label finds no place."""
    if title:
        axes.set_title(text.clean(title, 80), x=0, y=1.0, pad=26 if len(names) > 3 else 18)
    width = axes.get_window_extent().width * 72 / figure.dpi
    x, line = 0.0, 0
    for name, look in names:
        shown = text.clean(name, 22)
        length = _width(f"■ {shown}", 8.5) + 9
        if x + length > width and line == 0:
            x, line = 0.0, 1
        axes.annotate(
            f"■ {shown}", (0, 1), xycoords="axes fraction", xytext=(x, 14 - 11 * line if len(names) > 3 else 5),
            textcoords="offset points", color=look.colour, fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
        x += length


def _width(shown: str, size: float) -> float:
    """Points that a text of that size takes."""
    width, _, _ = text_to_path.get_text_width_height_descent(shown, FontProperties(size=size), ismath=False)
    return float(width)


def label_points(axes: Axes, named: Iterable[tuple[float, float, str, str]]) -> None:
    """Names beside points (x, y, name, colour), each where it covers least of the others; call it last.

    Greedy over eight places around each point (Christensen, Marks & Shieber 1995 call it so, and do better in hours).
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    _ = (axes.get_xlim(), axes.get_ylim())
    scale = 72 / figure.dpi
    frame = axes.get_window_extent()
    limits = (frame.x0 * scale, frame.y0 * scale, frame.x1 * scale, frame.y1 * scale)
    points = []
    for x, y, name, colour in named:
        px, py = axes.transData.transform((x, y)) * scale
        points.append((float(px), float(py), text.clean(name, 26), colour))
    taken = [(px - _MARK, py - _MARK, px + _MARK, py + _MARK) for px, py, _, _ in points]
    for px, py, name, colour in sorted(points, key=lambda p: (p[1], p[0])):
        width = 0.52 * _NAME * len(name)
        around = []
        for place, (dx, dy) in enumerate(_AROUND):
            left, low = px + dx * (_MARK + 3) - (dx < 0) * width - (dx == 0) * width / 2, py + dy * _NAME - _NAME / 2
            box = (left, low, left + width, low + _NAME)
            outside = width * _NAME - _common(box, limits)
            around.append((sum(_common(box, other) for other in taken) + outside, place, box))
        _, place, box = min(around)
        taken.append(box)
        axes.annotate(
            name, (box[0], (box[1] + box[3]) / 2), xycoords="figure points", color=colour,
            fontsize=_NAME, va="center", annotation_clip=False,
        )  # fmt: skip


def _common(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
