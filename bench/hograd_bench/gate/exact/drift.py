"""Cumulative drift: exact metrics' growth that each gate let through, added up over git's baselines or stored runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hograd_bench import environment, metrics, store
from hograd_bench.gate.exact import baseline
from hograd_bench.gate.exact.baseline import exact_metrics
from hograd_bench.gate.exact.findings import Rows, blame
from hograd_bench.gate.outcome import Finding, Outcome, UsageError
from hograd_bench.gate.revisions import repository
from hograd_bench.schema import Row

History = Sequence[tuple[str, Rows]]


def exact_drift(history: History, allowed: float, *, whole: bool = True) -> tuple[list[Finding], int]:
    """Growth of exact metrics to the last of several baselines, of each metric from where it first appears.

    Args:
        history: (revision, rows by cell with exact metrics alone), oldest first; at least two.
        allowed: relative growth over the whole span that is not worth a word.
        whole: whether a row that the last revision lacks is gone; False where it may not have been asked for.

    Returns:
        Findings: metrics that grew by more, largest first, each with the steps that made it; then what was there and
        is gone, or runs no more. And the number of the last revision's cells that have a metric in common with an
        earlier one.

    Raises:
        ValueError: fewer than two revisions.
    """
    if len(history) < 2:
        raise ValueError(f"history: got {len(history)} revisions, expected at least two")
    last = history[-1][1]
    grown: list[tuple[float, Finding]] = []
    gone: list[Finding] = []
    compared = 0
    for cell, born in _births(history[:-1]).items():
        new = last.get(cell)
        if new is None or new["status"] != "ok":
            kind, metric = ("missing", "") if new is None else ("broken", "status")
            now = "is there no more" if new is None else f"is {new['status']} now"
            if new is not None or whole:
                gone.append(Finding(kind, cell, metric, f"was ok at {_latest(history, cell)}, {now}{_LATER}"))
            continue
        compared += not born.keys().isdisjoint(new["metrics"])
        for name, (revision, old) in born.items():
            before, after = old["metrics"][name], new["metrics"].get(name)
            if after is None:
                if whole:
                    text = f"{name} is measured no more (was {before:,} at {revision}){_LATER}"
                    gone.append(Finding("missing", cell, name, text, before))
                continue
            growth = after / before - 1 if before else math.inf if after > 0 else 0.0
            if growth > allowed:
                steps = _steps(history, cell, name)
                text = (
                    f"{name} {before:,} -> {after:,} ({growth:+.1%}) since {revision}, in {len(steps)} "
                    f"step{'s' * (len(steps) != 1)}: {', '.join(steps)}{blame(name, old, new)}"
                )
                grown.append((growth, Finding("growth", cell, name, text, before, after)))
    return [f for _, f in sorted(grown, key=lambda x: -x[0])] + gone, compared


_LATER = "; if that is meant, start --since at a later revision"


def _births(history: History) -> dict[str, dict[str, tuple[str, Row]]]:
    """For every cell that ever ran: its metrics, each with the revision and the row of its first appearance."""
    births: dict[str, dict[str, tuple[str, Row]]] = {}
    for revision, rows in history:
        for cell, row in rows.items():
            if row["status"] == "ok":
                own = births.setdefault(cell, {})
                for name in row["metrics"]:
                    own.setdefault(name, (revision, row))
    return births


def _latest(history: History, cell: str) -> str:
    """The last revision at which a cell ran."""
    return next(revision for revision, rows in reversed(history) if cell in rows and rows[cell]["status"] == "ok")


def _steps(history: History, cell: str, metric: str) -> list[str]:
    seen = [(revision, rows[cell]["metrics"].get(metric)) for revision, rows in history if cell in rows]
    known = [(revision, value) for revision, value in seen if value is not None]
    return [f"{new - old:+,} at {revision}" for (_, old), (revision, new) in pairwise(known) if new != old]


def baselines(repo: Path, revision: str, folder: Path) -> list[tuple[str, dict[str, Row]]]:
    """A baseline's rows at ``revision``, at every commit after it that changed them, and as they are now.

    Args:
        repo: the repository's top.
        revision: where to start.
        folder: of the baseline.

    Returns:
        (short hash or "now", rows), oldest first; without the start where the baseline was not there yet.

    Raises:
        BaselineError: a version of the file is damaged.
        UsageError: no such revision.
    """
    file = folder / store.ROWS
    sha = repository.commit(repo, revision, "--since")
    path = file.resolve().relative_to(repo.resolve()).as_posix()
    log = repository.git(repo, "log", "--reverse", "--format=%H", f"{sha}..HEAD", "--", path)
    history = []
    for commit in (sha, *log.split()):
        if repository.git(repo, "ls-tree", "--name-only", commit, "--", path):
            text = repository.git(repo, "show", f"{commit}:{path}")
            history.append((commit[:10], baseline.parse(text, f"{path} at {commit[:10]}")))
    if file.is_file():
        history.append(("now", baseline.parse(file.read_text(encoding="utf-8"), path)))
    return history


def outcome(repo: Path, start: str, folder: Path, drift: float, *, results: Path | None = None) -> Outcome:
    """What grew or went since ``start``, added up.

    Args:
        repo: the repository's top.
        start: a revision; with ``results``, a stored run.
        folder: where the baselines lie.
        drift: growth over the whole span that is not worth a word.
        results: folder of stored runs.

    Returns:
        The outcome; "not comparable" where there is nothing to add up.

    Raises:
        UsageError: no such revision or run.
        BaselineError: a baseline is damaged.
    """
    found = Outcome(f"growth since {start} of more than {drift:.1%}")
    if results is not None:
        _stored(found, start, drift, results)
        return found
    repository.commit(repo, start, "--since")
    names = baseline.available(folder)
    for name in names:
        history = baselines(repo, start, folder / name)
        if len(history) > 1:
            findings, compared = exact_drift(history, drift)
            found.findings += findings
            found.counted += compared
    if not found.counted and not found.findings:
        what = f"no baseline in {folder} with an earlier version since {start}" if names else f"no baseline in {folder}"
        place = folder.resolve()
        inside = place.is_relative_to(repo.resolve())
        if inside and ".txt" in repository.git(repo, "ls-tree", "-r", "--name-only", start, "--", str(place)):
            what += ", whose baselines were text files that this hograd reads no more"
        found.findings.append(Finding("not comparable", "", "", f"{what}: nothing to add up"))
    return found


def _stored(found: Outcome, start: str, drift: float, results: Path) -> None:
    try:
        folders = store.run_folders(results)
        first = store.find_run(results, start)
    except store.StoreError as error:
        raise UsageError(f"--since: {error}") from error
    anchor = store.open_run(first).environment
    metrics.carry(anchor)
    history = []
    for folder in sorted(folders, key=lambda f: f.name):
        if folder.name >= first.name:
            run = store.open_run(folder)
            if environment.comparable(anchor, run.environment).level != "none":
                # Never tried: nothing is known of it.
                tried = (row for row in store.read_rows(folder) if row["status"] != "skipped")
                history.append((folder.name, {r["cell"]: _exact(r) for r in tried}))
    history = [(name, rows) for name, rows in history if rows]
    if len(history) < 2:
        found.findings.append(
            Finding("not comparable", "", "", f"no later run in {results} is comparable with {first.name}")
        )
        return
    # A run measures what it was asked for: what it lacks need not be gone.
    found.findings, found.counted = exact_drift(history, drift, whole=False)


def _exact(row: Row) -> Row:
    return {**row, "metrics": exact_metrics(row, metrics.known())}
