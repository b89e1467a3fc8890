"""What a figure hands back, and the helper that closes one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hograd_bench.report.svg import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Note:
    """A line beneath a picture: a method's law, say.

    Attributes:
        look: index of the colour of what it speaks about, or None.
        name: what it speaks about.
        text: what it says.
        href: where it leads, e.g. ``#c12``, or "".
    """

    look: int | None
    name: str
    text: str
    href: str = ""


@dataclass(frozen=True)
class Drawn:
    """One picture of one or more panels.

    Attributes:
        name: unique on the page; letters, digits and hyphens.
        title: what it shows, a phrase.
        keys: facet -> value; a reader chooses among a section's pictures by these.
        panels: SVG elements, set side by side where there is room.
        notes: lines beneath.
        caption: how to read it, where the section's words do not say it.
        notes_title: what the lines beneath are.
    """

    name: str
    title: str
    keys: Mapping[str, str]
    panels: Sequence[str]
    notes: Sequence[Note] = ()
    caption: str = ""
    notes_title: str = "Laws"


def slug(*parts: object) -> str:
    """An id from whatever text; ids of different pictures of a figure differ by a number that the caller adds."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")[:60]


def panel(figure: Figure, name: str, alt: str) -> str:
    """The figure as SVG text."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        axis.set_label_text(axis.get_label_text().strip())
        if not axis.get_label_text():
            axis.set_label_coords(0, 0)  # anywhere: else all ticks are measured to find its place
    return svg(figure, name, alt)
