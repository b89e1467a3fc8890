"""The table of docs/gate.md, from a recorded study. Every number in it is computed here."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, pstdev

from hograd_bench.gate.statistics.policy import Policy
from scipy import stats

from studies.gate.recording import Recorded, Study, WholeRun
from studies.gate.resampling import Resampled, gate_run, rival_run
from studies.gate.rules import RULES, Process

GUIDE = Path("docs/gate.md")
BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"
FACTORS = (1.05, 1.10)
SEED = 20240
# The gate itself keeps a core busy, and two while a pair starts; a load average above this is somebody else's work.
QUIET = 2.5
LEAST_PAIRS = 8


def render(study: Study, resampled: int) -> str:
    """The study's tables as Markdown.

    Args:
        study: what was recorded.
        resampled: resampled whole runs a figure.

    Returns:
        Text, the same for the same study.

    Raises:
        ValueError: nothing was recorded that a figure needs.
    """
    if not any(p.factor == 1.0 for p in study.pairs):
        raise ValueError("study: no pair of identical sides is recorded; `study record` makes them")
    lines = [f"Recorded on {study.machine}.", ""]
    for title, pairs in _strata(study.pairs):
        part = replace(study, pairs=pairs)
        same = [p for p in pairs if p.factor == 1.0]
        cells = sorted(set.intersection(*(set(p.cells) for p in pairs)))
        planted = "".join(f", {n} at {f:.2f}×" for f in FACTORS if (n := sum(p.factor == f for p in pairs)))
        lines += [
            f"**{title}**: load average {min(p.load for p in pairs):.1f} to {max(p.load for p in pairs):.1f}; "
            f"{len(cells)} timed cells; {len(same)} pairs of identical sides{planted}. {_noise(same, cells)}",
            "",
            *_rules(part, same, cells, resampled),
            "",
        ]
    return "\n".join([*lines, *_real(study.runs), "", *_exact(study)])


def _strata(pairs: Sequence[Recorded]) -> list[tuple[str, list[Recorded]]]:
    """Recorded pairs by the machine's state: other work on it or not. A part too small to resample is left out."""
    quiet = [p for p in pairs if p.load < QUIET]
    busy = [p for p in pairs if p.load >= QUIET]
    parts = [("Nobody else at work", quiet), ("Others at work on the same cores", busy)]
    kept = [(title, part) for title, part in parts if sum(p.factor == 1.0 for p in part) >= LEAST_PAIRS]
    return kept or [("All pairs", list(pairs))]


def _noise(same: Sequence[Recorded], cells: Sequence[str]) -> str:
    spreads = [pstdev(p.reading(c).ratio for p in same) for c in cells]
    within = [median(p.reading(c).error for p in same) for c in cells]
    ordered = [p.cells[c][0].least for c in cells for p in same]
    processes = [
        pstdev([p.cells[c][0].middle for p in same]) / (sum(p.cells[c][0].middle for p in same) / len(same))
        for c in cells
    ]
    return (
        f"Spread of the log-ratio of a pair over identical pairs: median {median(spreads):.2%} over the cells, worst "
        f"{max(spreads):.2%}; its standard error within a pair: median {median(within):.2%}; spread of the median call "
        f"between the same processes one by one: median {median(processes):.1%}, worst {max(processes):.1%}. "
        f"Calls take {min(ordered) / 1e3:,.0f} to {max(ordered) / 1e3:,.0f} µs."
    )


