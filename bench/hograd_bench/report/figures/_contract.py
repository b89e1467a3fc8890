"""What a figure hands back."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """One picture.

    Attributes:
        name: unique on the page; letters, digits and hyphens.
        caption: what it shows, one sentence.
        alt: what a reader who does not see it should know, with the figures that matter.
        figure: drawn inside ``style.style()``.
    """

    name: str
    caption: str
    alt: str
    figure: Figure
