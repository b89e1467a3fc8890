"""Command line of the study of regret."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hograd_bench import store

from studies import regret
from studies._document import table
from studies.regret._now import advised, probed

HEAD = ("auto knows", "points", "median", "95th percentile", "worst", "where")


def main() -> None:
    """Parse arguments, print."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.regret", description=regret.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=Path("results/reference"), help="results to judge")
    parser.add_argument("--now", action="store_true", help="probe each function here, too: minutes")
    parser.add_argument(
        "--examples", type=Path, metavar="FOLDER",
        help="judge functions of this folder's files instead, advised on twice each: minutes",
    )  # fmt: skip
    given = parser.parse_args()
    if given.examples is not None:
        files = sorted(given.examples.glob("*.py"))
        found = [r for file in files for rows, probe in advised(file, 2, 120) for r in regret.regrets(rows, probe)]
    else:
        try:
            rows = store.load(given.base, details=False).rows
        except store.StoreError as error:
            sys.exit(str(error))
        found = list(regret.regrets(rows, probed) if given.now else regret.regrets(rows))
    print(table(HEAD, regret.summary(found)))


if __name__ == "__main__":
    main()
