"""Peers beside hograd, contest by contest, from the rows of one run: docs/peers.md and what `hograd peers` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hograd_bench import units
from hograd_bench.report import text
from hograd_bench.report.summary import escape, table

HOGRAD, PYTORCH = "hograd", "PyTorch"
TIE = 0.05
"""Times closer than this, or than the spread of either, are a tie."""

SAME = ["operator", "problem", "n", "depth", "batch", "order", "dtype", "device", "threads"]
"""What the rows of a contest share."""

NUMBERS = (
    "seconds_min", "seconds_median", "seconds_iqr", "gradient_equivalents", "gradient_seconds_before",
    "gradient_seconds_after", "relative_error", "peak_bytes", "xla_peak_bytes", "compile_seconds", "first_call_seconds",
    "prepare_seconds", "first_preparation_seconds",
)  # fmt: skip
HEAD = (
    "package", "how", "gradients", "× fastest", "min", "±", "error", "peak", "XLA peak", "compile", "first", "build",
    "note",
)  # fmt: skip
_Row = Mapping[str, Any]


def peers_of(environment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The peers of a run, as ``peers.facts`` left them; what is no such fact is left out."""
    facts = environment.get("facts")
    brought = facts.get("peers") if isinstance(facts, Mapping) else None
    told = brought.items() if isinstance(brought, Mapping) else ()
    return {str(name): dict(peer) for name, peer in told if isinstance(peer, Mapping)}


