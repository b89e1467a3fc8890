"""How figures look, and the pieces that several share: seaborn on frames, with readable ticks, links, names at ends.

Importing this imports seaborn, which takes most of a second: only what draws imports it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.palette import BETTER, FAINT, WORSE, Look
from hograd_bench.report.palette import INK as INK
from hograd_bench.report.svg import END

_SETTINGS: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "hograd", "text.parse_math": False, "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif", "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "sans-serif"],
    "font.size": 9.5, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "axes.titlesize": 10.5, "axes.titley": 1.0, "axes.labelsize": 9.5, "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": FAINT, "grid.linewidth": 0.8, "axes.axisbelow": True,
    "xtick.color": INK, "ytick.color": INK, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "legend.fontsize": 8.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0, "xtick.major.size": 3, "axes.facecolor": "none",
    "figure.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
}  # fmt: skip
DIVERGING = [
    *((*WORSE, alpha) for alpha in (0.65, 0.42, 0.2)), (0.5, 0.5, 0.5, 0.08),
    *((*BETTER, alpha) for alpha in (0.2, 0.42, 0.65)),
]  # fmt: skip
"""From slower to faster, red to blue; translucent, so that ink is read on them on light and on dark paper."""
LEAST_TICKS = 3
LONGEST_NAME = 36
"""Letters of a name beside a line or a row at most: a method that was prepared, and any operator, whole."""
DASHED = (0, (4, 3))
_DOTS = (1.5, 2.5)
_PARTS = {
    10: ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), 2: ((1.0,), (1.0, 1.5), (1.0, 1.25, 1.5, 1.75)),
}  # fmt: skip
"""Base -> parts of a decade or octave that make ticks, from coarse to fine."""


class Law(Protocol):
    """A law of one size, from where it holds."""

    @property
    def start(self) -> float:
        """The smallest size of which it speaks."""

    @property
    def at(self) -> Callable[[float], float]:
        """Its value at a size."""


class Series(NamedTuple):
    """Rows in ascending order of a size, how they are drawn, and their law where there is one."""

    rows: pd.DataFrame
    look: Look
    law: Law | None = None


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this block."""
    with mpl.rc_context(sns.axes_style("ticks") | _SETTINGS), warnings.catch_warnings():
        # A font without a glyph matters not: the text stays text, and the reader's browser has the fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def canvas(
    width: float = 5.4, height: float = 3.5, *,
    right: float = 0.73, left: float = 0.13, top: float = 0.42, bottom: float = 0.48,
) -> tuple[Figure, Axes]:  # fmt: skip
    """A figure with one pair of axes, and room on the right for names. Sizes in inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, bottom / height, right - left, 1 - (bottom + top) / height))
    # Where an axis has a label, seaborn asks for no tick's visibility: half its time. panel() takes blank ones away.
    axes.set(xlabel=" ", ylabel=" ")
    return figure, axes


def heading(axes: Axes, title: str) -> None:
    """A panel's title, in the corner where reading starts."""
    axes.set_title(text.clean(title, 80), pad=10)


def points(axes: Axes, lines: Sequence[Series], x: str, y: str, size: float = 26) -> None:
    """A marker a row, each a link to the row's evidence (column ``anchor``, if there is one)."""
    rows = pd.concat({place: one.rows.reindex(columns=[x, y, "anchor"]) for place, one in enumerate(lines)})
    rows = rows.reset_index(level=0, names="look").reset_index(drop=True)
    sns.scatterplot(  # one call for all: of its time most is spent before the first point
        data=rows, x=x, y=y, hue="look", style="look", palette={i: one.look.colour for i, one in enumerate(lines)},
        markers={i: one.look.marker for i, one in enumerate(lines)}, s=size, linewidth=0, zorder=3, clip_on=False,
        legend=False, ax=axes,
    )  # fmt: skip
    # A collection a look: all markers of one have one shape, which the SVG then holds once.
    drawn = axes.collections[-1]
    drawn.remove()
    places = rows.groupby("look").indices
    for one, at in ((one, places[place]) for place, one in enumerate(lines) if place in places):
        part = copy.copy(drawn)
        part.set_paths([drawn.get_paths()[at[0]]])
        part.set(offsets=np.asarray(drawn.get_offsets())[at], facecolors=one.look.colour)
        part.set_urls([f"#{a}" if isinstance(a, str) and a else None for a in rows["anchor"].iloc[at]])
        axes.add_collection(part, autolim=False)


