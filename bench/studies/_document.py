"""Documents with sections that studies write between markers, and Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

Row = Sequence[object]

BEGIN, END = "<!-- study: {} -->", "<!-- end of study: {} -->"


def check_markers(document: str, names: Sequence[str]) -> None:
    """Refuse a document that lacks a section's markers.

    Raises:
        ValueError: the message names them.
    """
    for name in names:
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in document or end not in document:
            raise ValueError(f"document: has no markers {begin} and {end} for the section {name!r}")


def written_into(document: str, texts: Mapping[str, str]) -> str:
    """The document with the text of each section between its markers.

    Args:
        document: Markdown with a pair of marker comments for each section.
        texts: section -> its text.

    Returns:
        The new document.

    Raises:
        ValueError: the document lacks a section's markers.
    """
    check_markers(document, list(texts))
    for name, text in texts.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = document.partition(begin)
        document = f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}"
    return document


def write(file: Path, texts: Mapping[str, str]) -> None:
    """Put the text of each section between its markers in a file; raises as :func:`written_into`."""
    file.write_text(written_into(file.read_text(encoding="utf-8"), texts), encoding="utf-8")


def table(head: Row, rows: Iterable[Row]) -> str:
    """A Markdown table; integers with thousands separated."""
    lines = [_line(head), _line(["---"] * len(head))]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: Row) -> str:
    return "| " + " | ".join(_text(value) for value in row) + " |"


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")
