"""The command line: python -m studies.atlas run | page."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import hograd_core
from studies.atlas import facts
from studies.atlas.cases import SAMPLES, names
from studies.atlas.families import TAYLOR
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


def part(old: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """The operators of a short run beside another version's facts: what is not right there, and a fifth of the rest."""

    def right(operator: Mapping[str, Any]) -> bool:
        found = [{method} for _, method, _ in operator.get("wrong", ())] + [set(r[3]) for r in operator.get("rest", ())]
        return all(methods <= TAYLOR for methods in found)

    settled = [o["op"] for o in old["operators"] if right(o) and o["op"] in known and not o["op"].startswith("own.")]
    return [n for n in known if n not in set(settled) - set(settled[::5])]


def header(limit: int, against: str | None = None) -> dict[str, Any]:
    """What a facts file says before its operators."""
    return {
        "torch": version(),
        "settings": {"samples": limit, "against": against},
        "methods": orders(),
        "reproductions": {name: outcome(name) for name in PROGRAMS},
    }


def measure(given: argparse.Namespace) -> None:
    """Probe; all operators together replace the facts of this torch version."""
    known = names()
    unknown = sorted(set(given.ops) - set(known))
    if unknown:
        raise SystemExit(f"--ops: no operator {', '.join(unknown)}; there are {len(known)}, e.g. {known[0]}")
    chosen = (given.ops or known)[:: given.sample]
    if given.against:
        versions = facts.versions(DATA)
        if given.against not in versions:
            raise SystemExit(f"--against: no facts of {given.against!r} in docs/data; there are {', '.join(versions)}")
        chosen = part(versions[given.against], known)
    whole = chosen == known or given.against

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
        facts.write(DATA / f"atlas-{version()}.json", header(given.samples, given.against), lines)
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
    running.add_argument("--against", metavar="VERSION", help="a short run beside the facts of that torch version")
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
