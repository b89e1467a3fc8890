"""Command line of the validation study; see :mod:`hograd_bench.validation.study`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from hograd_bench.validation import study

BEGIN, END = "<!-- study: {} -->", "<!-- end of study: {} -->"


def written_into(document: str, names: list[str], preset: str) -> str:
    """The document with each section's text between its markers replaced.

    Args:
        document: Markdown with a pair of marker comments for each section.
        names: the sections to run; none: all.
        preset: see :func:`hograd_bench.validation.study.run`.

    Returns:
        The new document.

    Raises:
        ValueError: the document lacks a section's markers.
    """
    for name in names or list(study.SECTIONS):
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in document or end not in document:
            raise ValueError(f"document: has no markers {begin} and {end} for the section {name!r}")
        text = study.run([name], preset).split("\n\n", 2)[2]
        document = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}",
            lambda _, b=begin, t=text, e=end: f"{b}\n{t}{e}",  # type: ignore[misc]
            document,
            flags=re.DOTALL,
        )
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
            document = written_into(given.write.read_text(encoding="utf-8"), given.sections, given.preset)
            given.write.write_text(document, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
