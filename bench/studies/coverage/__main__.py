"""Command line of the coverage table: print it, write it, or say what is not covered."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from studies import coverage


def main() -> None:
    """Parse arguments; exit status 1 where something promised is not there."""
    parser = argparse.ArgumentParser(prog="python -m studies.coverage", description=coverage.__doc__)
    parser.add_argument("--tests", type=Path, default=Path("tests"), help="folder of the tests (default: tests)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to FILE instead of stdout")
    given = parser.parse_args()
    try:
        groups, world = coverage.load(), coverage.look_around(given.tests)
        document = coverage.render(groups, world)
        if given.write is None:
            sys.stdout.write(document)
        else:
            given.write.write_text(document, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    faults = coverage.faults(groups, world)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
