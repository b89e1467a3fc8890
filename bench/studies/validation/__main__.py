"""Command line of the validation study; see :mod:`studies.validation.study`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies._document import check_markers, written_into
from studies.validation import study


def main() -> None:
    """Parse arguments and print or write the study."""
    parser = argparse.ArgumentParser(prog="python -m studies.validation", description=study.__doc__)
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
