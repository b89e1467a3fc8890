"""Command line of the study of regret."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hograd_bench import store

from studies import regret
from studies._document import table

HEAD = ("auto knows", "points", "median", "95th percentile", "worst", "where")


def main() -> None:
    """Parse arguments, print."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.regret", description=regret.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=Path("results/reference"), help="results to judge")
    given = parser.parse_args()
    try:
        rows = store.load(given.base, details=False).rows
    except store.StoreError as error:
        sys.exit(str(error))
    print(table(HEAD, regret.summary(list(regret.regrets(rows)))))


if __name__ == "__main__":
    main()
