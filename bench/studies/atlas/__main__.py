"""The command line: python -m studies.atlas run | page."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import hograd_core
from studies.atlas import facts
from studies.atlas.cases import SAMPLES, names
from studies.atlas.page import page
from studies.atlas.probe import ORDERS, methods
from studies.atlas.reproductions import PROGRAMS, outcome
from studies.atlas.run import recorded, run

ROOT = Path(__file__).parents[3]
DATA = ROOT / "docs" / "data"


def version() -> str:
    """Version of the torch in use, without its build."""
    return torch.__version__.split("+")[0]


def orders() -> dict[str, list[int]]:
    """Method -> the orders that it is measured at."""
    table = hograd_core.operators()
    return {m: [k for k in ORDERS if table[o].methods[m].supports(k)] for o, m in methods()}


def header(limit: int) -> dict[str, Any]:
    """What a facts file says before its operators."""
    return {
        "torch": version(),
        "settings": {"samples": limit},
        "methods": orders(),
        "reproductions": {name: outcome(name) for name in PROGRAMS},
    }


def measure(given: argparse.Namespace) -> None:
    """Probe; all operators together replace the facts of this torch version."""
    known = names()
    unknown = sorted(set(given.ops) - set(known))
    if unknown:
        raise SystemExit(f"--ops: no operator {', '.join(unknown)}; there are {len(known)}, e.g. {known[0]}")
    chosen = [n for n in given.ops or known if n in known][:: given.sample]
    whole = chosen == known

    def say(text: str) -> None:
        print(text, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        partial = DATA / f"atlas-{version()}.partial.jsonl" if whole else Path(scratch) / "partial.jsonl"
        run(chosen, partial, jobs=given.jobs, limit=given.samples, say=say)
        lines = [facts.line(name, found) for name, found in recorded(partial).items() if name in chosen]
    for line in lines:
        for order, method, by in line.get("wrong", ()):
            say(f"{line['op']}: {method} at order {order} is wrong by {max(by.values()):g}")
    if whole:
        facts.write(DATA / f"atlas-{version()}.json", header(given.samples), lines)
        partial.unlink()
        write_page()


def write_page() -> None:
    """docs/atlas.md."""
    (ROOT / "docs" / "atlas.md").write_text(page(facts.versions(DATA)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="python -m studies.atlas", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="probe operators; all of them: write the facts and the page")
    running.add_argument("--ops", nargs="*", default=[], help="names of operators; default: all")
    running.add_argument("--sample", type=int, default=1, metavar="K", help="every K-th operator only")
    running.add_argument("--samples", type=int, default=SAMPLES, help="at most so many samples of each operator")
    running.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    commands.add_parser("page", help="write docs/atlas.md from the facts that lie there")
    given = parser.parse_args(arguments)
    if given.command == "page":
        write_page()
    else:
        measure(given)


if __name__ == "__main__":
    main()