def _rules(study: Study, same: Sequence[Recorded], cells: Sequence[str], resampled: int) -> list[str]:
    recorded = {f: [p for p in study.pairs if p.factor == f] for f in FACTORS}
    planted = {f: own if len(own) >= LEAST_PAIRS else [_slowed(p, f) for p in same] for f, own in recorded.items()}
    scaled = " and ".join(f"{f:.2f}×" for f, own in recorded.items() if len(own) < LEAST_PAIRS)
    lines = [
        "| rule | whole runs with a false alarm | cells with a false alarm | found at 1.05× | found at 1.10× |",
        "|---|---:|---:|---:|---:|",
    ]
    rng = random.Random(SEED)
    line, undecided, missed, took = _own(same, planted, cells, resampled, rng)
    lines.append(line)
    for rule in RULES:
        count = max(20, resampled // 10)
        alarmed = alarms = 0
        for _ in range(count):
            hit = rival_run(rule, same, [], None, rng)
            alarmed, alarms = alarmed + bool(hit), alarms + len(hit)
        found = []
        for factor in FACTORS:
            tries = count if planted[factor] else 0
            hits = sum(
                (cell := cells[i % len(cells)]) in rival_run(rule, same, planted[factor], cell, rng)
                for i in range(tries)
            )
            found.append(_share(hits, tries))
        lines.append(
            f"| {rule.name} | {_share(alarmed, count)} | {_share(alarms, count * len(cells))} | "
            f"{found[0]} | {found[1]} |"
        )
    lines += [
        "",
        f"Resampled from the recorded pairs ({resampled:,} runs for this gate): contiguous stretches, sides exchanged "
        "by fair coins; the bound in brackets is Clopper-Pearson's for the resampled runs and does not know how few "
        f"pairs they come from. {_share(undecided, resampled)} of the identical runs left a cell inconclusive. Of the "
        f'planted cells, {missed[0]} at 1.05× and {missed[1]} at 1.10× were called "same"; the others were found or '
        f"inconclusive. Such a run takes, median (95%): {took}.",
    ]
    if scaled:
        lines[-1] += f" Plants at {scaled} are side B of identical pairs, scaled: too few are recorded."
    return lines


def _own(
    same: Sequence[Recorded],
    planted: Mapping[float, Sequence[Recorded]],
    cells: Sequence[str],
    resampled: int,
    rng: random.Random,
) -> tuple[str, int, list[str], str]:
    """The line of this gate, identical runs with a cell left open, share of plants called "same", what runs took."""
    rules = Policy()
    identical = [gate_run(same, [], None, rules, rng) for _ in range(resampled)]
    alarms = [sum(v == "slower" for v in made.verdicts.values()) for made in identical]
    alarmed = sum(n > 0 for n in alarms)
    undecided = sum("inconclusive" in made.verdicts.values() for made in identical)
    took = [f"{_took(identical)} on identical code"]
    found, missed = [], []
    for factor in FACTORS:
        chosen = [cells[i % len(cells)] for i in range(resampled // 2 if planted[factor] else 0)]
        made = [gate_run(same, planted[factor], cell, rules, rng) for cell in chosen]
        verdicts = [m.verdicts[cell] for m, cell in zip(made, chosen, strict=True)]
        found.append(_share(verdicts.count("slower"), len(verdicts)))
        missed.append(_share(verdicts.count("same"), len(verdicts)))
        took.append(f"{_took(made)} at {factor:.2f}×")
    line = (
        f"| **this gate** | {_share(alarmed, resampled)} (bound {clopper_pearson_upper(alarmed, resampled):.2%}) | "
        f"{_share(sum(alarms), resampled * len(cells))} | {found[0]} | {found[1]} |"
    )
    return line, undecided, missed, "; ".join(took)


def clopper_pearson_upper(events: int, trials: int) -> float:
    """One-sided 95% upper confidence bound of a rate (Clopper & Pearson 1934).

    Raises:
        ValueError: more events than trials.
    """
    return float(stats.binomtest(events, trials, alternative="less").proportion_ci(0.95).high)


def _took(made: Sequence[Resampled]) -> str:
    """What runs took: median, and the 95th percentile in brackets."""
    if not made:
        return "not recorded"
    pairs, seconds = sorted(m.pairs for m in made), sorted(m.seconds for m in made)
    late = min(len(made) - 1, int(0.95 * len(made)))
    return f"{median(pairs):.0f} ({pairs[late]}) pairs, {median(seconds):.0f} ({seconds[late]:.0f}) s"


def _slowed(pair: Recorded, factor: float) -> Recorded:
    """An identical pair whose side B took ``factor`` times as long in every call."""
    cells = {
        cell: (a, Process(b.least * factor, b.middle * factor, tuple(m * factor for m in b.means)))
        for cell, (a, b) in pair.cells.items()
    }
    shift = math.log(factor)
    turns = {c: tuple(t + shift for t in own) for c, own in pair.turns.items()}
    return replace(pair, factor=factor, cells=cells, turns=turns)


def _real(runs: Sequence[WholeRun]) -> list[str]:
    lines = ["| real whole runs | made | with a false alarm | 95% upper bound | plant found | inconclusive | seconds |",
             "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    kinds = sorted({(r.factor, r.busy > 0) for r in runs})
    for factor, busy in kinds:
        own = [r for r in runs if (r.factor, r.busy > 0) == (factor, busy)]
        name = "identical code" if factor == 1.0 else f"{factor:.2f}× in the cells of one method"
        alarmed = sum(bool(r.alarms) for r in own)
        found = "" if factor == 1.0 else f"{sum(r.verdicts.get(r.planted) == 'slower' for r in own)}"
        open_ = sum(any(v == "inconclusive" for v in r.verdicts.values()) for r in own)
        seconds = [r.seconds for r in own]
        lines.append(
            f"| {name}{', both cores kept busy for a part' if busy else ''} | {len(own)} | {alarmed} | "
            f"{clopper_pearson_upper(alarmed, len(own)):.1%} | {found} | {open_} | "
            f"{median(seconds):.0f} (at most {max(seconds):.0f}) |"
        )
    if runs:
        alarmed = sum(bool(r.alarms) for r in runs)
        lines += ["", f"All {len(runs)} real runs together: {alarmed} with a false alarm, 95% upper bound "
                      f"{clopper_pearson_upper(alarmed, len(runs)):.1%}. The rule itself bounds the "
                      f"rate at {Policy().alarm_rate:.0%} whatever the noise; runs check the machinery."]  # fmt: skip
        return lines
    return ["No real whole runs are recorded yet."]


def _exact(study: Study) -> list[str]:
    names = {"extra_vector": "one more n-vector alive", "extra_call": "one more ATen call",
             "extra_node": "one more graph node"}  # fmt: skip
    lines = ["| planted into every kernel | cells | caught by the exact gate |", "|---|---:|---:|"]
    lines += [f"| {names.get(plant, plant)} | {tried} | {caught} |" for plant, (tried, caught) in study.exact.items()]
    return lines if study.exact else ["The exact gate's plants are not recorded yet."]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "not recorded"


def write_between(path: Path, text: str) -> None:
    """Replace what stands between the study's marks in a document.

    Raises:
        ValueError: the document lacks the marks.
    """
    old = path.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: the marks {BEGIN} and {END} are missing; put them where the table belongs")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
