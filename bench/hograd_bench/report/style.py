"""How figures look: one colour and marker a method everywhere, readable by colour-blind eyes, light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe & Ito 2008, without black and yellow (too faint or too close to the ink on one of the two backgrounds).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#010203"
"""Stands for the page's text colour; :func:`svg` turns it into CSS currentColor, so that dark mode works."""

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hograd",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this block."""
    with mpl.rc_context({**_SETTINGS, "backend": "svg"}):
        yield


def looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Method -> (colour, marker), the same wherever the same methods of an operator are drawn."""
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(sorted(set(methods)))}


def svg(figure: Figure, alt: str) -> str:
    """The figure as an inline SVG element with a text alternative; nothing in it can become markup.

    Args:
        figure: drawn inside :func:`style`.
        alt: what a reader who does not see it should know.
    """
    from markupsafe import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(rf"(?i){INK}", "currentColor", text)
    # Sizes come from CSS; the view box keeps the shape.
    text = re.sub(r'<svg ([^>]*?)\bheight="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)\bwidth="([0-9.]+)pt"', r'<svg \1 style="max-width:\2pt"', text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def label_ends(axes: mpl.axes.Axes, lines: dict[str, Line2D]) -> None:
    """Name each line at its right end, in its colour, moved apart where they would overlap (log or linear y)."""
    ends = sorted(
        (float(np.asarray(line.get_ydata())[-1]), float(np.asarray(line.get_xdata())[-1]), name)
        for name, line in lines.items()
    )
    figure = axes.get_figure()
    assert figure is not None
    last = -1e9
    for y, x, name in ends:
        _, pixel = axes.transData.transform((x, y))
        placed = max(pixel, last + 12)
        last = placed
        axes.annotate(
            name,
            (x, y),
            xytext=(8, (placed - pixel) * 72 / figure.dpi),
            textcoords="offset points",
            color=lines[name].get_color(),
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )
