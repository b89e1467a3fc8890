"""The command line: python -m studies.atlas run | page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from studies.atlas.cases import SAMPLES, names
from studies.atlas.run import recorded, run

DATA = Path(__file__).parents[3] / "docs" / "data"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m studies.atlas")
    parser.add_argument("--ops", nargs="*", default=[])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("/tmp/atlas.partial.jsonl"))
    given = parser.parse_args()
    run(given.ops or names(), given.out, jobs=given.jobs, limit=given.samples, say=lambda s: print(s, flush=True))


if __name__ == "__main__":
    main()
