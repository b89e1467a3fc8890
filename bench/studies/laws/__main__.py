"""Command line of the study of laws and verdicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hograd_bench import store
from hograd_bench.run import RunError

from studies import laws
from studies._document import check_markers, written_into
from studies.laws import sections


def main() -> None:
    """Parse arguments, print or write."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.laws",
        description=laws.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("section", choices=("synthetic", "prediction", "stability"))
    parser.add_argument("--base", type=Path, default=Path("results/reference"), help="results to judge")
    parser.add_argument("--measure", type=Path, help="prediction: results folder of the larger sizes; kept and reused")
    parser.add_argument("--trials", type=int, default=40, help="synthetic: data sets per truth, disturbance and noise")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the section between markers in FILE")
    given = parser.parse_args()
    if given.section == "prediction" and given.measure is None:
        parser.error("--measure: the larger sizes must be measured somewhere; name a folder")
    try:
        if given.write is not None:
            check_markers(given.write.read_text(encoding="utf-8"), [given.section])
        text = {
            "synthetic": lambda: sections.synthetic(given.trials),
            "prediction": lambda: sections.foretold(given.base, given.measure),
            "stability": lambda: sections.stability(given.base),
        }[given.section]()
        if given.write is None:
            print(text)
            return
        document = written_into(given.write.read_text(encoding="utf-8"), {given.section: text + "\n"})
        given.write.write_text(document, encoding="utf-8")
    except (OSError, ValueError, store.StoreError, RunError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
