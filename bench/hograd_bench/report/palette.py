"""One colour and marker a method, the same in every figure and table, told apart by colour-blind eyes too.

Figures are drawn with the light colours; svg.py turns each into a CSS variable, which the page's style sheet sets
for light and dark. Every colour has a contrast of at least 4.5 on its background, so that it can be a label's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

INK = "#010203"
"""Stands for the page's text colour."""
FAINT = "#040506"
"""Stands for the page's grid colour."""
# Okabe & Ito 2008 and Tol 2021 ("muted"), darkened to be legible as text; neighbours differ in lightness as well.
LIGHT = (
    "#0072b2", "#c04e00", "#00795a", "#a8407f", "#332288", "#8a6100", "#20809c", "#882255", "#6a727c", "#697000",
)  # fmt: skip
DARK = (
    "#56b4e9", "#ff8f4d", "#35c79a", "#e79ac6", "#a79bff", "#e6b24c", "#8fe3ef", "#f2728f", "#b4bbc4", "#cbce5c",
)  # fmt: skip
WORSE, BETTER = (0.75, 0.2, 0.1), (0.0, 0.4, 0.75)
"""Red and blue of what grew or shrank, as shares of one; drawn translucent, so that ink is read on light and dark."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")
SIGNS = dict(zip((*MARKERS, "d"), "●■▲◆▼✚✖⬟◀▶♦", strict=True))
"""Marker -> the letter that looks like it, for keys."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn: ``LIGHT[index]`` and a marker."""

    index: int
    marker: str

    @property
    def colour(self) -> str:
        """The colour to draw with."""
        return LIGHT[self.index]

    @property
    def sign(self) -> str:
        """The letter that looks like the marker: names are told apart by it where colours are not."""
        return SIGNS[self.marker]


class Palette:
    """Method -> look. Methods of one operator share a colour only where it has more methods than there are colours; no
    two methods share colour and marker, of whatever operators, while there is a marker left.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        operators: dict[str, set[str]] = {}
        for operator, method in sorted(set(pairs)):
            operators.setdefault(method, set()).add(operator)
        members: dict[str, list[str]] = {}
        for method, ops in operators.items():
            for operator in ops:
                members.setdefault(operator, []).append(method)
        self._looks: dict[str, Look] = {}
        # Methods with the most siblings choose first, while there is a choice.
        for method in sorted(operators, key=lambda m: (-max(len(members[o]) for o in operators[m]), m)):
            siblings = {m for o in operators[method] for m in members[o] if m in self._looks}
            used = Counter(self._looks[m].index for m in siblings)
            index = min(range(len(LIGHT)), key=lambda i: (used[i], i))
            taken = Counter(look.marker for look in self._looks.values() if look.index == index)
            markers = [MARKERS[(index + 3 * i) % len(MARKERS)] for i in range(len(MARKERS))]
            near = Counter(self._looks[m].marker for m in siblings)  # told apart where colours are not
            self._looks[method] = Look(index, min(markers, key=lambda marker: (taken[marker], near[marker])))

    def __getitem__(self, method: str) -> Look:
        return self._looks[method]


def ordinal(place: int) -> Look:
    """The look of the place-th of things that are no methods: orders, dtypes, phases."""
    round_ = place // len(LIGHT)  # the colours again, with other markers
    return Look(place % len(LIGHT), MARKERS[(place + 3 * round_) % len(MARKERS)])