def contestants(rows: pd.DataFrame, environment: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of every contest that a peer enters, with whose the method is and how far its times spread.

    Args:
        rows: of one run, as ``store.load`` gives them.
        environment: the run's.

    Returns:
        The rows with ``peer``, ``framework``, ``how``, ``note`` and ``spread``: right ones first, fastest first.
    """
    whose: dict[str, tuple[str, str, str, str]] = {}
    for name, peer in peers_of(environment).items():
        methods = peer.get("methods")
        for key, method in methods.items() if isinstance(methods, Mapping) else ():
            told = method if isinstance(method, Mapping) else {}
            whose[key] = (name, str(peer.get("framework", "")), str(told.get("how", key)), str(told.get("note", "")))
    keys = zip(rows["operator"], rows["method"], strict=True)
    found = [whose.get(f"{operator}/{method}", (HOGRAD, PYTORCH, method, "")) for operator, method in keys]
    columns = ["peer", "framework", "how", "note"]
    frame = rows.reindex(columns=[*rows.columns, *(name for name in NUMBERS if name not in rows)])
    frame[columns] = pd.DataFrame(found, columns=columns, index=frame.index, dtype=object)
    # What cannot be prepared takes part as it is.
    frame = frame[(frame["preparation"] == "eager") | (frame["status"] != "unsupported")]
    prepared = frame["preparation"] != "eager"
    frame["how"] = frame["how"].where(~prepared, frame["how"] + ", " + frame["preparation"].astype(str))
    frame["compile_seconds"] = frame["compile_seconds"].where(~prepared, frame["first_preparation_seconds"])
    frame["contest"] = frame.groupby(SAME, sort=False, observed=True).ngroup()
    frame = frame[frame["contest"].isin(frame.loc[frame["peer"] != HOGRAD, "contest"])]
    before, after = frame["gradient_seconds_before"], frame["gradient_seconds_after"]
    drift = (before / after).where(before > after, after / before) - 1
    spread = pd.concat([frame["seconds_iqr"] / frame["seconds_median"], drift], axis=1).max(axis=1)
    frame = frame.assign(
        spread=spread.fillna(0.0), bad=(frame["status"] != "ok") | frame["gradient_equivalents"].isna()
    )
    ordered: pd.DataFrame = frame.sort_values(["contest", "bad", "gradient_equivalents", "peer"], kind="stable")
    return ordered


def contests(frame: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """The rows of each contest, in the order of the run."""
    for _, rows in frame.groupby("contest", sort=True):
        yield [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def tied(a: _Row, b: _Row) -> bool:
    """Whether two times differ by no more than either spreads."""
    costs = a["gradient_equivalents"], b["gradient_equivalents"]
    return bool(max(costs) <= (1 + max(TIE, a["spread"], b["spread"])) * min(costs))


def best(rows: list[dict[str, Any]], peers: set[str]) -> dict[str, Any] | None:
    """The fastest right row of some peers, or None."""
    return next((r for r in rows if not r["bad"] and r["peer"] in peers), None)


def scores(frame: pd.DataFrame) -> list[str]:
    """How often hograd's best method wins, ties or loses, against packages on PyTorch and against each framework."""
    kinds = dict(zip(frame["peer"], frame["framework"], strict=True))
    others = sorted(set(kinds.values()) - {PYTORCH})
    groups = {"the other packages that run on PyTorch": {n for n, k in kinds.items() if k == PYTORCH} - {HOGRAD}}
    groups |= {kind: {n for n, k in kinds.items() if k == kind} for kind in others}
    lines = []
    for label, rivals in groups.items():
        tally = {"faster": 0, "tied": 0, "slower": 0}
        worst, where = 0.0, ""
        for rows in contests(frame):
            mine, theirs = best(rows, {HOGRAD}), best(rows, rivals)
            if mine is None or theirs is None:
                continue
            ratio = mine["gradient_equivalents"] / theirs["gradient_equivalents"]
            tally["tied" if tied(mine, theirs) else "faster" if ratio < 1 else "slower"] += 1
            if ratio > worst:
                worst, where = ratio, title(rows[0])
        if not worst:
            lines.append(f"Against {label}: no contest that both finished.")
            continue
        at = f"; at worst it takes {worst:.3g} times their time ({where})" if worst > 1 else ""
        lines.append(
            f"Against {label}, hograd's fastest method is faster in {tally['faster']}, tied in {tally['tied']} and "
            f"slower in {tally['slower']} of {sum(tally.values())} contests{at}."
        )
    return lines


def finding(rows: list[dict[str, Any]]) -> str:
    """One contest in a sentence or three."""
    everyone = {r["peer"] for r in rows}
    first, mine = best(rows, everyone), best(rows, {HOGRAD})
    if first is None:
        return "Nobody finished this contest."
    says = [f"Fastest: {_named(first)}, {_gradients(first)}."]
    if mine is None:
        says.append("No method of hograd finished.")
    elif mine is not first:
        says.append(f"hograd's fastest, {mine['how']}, {_beside(mine, first)}.")
        saved = mine["seconds_min"] - first["seconds_min"]
        if first["compile_seconds"] > 0 and saved > 0 and not tied(mine, first):
            calls = first["compile_seconds"] / saved
            says.append(
                f"Compiling took {units.seconds(first['compile_seconds'])}, which {calls:,.0f} calls earn back."
            )
    elif second := best(rows, everyone - {HOGRAD}):
        says.append(f"The next package, {_named(second)}, {_beside(second, first)}.")
    on_torch = best(rows, {r["peer"] for r in rows if r["framework"] == PYTORCH})
    if first["framework"] != PYTORCH and on_torch is not None and on_torch is not mine:
        says.append(f"Fastest on PyTorch: {_named(on_torch)}, {_gradients(on_torch)}.")
    return " ".join(says)


def _beside(row: _Row, first: _Row) -> str:
    ratio = row["gradient_equivalents"] / first["gradient_equivalents"]
    return "is tied with it" if tied(row, first) else f"takes {ratio:.3g} times that"


def _named(row: _Row) -> str:
    return f"{row['peer']} by {row['how']}"


def _gradients(row: _Row) -> str:
    return f"{units.figures(row['gradient_equivalents'])} gradients"


def title(row: _Row) -> str:
    """A contest in words."""
    return f"{text.operator_name(row['operator'], row['order'])} of {row['problem']}, {text.sizes(row)}, {row['dtype']}"


def lines_of(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of a contest's table, under :data:`HEAD`."""
    lines = []
    for row in rows:
        if row["bad"]:
            why = f"{row['status']}: {row['reason']}" if row["status"] != "ok" else "not timed"
            lines.append([row["peer"], row["how"], *[""] * (len(HEAD) - 3), why])
            continue
        build = row["prepare_seconds"] - (0.0 if math.isnan(row["compile_seconds"]) else row["compile_seconds"])
        figures = {name: "" if math.isnan(row[name]) else units.metric(name, row[name]) for name in NUMBERS}
        lines.append([
            row["peer"], row["how"], figures["gradient_equivalents"],
            f"{row['gradient_equivalents'] / rows[0]['gradient_equivalents']:.3g}", figures["seconds_min"],
            f"{row['spread']:.0%}", f"{row['relative_error']:.1e}", figures["peak_bytes"], figures["xla_peak_bytes"],
            figures["compile_seconds"], figures["first_call_seconds"],
            "" if math.isnan(build) else units.seconds(max(build, 0.0)), row["note"],
        ])  # fmt: skip
    return lines


def page(rows: pd.DataFrame, environment: Mapping[str, Any], source: str) -> str:
    """The page docs/peers.md.

    Args:
        rows: of one run, as ``store.load`` gives them.
        environment: the run's.
        source: where the run lies, as the page shows it.

    Returns:
        Markdown; whatever comes from data is escaped.
    """
    frame = contestants(rows, environment)
    each = list(contests(frame))
    lines = [
        "# hograd and its peers", "",
        f"Generated by `hograd peers --markdown` from {escape(source)}; do not edit.", "",
        *_measured(environment), "", "## Findings", "", *(f"- {escape(line)}" for line in scores(frame)),
        *(f"- **{escape(title(one[0]))}**: {escape(finding(one))}" for one in each),
        "", "## How to read it", "", _HOW, "", "## Who takes part", "", *_packages(environment),
        "", "## Who offers what", "", *_coverage(frame, environment),
    ]  # fmt: skip
    for one in each:
        lines += ["", f"## {escape(title(one[0]))}", "", *table(HEAD, lines_of(one))]
    lost = frame[frame["status"] != "ok"].drop_duplicates(columns := ["peer", "operator", "how", "status", "reason"])
    lines += ["", "## What could not be had", ""]
    lines += table(columns, lost[columns].astype(str).to_numpy().tolist()) if len(lost) else ["Every method was right."]
    return "\n".join(lines) + "\n"


_HOW = """\
- One function for all: each package's own writing of it is evaluated at the same point first, then its result is held
  against float64 truth. *error* is the largest deviation over the largest entry. A row that fails either check is
  `wrong` and has no time.
- *gradients* is the fastest warm call over the time of PyTorch's gradient of the same function, which is taken before
  and after it in the same process: what the machine was doing is in both. *min* is the call alone.
- *× fastest* compares gradients within the table. The contestants ran one after the other, in processes of their own,
  and took no turns: *±* is the larger of the interquartile range of a row's rounds over their median and of what the
  gradient's time drifted around them. Differences below that, or below 5%, are called ties. Where a ratio is to decide
  something, `hograd gate --methods A B --no-counts --cell ID` takes two methods in turns, process by process.
- *compile* is tracing and compiling ahead of the first call, and is in no other time; *build* is making the operator
  object and *first* the first call, each with what the package loads only then. These three happen once, so what else
  the machine did is in them, and calls that "earn back" a compilation are an upper bound.
- *peak* is the most bytes that a call holds at once, its result included, by PyTorch's allocator events; *XLA peak* is
  XLA's buffer assignment (temporaries and outputs). They do not count the same things, and no ratio between them is
  given.
- hograd's rows are its exact methods as they are and, where the run has them, compiled: then *compile* is the first
  preparation. [prepare.md](prepare.md) has contests of compiled kernels that took turns. All packages run with their
  defaults but for what a note says; what a package caches between calls it may keep."""


def _measured(environment: Mapping[str, Any]) -> list[str]:
    def fact(section: str, key: str) -> Any:
        found = environment.get(section)
        return found.get(key) if isinstance(found, Mapping) else None

    def shown(section: str, key: str) -> str:
        return escape("unknown" if (value := fact(section, key)) is None else value)

    lines = [
        f"Measured {escape(environment.get('recorded'))} by `hograd run --preset peers`; `nox -s peers` builds the "
        "environment first and does the same.",
        "",
        f"- CPU: {shown('cpu', 'model')}; kernels for {shown('torch', 'capability')}; "
        f"governor {shown('cpu', 'governor')}",
        f"- Python {shown('python', 'version')}, torch {shown('torch', 'version')}",
        f"- hograd {shown('source', 'version')}, commit {shown('source', 'commit')}",
    ]
    load, cpus = fact("system", "load_average"), fact("cpu", "logical")
    if isinstance(load, list) and load and all(isinstance(v, int | float) for v in (*load, cpus)) and load[-1] > cpus:
        lines.append(
            f"- **A busy machine**: {load[-1]:.1f} processes wanted its {cpus} CPUs in the last quarter of an hour. "
            "*±* is wide for that, and differences that a quiet machine would show are called ties."
        )
    return lines


def _packages(environment: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, peer in peers_of(environment).items():
        version = f"{peer.get('distribution')} {peer.get('version')}" if peer.get("version") else "not installed"
        takes = f"no: {peer['absence']}" if peer.get("absence") else "yes"
        lines.append([name, version, str(peer.get("framework")), str(peer.get("home")), takes])
    return table(("package", "version", "runs on", "home", "takes part"), lines)


def _coverage(frame: pd.DataFrame, environment: Mapping[str, Any]) -> list[str]:
    names = [HOGRAD, *peers_of(environment)]
    lines = []
    for operator in frame["operator"].unique():
        found = frame[frame["operator"] == operator].groupby("peer")["status"].unique()
        lines.append([operator, *(", ".join(sorted(found[name])) if name in found else "–" for name in names)])
    return [*table(("operator", *names), lines), "", "–: not offered (by the package, or by its adapter here)."]
