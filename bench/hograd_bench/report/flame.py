"""A differential flame graph (Gregg 2014): what a cell's figure is made of now, against what it was made of before.

Two icicles on one scale. Widths are amounts; red grew and blue shrank, the deeper the more of the largest step. What is
gone has no width now, so that what was is drawn as well. Plain SVG; names are text, whatever they hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from hograd_bench import makeup, units
from hograd_bench.cells import Cell
from hograd_bench.makeup import BYTES, Change
from hograd_bench.report import page, text
from hograd_bench.report.figures import Drawn, Note
from hograd_bench.report.palette import BETTER, WORSE

WIDTH, ROW, FONT = 560.0, 17.0, 9.5
LETTER = 0.62 * FONT
"""A letter's width on average."""
LEAST = 0.4
"""Narrower frames are not drawn."""
MOST, MOST_STEPS = 12, 30
"""Pictures of a section, lines beneath a picture."""
CAPTION = (
    "Each block is as wide as what it has of the whole, what it is made of below it; now above, before below, on one "
    "scale. Red grew, blue shrank, grey is as it was."
)
Path = tuple[str, ...]
Sums = Mapping[Path, tuple[int, int]]


class Frame(NamedTuple):
    """A block of an icicle, in units of the amount.

    Attributes:
        path: of what it stands for; () for the whole.
        side: 0 before, 1 now.
        start, amount: where it begins, and how wide it is.
        step: by how much it grew.
    """

    path: Path
    side: int
    start: int
    amount: int
    step: int


def draw(change: Change, name: str) -> Drawn:
    """A change as a picture, each step a line beneath.

    Args:
        change: of a cell's bytes or calls.
        name: unique on the page.
    """
    sums = _sums(change)
    said = {path: _said(change, *sides) for path, sides in sums.items()}
    notes = [Note(None, _joined(path), said[path]) for path in makeup.steps(change.before, change.after)]
    words = ET.Element("p", {"class": "hide"})
    words.text = f"{change.what}: {said[()]}. " + "; ".join(f"{note.name}: {note.text}" for note in notes[:6])
    picture = _svg(change, list(frames(sums)), said, f"v{zlib.crc32(name.encode()):x}")
    keys = {"cell": text.clean(change.cell, 160), "what": change.what}
    shown, left = notes[:MOST_STEPS], len(notes) - MOST_STEPS
    if left > 0:
        shown.append(Note(None, f"and {left} smaller steps", ""))
    panel = text.visible("".join(ET.tostring(e, encoding="unicode") for e in (words, picture)))
    return Drawn(name, f"{_titled(change.cell)}: {change.what}", keys, [panel], shown, keys["cell"], "Steps")


def section(changes: Sequence[Change]) -> dict[str, Any] | None:
    """The first of some changes as a section of a page; None where nothing changed."""
    if not changes:
        return None
    pictures = [page.picture(draw(change, f"made-of-{i}")) for i, change in enumerate(changes[:MOST])]
    left = len(changes) - len(pictures)
    return {
        "id": "made-of", "title": "What the changes are made of", "about": CAPTION, "pictures": pictures,
        "answer": f"The first {len(pictures)}, in the order of the table of changes." if left else "",
    }  # fmt: skip


def _titled(cell: str) -> str:
    try:
        return text.titled(Cell.parse(cell).as_dict())
    except ValueError:
        return text.clean(cell, 160)


def frames(sums: Sums) -> Iterator[Frame]:
    """The blocks of both sides, a parent before its parts, parts side by side in one order on both sides."""
    parts: dict[Path, list[Path]] = {}
    for path in sums:
        if path:
            parts.setdefault(path[:-1], []).append(path)
    for side in (1, 0):
        todo: list[tuple[Path, int]] = [((), 0)]
        while todo:
            path, start = todo.pop()
            before, after = sums[path]
            amount = after if side else before
            if not amount:
                continue
            yield Frame(path, side, start, amount, after - before)
            for part in sorted(parts.get(path, ()), key=lambda p: _place(p, sums)):
                todo.append((part, start))
                start += sums[part][side]


