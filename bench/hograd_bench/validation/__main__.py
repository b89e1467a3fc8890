"""Command line of the validation study; see :mod:`hograd_bench.validation.study`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hograd_bench.validation import study

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


def main() -> None:
    """Parse arguments and print or write the study."""
    parser = argparse.ArgumentParser(prog="python -m hograd_bench.validation", description=study.__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(study.SECTIONS))
    parser.add_argument("--preset", default="default", help="whose cells the sections over cells take")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the sections between markers in FILE")
    given = parser.parse_args()
    try:
        if given.write is None:
            print(study.run(given.sections, given.preset))
        else:
            names = given.sections or list(study.SECTIONS)
            check_markers(given.write.read_text(encoding="utf-8"), names)
            texts = {name: study.run([name], given.preset).split("\n\n", 2)[2] for name in names}
            # Read again: sections take minutes, in which the document may have been edited.
            document = written_into(given.write.read_text(encoding="utf-8"), texts)
            given.write.write_text(document, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
