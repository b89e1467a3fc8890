"""A matplotlib figure as a small inline SVG element that follows the page's colours and links points to evidence.

Works on parsed elements: what is text in a figure (names from results, hostile ones included) stays text.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from hograd_bench.report.palette import FAINT, INK, LIGHT
from hograd_bench.report.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {INK: "currentColor", FAINT: "var(--faint)"} | {c: f"var(--s{i})" for i, c in enumerate(LIGHT)}
_COLOUR = re.compile("|".join(map(re.escape, _COLOURS)), re.IGNORECASE)
_LONG = re.compile(r"-?\d+\.\d{2,}")
_NUMBERS = frozenset({"d", "x", "y", "transform", "points", "width", "height", "viewBox"})
_DROPPED = frozenset(
    {"font-family", "stroke-linejoin", "stroke-linecap", "stroke-miterlimit", "font-variant", "font-stretch"}
)
_DEFAULTS = frozenset({"text-anchor:start"})
_UNTURNED = "rotate(-0 "
_HREF = "{http://www.w3.org/1999/xlink}href"
END = "end"
"""Id of a name at the end of a line: on a phone these stand below the picture instead."""


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an ``<svg>`` element, after its text alternative, which is not seen but read out.

    Args:
        figure: drawn inside ``style.style()``.
        name: unique on the page; ids inside are made from it.
        alt: what a reader who does not see it should know.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    _unstyled(root)
    ends = [element for element in root.iter("g") if element.get("id") == END]
    for element in ends:
        element.set("class", END)
    # Hundreds of elements refer to these ids: a short one saves a tenth of the page.
    identity = f"v{zlib.crc32(name.encode()):x}"
    _renamed(root, identity)
    for element in root.iter():
        _slim(element)
    _flattened(root)
    root.set("id", identity)
    width = root.attrib.pop("width").removesuffix("pt")
    root.attrib.pop("height", None)
    root.attrib.pop("version", None)
    # A phone shows the axes at full width, and of what is right of them what a tick may need.
    axes = max((one.get_position().x1 for one in figure.axes), default=1.0)
    size = round(float(width) * 4 / 3)
    root.set("style", f"max-width:{size}px;--size:{size}px;--wide:{100 / min(1.0, axes + 0.05):.0f}%")
    # Links within an image with a role of its own would be nested controls: the words stand beside it instead.
    root.set("aria-hidden", "true")
    words = ET.Element("p", {"class": "hide"})
    words.text = alt
    parts = [words, root, *_key(ends)]
    return visible("".join(ET.tostring(part, encoding="unicode") for part in parts))


def _key(ends: list[ET.Element]) -> Iterator[ET.Element]:
    """The names at the ends of lines once more, from the top, for below the picture."""
    if not ends:
        return
    key = ET.Element("p", {"class": "key", "aria-hidden": "true"})
    for element in reversed(ends):
        colours = (re.search(r"\bfill:([^;]+)", one.get("style", "")) for one in element.iter())
        colour = next(filter(None, colours), None)
        for name in element.iter("text"):
            said = ET.SubElement(key, "span", {"style": f"color:{colour[1]}"} if colour else {})
            said.text = "".join(name.itertext())
    yield key


def _unstyled(root: ET.Element) -> None:
    """Without matplotlib's style sheet, which would hold for the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "style" or (child.tag == "defs" and child.find("style") is not None and len(child) == 1):
                parent.remove(child)


def _renamed(root: ET.Element, name: str) -> None:
    """Ids that something refers to, made unique on the page; all others dropped."""
    known = {e.get("id", "") for e in root.iter()}
    used: dict[str, str] = {}

    def short(identity: str) -> str:
        return used.setdefault(identity, f"{name}-{len(used)}")

    for element in root.iter():
        target = element.attrib.pop(_HREF, None) or element.attrib.pop("href", None)
        if target is not None:
            inside = element.tag != "a" and target[1:] in known
            element.set("href", f"#{short(target[1:])}" if inside else target)
            if element.tag == "a":
                for key in [k for k in element.attrib if k != "href"]:
                    del element.attrib[key]
                element.set("tabindex", "-1")
        clip = element.get("clip-path")
        if clip is not None:
            element.set("clip-path", f"url(#{short(clip[5:-1])})")
        style = element.get("style", "")
        if "url(#" in style:
            element.set("style", re.sub(r"url\(#([^)]*)\)", lambda m: f"url(#{short(m[1])})", style))
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", used[identity])


def _slim(element: ET.Element) -> None:
    if element.get("transform", "").startswith(_UNTURNED):
        del element.attrib["transform"]
    for key in _NUMBERS & element.attrib.keys():
        value = " ".join(element.attrib[key].split())
        element.set(key, _LONG.sub(lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), value))
    style = element.attrib.pop("style", None)
    if style:
        kept = [part.strip() for part in style.split(";") if part.strip()]
        if any(part.startswith("font:") for part in kept):  # the shorthand would name a font of its own
            size = re.search(r"([\d.]+)px", style)
            kept = [p for p in kept if not p.startswith("font:")] + ([f"font-size:{size[1]}px"] if size else [])
        kept = [part.replace(": ", ":", 1) for part in kept if part.partition(":")[0] not in _DROPPED]
        kept = [part for part in kept if part not in _DEFAULTS]
        if kept:
            element.set("style", _COLOUR.sub(lambda m: _COLOURS[m[0].lower()], ";".join(kept)))


def _flattened(element: ET.Element) -> None:
    """Groups that say nothing give way to what they hold."""
    for child in element:
        _flattened(child)
    flat: list[ET.Element] = []
    for child in element:
        if child.tag == "g" and not child.attrib:
            flat += list(child)
        elif not (child.tag == "defs" and not len(child)):
            flat.append(child)
    element[:] = flat
