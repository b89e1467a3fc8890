"""What the rows say, in plain words: pure functions of a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hograd_bench import units
from hograd_bench.peers._contract import Contest
from hograd_bench.peers._document import Document, contest_of

HOUSE = "hograd"
TIE = 0.05
"""Times closer than this, or than what the processes of either differ by, are a tie."""

Row = Mapping[str, Any]


def by_contest(rows: Sequence[Row]) -> dict[Contest, list[Row]]:
    """Rows of each contest, contests in the order of the rows; within one, right results first, fastest first."""
    found: dict[Contest, list[Row]] = {}
    for row in rows:
        found.setdefault(contest_of(row), []).append(row)
    return {contest: sorted(mine, key=_standing) for contest, mine in found.items()}


def _standing(row: Row) -> tuple[int, float, str]:
    return (row["status"] != "ok", seconds(row) if row["status"] == "ok" else 0.0, row["peer"])


def seconds(row: Row) -> float:
    """The fastest call of a row that is ok."""
    return float(row["metrics"]["seconds_min"])


def tied(a: Row, b: Row) -> bool:
    """Whether two times differ by no more than processes of either do among themselves."""
    spread = max(TIE, *(float(r["metrics"].get("process_spread", 0.0)) for r in (a, b)))
    return max(seconds(a), seconds(b)) <= (1 + spread) * min(seconds(a), seconds(b))


def best(rows: Sequence[Row], peers: set[str]) -> Row | None:
    """The fastest right row of some peers, or None."""
    fine = [r for r in rows if r["status"] == "ok" and r["peer"] in peers]
    return min(fine, key=seconds, default=None)


def frameworks(document: Document) -> dict[str, str]:
    """Peer -> what its kernels run on."""
    return {peer["name"]: peer["framework"] for peer in document["peers"]}


def scores(document: Document) -> list[str]:
    """How often hograd's best method wins, ties or loses, against packages on PyTorch and against all others."""
    kinds = frameworks(document)
    ours = {HOUSE}
    groups = {
        "the other packages that run on PyTorch": {n for n, k in kinds.items() if k == "PyTorch"} - ours,
        **{f"{kind}": {n for n, k in kinds.items() if k == kind} for kind in sorted({*kinds.values()} - {"PyTorch"})},
    }
    lines = []
    for label, rivals in groups.items():
        tally = {"faster": 0, "tied": 0, "slower": 0}
        worst: tuple[float, Contest] | None = None
        for contest, rows in by_contest(document["rows"]).items():
            mine, theirs = best(rows, ours), best(rows, rivals)
            if mine is None or theirs is None:
                continue
            ratio = seconds(mine) / seconds(theirs)
            tally["tied" if tied(mine, theirs) else "faster" if ratio < 1 else "slower"] += 1
            if worst is None or ratio > worst[0]:
                worst = (ratio, contest)
        if worst is None:
            lines.append(f"Against {label}: no contest that both finished.")
            continue
        at = f"; at worst it takes {worst[0]:.3g} times their time ({title(worst[1])})" if worst[0] > 1 else ""
        lines.append(
            f"Against {label}, hograd's fastest method is faster in {tally['faster']}, tied in {tally['tied']} and "
            f"slower in {tally['slower']} of {sum(tally.values())} contests{at}."
        )
    return lines


def finding(rows: Sequence[Row], kinds: Mapping[str, str]) -> str:
    """One contest in a sentence or three."""
    fine = [r for r in rows if r["status"] == "ok"]
    if not fine:
        return "Nobody finished this contest."
    first = fine[0]
    says = [f"Fastest: {_named(first)}, {units.seconds(seconds(first))}."]
    mine = best(rows, {HOUSE})
    if mine is None:
        says.append("No method of hograd finished.")
    elif mine is not first:
        verb = "is tied with it" if tied(mine, first) else f"takes {seconds(mine) / seconds(first):.3g} times that"
        says.append(f"hograd's fastest, {mine['way']}, {verb}.")
        compile_seconds = first["metrics"].get("compile_seconds")
        if compile_seconds and not tied(mine, first):
            calls = compile_seconds / (seconds(mine) - seconds(first))
            says.append(f"Compiling took {units.seconds(compile_seconds)}, which {calls:,.0f} calls earn back.")
    else:
        second = next((r for r in fine if r["peer"] != HOUSE), None)
        if second is not None:
            verb = (
                "is tied with it" if tied(first, second) else f"takes {seconds(second) / seconds(first):.3g} times that"
            )
            says.append(f"The next package, {_named(second)}, {verb}.")
    if kinds.get(first["peer"]) != "PyTorch":
        torch_first = best(rows, {name for name, kind in kinds.items() if kind == "PyTorch"})
        if torch_first is not None and torch_first is not mine:
            says.append(f"Fastest on PyTorch: {_named(torch_first)}, {units.seconds(seconds(torch_first))}.")
    return " ".join(says)


def _named(row: Row) -> str:
    return f"{row['peer']} by {row['way']}"


def title(contest: Contest) -> str:
    """A contest in words."""
    order = f", order {contest.order}" if contest.operator == "directional_derivative" else ""
    sizes = f"n={contest.n}, depth={contest.depth}, batch={contest.batch}"
    return f"{contest.operator} of {contest.problem}{order}, {sizes}, {contest.dtype}"