def line(axes: Axes, rows: pd.DataFrame, x: str, y: str, look: Look, **looks: Any) -> None:
    """A line through the rows in ascending order of x: no estimate and no band, for bands are random."""
    drawn = {"linewidth": 1.4, "zorder": 2} | looks
    sns.lineplot(data=rows, x=x, y=y, color=look.colour, estimator=None, errorbar=None, legend=False, ax=axes, **drawn)


def series(axes: Axes, lines: Sequence[Series], x: str, y: str, size: float = 26) -> None:
    """Linked points, and the law of each line over its range; without one, joined for the eye by dots.

    Laws are no rows: they are plotted as they are, for a third of what seaborn takes for them.
    """
    for one in lines:
        curve, joined = _curve(one, x, y), one.law is None
        axes.plot(
            curve[x], curve[y], color=one.look.colour, linewidth=1.3, zorder=2, linestyle=(0, _DOTS) if joined else "-"
        )
    points(axes, lines, x, y, size)


def _curve(one: Series, x: str, y: str) -> pd.DataFrame:
    if one.law is None:
        measured: pd.DataFrame = one.rows[[x, y]]
        return measured
    low, high = max(one.law.start, float(one.rows[x].min())), float(one.rows[x].max())
    at = np.geomspace(low, high, 40) if high > low else np.array([low])
    curve: pd.DataFrame = pd.DataFrame({x: at, y: [one.law.at(float(v)) for v in at]})
    shown: pd.DataFrame = curve[np.isfinite(curve[y]) & (curve[y] > 0)]
    return shown


def strips(
    axes: Axes, rows: pd.DataFrame, x: str, by: str, names: Sequence[str], looks: Mapping[str, Look],
    hue: str = "", size: float = 4,
) -> None:  # fmt: skip
    """A strip of points a name, from the bottom, coloured by ``hue`` (or by name); x becomes logarithmic.

    Points are scattered across their strip, so that equal ones are told apart; that means nothing.
    """
    # The names in results are hostile: seaborn sees their places alone.
    places = rows[by].map({name: i for i, name in enumerate(names)})
    state = np.random.get_state()
    np.random.seed(0)  # seaborn scatters by the global generator
    try:
        sns.stripplot(
            data=rows.assign(place=places), x=x, y="place", order=range(len(names)), orient="h", jitter=0.24,
            hue=hue or by, palette={name: look.colour for name, look in looks.items()}, size=size, linewidth=0,
            zorder=3, clip_on=False, legend=False, ax=axes,
        )  # fmt: skip
    finally:
        np.random.set_state(state)
    for place, drawn in enumerate(axes.collections[-len(names) :]):
        if "anchor" in rows:
            drawn.set_urls([f"#{a}" if a else None for a in rows.loc[places == place, "anchor"]])
    name_rows(axes, names, {} if hue else looks)
    axes.set_xscale("log")


