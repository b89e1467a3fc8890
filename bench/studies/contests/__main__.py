"""Command line of the contests."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies import contests
from studies._document import table, write
from studies.contests._contests import CONTESTS
from studies.contests._table import conditions, line, shown
from studies.contests._turns import ROUNDS, contest, serve


def main() -> None:
    """Parse arguments, run the contests, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.contests", description=contests.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-k", default="", help="contests whose name holds this text")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1, help="of every side, each on a core of its own")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put a line a contest into this document")
    given = parser.parse_args()
    if given.side:
        serve(given.side, given.threads)
        return
    lines = []
    print("| contest | side | least time, us | ratio to hograd |\n|---|---|---|---|")
    for name, sides in CONTESTS.items():
        if given.k not in name:
            continue
        sides = tuple(side.replace("/cpu/t1", f"/cpu/t{given.threads}") for side in sides)
        least = contest(sides, given.rounds, given.threads)
        lines.append(line(name, dict(zip(sides, least, strict=True))))
        for label, ns in zip(sides, least, strict=True):
            ratio = f"{ns / least[0]:.2f}" if ns and least[0] else "-"
            print(f"| {name} | {shown(label)} | {ns / 1e3 if ns else 'none'} | {ratio} |", flush=True)
    if given.write is not None:
        head = ("contest", "compiled, µs", "graph, µs", "eager, µs", "quickest peer", "µs", "ratio")
        text = f"{conditions(given.threads)}\n{table(head, lines)}\n"
        section = {f"contests, {given.threads} thread(s)": text}
        write(given.write, section)


if __name__ == "__main__":
    main()