def _place(path: Path, sums: Sums) -> tuple[bool, int, str]:
    """Phases as they happen, forward before backward; everything else by its size."""
    phase = len(path) == 1 and path[0].startswith(("forward", "backward"))
    return not path[-1].startswith("forward"), 0 if phase else -max(sums[path]), path[-1]


def _sums(change: Change) -> dict[Path, tuple[int, int]]:
    """Before and after of every path and of what it is part of."""
    found: dict[Path, tuple[int, int]] = {(): (0, 0)}
    for side, stacks in enumerate((change.before, change.after)):
        for path, amount in stacks.items():
            for end in range(len(path) + 1):
                was, now = found.get(path[:end], (0, 0))
                found[path[:end]] = (was, now + amount) if side else (was + amount, now)
    return found


def _svg(change: Change, drawn: Sequence[Frame], said: Mapping[Path, str], identity: str) -> ET.Element:
    deepest = 1 + max(len(frame.path) for frame in drawn)
    scale = WIDTH / max(frame.amount for frame in drawn)
    largest = max((abs(f.step) for f in drawn if f.path), default=0) or 1
    height = 2 * deepest * ROW + ROW / 2
    root = ET.Element("svg", {
        "viewBox": f"0 0 {WIDTH:g} {height:g}", "aria-hidden": "true", "id": identity, "class": "flame",
        "style": f"max-width:{WIDTH * 1.6:.0f}px;font-size:{FONT}px",
    })  # fmt: skip
    for frame in drawn:
        width, x = frame.amount * scale, frame.start * scale
        if width < LEAST:
            continue
        y = (len(frame.path) + (0 if frame.side else deepest)) * ROW + (0 if frame.side else ROW / 2)
        group = ET.SubElement(root, "g")
        ET.SubElement(group, "title").text = f"{_joined(frame.path) or change.what}: {said[frame.path]}"
        colour, depth = _colour(frame.step / largest)
        ET.SubElement(group, "rect", {
            "x": f"{x:.2f}", "y": f"{y:g}", "width": f"{width:.2f}", "height": f"{ROW:g}", "fill": colour,
            "fill-opacity": f"{depth:.2f}", "style": "stroke:var(--paper)",
        })  # fmt: skip
        label = text.clean(_label(change, frame), max(1, int((width - 6) / LETTER)))
        if len(label) > 2:
            ET.SubElement(
                group, "text", {"x": f"{x + 3:.2f}", "y": f"{y + ROW - 5:g}", "fill": "currentColor"}
            ).text = label
    return root


def _colour(share: float) -> tuple[str, float]:
    """Fill and opacity of a step, as a share of the largest; the whole may have more than that."""
    if not share:
        return "currentColor", 0.08
    red, green, blue = (round(255 * part) for part in (WORSE if share > 0 else BETTER))
    return f"#{red:02x}{green:02x}{blue:02x}", 0.12 + 0.5 * min(1.0, abs(share))


def _label(change: Change, frame: Frame) -> str:
    step = f" {_step(change, frame.step)}" if frame.step and frame.side else ""
    if frame.path:
        return _shown(frame.path[-1]) + step
    return f"{'now' if frame.side else 'before'}: {_amount(change, frame.amount)}{step}"


def _said(change: Change, before: int, after: int) -> str:
    """``64 B → 128 B (+64 B)``."""
    step = f" → {_amount(change, after)} ({_step(change, after - before)})" if after != before else ""
    return f"{_amount(change, before)}{step}"


def _step(change: Change, step: int) -> str:
    return f"{'+' if step > 0 else '−'}{_amount(change, abs(step))}"


def _amount(change: Change, amount: int) -> str:
    return units.binary(amount) if change.what == BYTES else f"{amount:,}"


def _joined(path: Path) -> str:
    return " / ".join(map(_shown, path))


def _shown(name: str) -> str:
    return text.clean(name, 60)