def name_rows(axes: Axes, names: Sequence[str], looks: Mapping[str, Look], anchors: Sequence[str] = ()) -> None:
    """Horizontal strips or bars, from the bottom, under their names in their colours; lines of the grid stand."""
    axes.set_yticks(range(len(names)), [text.clean(name, 32) for name in names])
    for i, (label, name) in enumerate(zip(axes.get_yticklabels(), names, strict=True)):
        label.set_color(looks[name].colour if name in looks else INK)
        if anchors and anchors[i]:
            label.set_url(f"#{anchors[i]}")
    axes.set(ylim=(-0.6, len(names) - 0.4))
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def limit(axes: Axes, x: float, said: str = "", colour: str = INK) -> None:
    """A dashed line at a value of x, with a word above it."""
    axes.axvline(x, color=colour, linewidth=0.8, linestyle=DASHED, zorder=1)
    if said:
        axes.annotate(said, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip


def ticks(axes: Axes, axis: str, said: Callable[[float], str], *, base: int | None = 10) -> None:
    """Three to about eight round ticks on a logarithmic axis (``base`` 2 or 10) or, by None, a linear one.

    Call it when all is drawn.
    """
    one = axes.yaxis if axis == "y" else axes.xaxis
    if base is not None:
        axes.set(**{f"{axis}scale": "log"})
        low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
        one.set_major_locator(FixedLocator(log_ticks(low, high, base)))
        one.set_minor_locator(NullLocator())
    one.set_major_formatter(FuncFormatter(lambda v, _: said(v)))


def values(axes: Axes, metric: str, axis: str = "y") -> None:
    """A logarithmic axis of a metric, with ticks such as ``10 µs`` or ``64 KiB``."""
    ticks(axes, axis, lambda v: text.metric(metric, v), base=2 if "bytes" in metric else 10)


def ratios(axes: Axes, axis: str = "y") -> None:
    """A logarithmic axis of ratios, with ticks such as ``0.5×``."""
    ticks(axes, axis, units.times)


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
    """An x axis with ticks at the sizes that were measured. Call it when all is drawn."""
    if log:
        axes.set_xscale("log")
    known = sorted(set(map(float, sizes)))
    named_ticks(axes, known, [f"{size:,.0f}" for size in known])
    axes.set_xlabel(label)


def named_ticks(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Ticks of x under names, of which those are left out that would touch one further to the right."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    letter = 0.55 * mpl.rcParams["font.size"] * figure.dpi / 72
    kept: list[tuple[float, float, str]] = []
    _ = axes.get_xlim()  # settles limits that are due to be computed
    for place, name in sorted(zip(places, names, strict=True), reverse=True):
        at = float(axes.transData.transform((place, 1))[0])
        if not kept or kept[-1][0] - at > letter * ((len(name) + len(kept[-1][2])) / 2 + 1):
            kept.append((at, place, name))
    axes.set_xticks([place for _, place, _ in kept], [name for _, _, name in kept])
    axes.xaxis.set_minor_locator(NullLocator())


_BEFORE_NAMES, _NAMES_SIZE, _LETTER = 7, 8.5, 0.6
"""Of names at the ends of lines: points before them, their size, and the width of a letter in sizes, of a wide font."""


def label_ends(axes: Axes, ends: Iterable[tuple[str, float, Look]]) -> None:
    """(Name, y, look): names at the right of the axes at the height of y, moved apart where they would overlap.

    None is lower than the axes, where the last tick of x has its name.
    The axes give way where a name is longer than what is right of them. Call it last, when the limits are final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    ends = list(ends)
    letters = max((len(text.clean(name, LONGEST_NAME)) + 2 for name, _, _ in ends), default=0)
    box = axes.get_position()
    right = min(box.x1, 1 - (_BEFORE_NAMES + _LETTER * _NAMES_SIZE * letters) / (72 * figure.get_figwidth()))
    axes.set_position((box.x0, box.y0, right - box.x0, box.height))
    _ = (axes.get_xlim(), axes.get_ylim())  # settles limits that are due to be computed
    gap = 11.5 * figure.dpi / 72 / axes.get_window_extent().height
    to_axes = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    places = sorted(
        ((float(to_axes.transform((left, y))[1]), name, look) for name, y, look in ends), key=lambda place: place[:2]
    )
    for (_, name, look), at in zip(places, spread([p[0] for p in places], gap, 0.0, 1.06), strict=True):
        axes.annotate(
            f"{look.sign} {text.clean(name, LONGEST_NAME)}", (1, at), xycoords="axes fraction",
            xytext=(_BEFORE_NAMES, 0), textcoords="offset points", color=look.colour, fontsize=_NAMES_SIZE, va="center",
            annotation_clip=False, gid=END,
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


def key(axes: Axes, looks: Mapping[str, Look], title: str = "") -> None:
    """Names with their marks above the axes, where none finds a place beside what it names."""
    marks = [Line2D([], [], linestyle="", marker=look.marker, color=look.colour) for look in looks.values()]
    # A mark of its own before the name: matplotlib leaves names out that begin with an underscore.
    names = [f"\u00a0{text.clean(name, 22)}" for name in looks]
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = axes.get_window_extent().width * 72 / figure.dpi
    columns = max(1, int(room // (0.52 * 8.5 * max(map(len, names)) + 15)))
    lines = math.ceil(len(names) / columns)
    axes.legend(
        marks, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, labelcolor="linecolor", borderpad=0.1,
        handletextpad=0, columnspacing=0.8, handlelength=1, labelspacing=0.2, borderaxespad=0.2, markerscale=0.8,
    )  # fmt: skip
    if title:
        axes.set_title(text.clean(title, 80), pad=6 + 11 * lines)
