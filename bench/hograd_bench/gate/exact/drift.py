"""Cumulative drift: exact metrics' growth that each gate let through, added up over git's baselines or stored runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hograd_bench import environment
from hograd_bench.gate.exact import baseline
from hograd_bench.gate.exact.deterministic import OK, Entry, blame
from hograd_bench.gate.outcome import Finding, Outcome, UsageError
from hograd_bench.gate.revisions import repository

History = Sequence[tuple[str, Mapping[str, Entry]]]


def exact_drift(history: History, allowed: float, *, whole: bool = True) -> tuple[list[Finding], int]:
    """Growth of exact metrics to the last of several baselines, of each metric from where it first appears.

    Args:
        history: (revision, entries), oldest first; at least two.
        allowed: relative growth over the whole span that is not worth a word.
        whole: whether an entry that the last revision lacks is gone; False where it may not have been asked for.

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
        if new is None or new.status != OK:
            kind, metric = ("missing", "") if new is None else ("broken", "status")
            now = "is there no more" if new is None else f"is {new.status} now"
            if new is not None or whole:
                gone.append(Finding(kind, cell, metric, f"was ok at {_latest(history, cell)}, {now}{_LATER}"))
            continue
        compared += not born.keys().isdisjoint(new.metrics)
        for name, (revision, old) in born.items():
            before, after = old.metrics[name], new.metrics.get(name)
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


def _births(history: History) -> dict[str, dict[str, tuple[str, Entry]]]:
    """For every cell that ever ran: its metrics, each with the revision and the entry of its first appearance."""
    births: dict[str, dict[str, tuple[str, Entry]]] = {}
    for revision, entries in history:
        for cell, entry in entries.items():
            if entry.status == OK:
                own = births.setdefault(cell, {})
                for name in entry.metrics:
                    own.setdefault(name, (revision, entry))
    return births


def _latest(history: History, cell: str) -> str:
    """The last revision at which a cell ran."""
    return next(revision for revision, entries in reversed(history) if cell in entries and entries[cell].status == OK)


def _steps(history: History, cell: str, metric: str) -> list[str]:
    steps, previous = [], None
    for revision, entries in history:
        entry = entries.get(cell)
        value = entry.metrics.get(metric) if entry is not None else None
        if value is not None:
            if previous is not None and value != previous:
                steps.append(f"{value - previous:+,} at {revision}")
            previous = value
    return steps


def from_rows(rows: Iterable[Mapping[str, Any]], deterministic: Iterable[str]) -> list[tuple[str, dict[str, Entry]]]:
    """Stored rows as a history for :func:`exact_drift`.

    Args:
        rows: rows of runs (see docs/architecture.md), oldest run first.
        deterministic: names of the metrics that may be compared exactly.

    Returns:
        (run, entries), in order of first appearance.
    """
    wanted = set(deterministic)
    runs: dict[str, dict[str, Entry]] = {}
    for row in rows:
        numbers = {
            k: int(v)
            for k, v in row["metrics"].items()
            if k in wanted and isinstance(v, int | float) and not isinstance(v, bool) and float(v).is_integer()
        }
        entries = runs.setdefault(row["run"], {})
        if row["status"] != "skipped":  # never tried: nothing is known of it
            entries[row["cell"]] = Entry(row["status"], numbers)
    return list(runs.items())


def baselines(repo: Path, revision: str, file: Path) -> list[tuple[str, dict[str, Entry]]]:
    """A baseline file's content at ``revision``, at every commit after it that changed the file, and as it is now.

    Args:
        repo: the repository's top.
        revision: where to start.
        file: the baseline.

    Returns:
        (short hash or "now", entries), oldest first; without the start where the file was not there yet.

    Raises:
        BaselineError: a version of the file is damaged.
        UsageError: no such revision.
    """
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
        found.findings.append(Finding("not comparable", "", "", f"{what}: nothing to add up"))
    return found


def _stored(found: Outcome, start: str, drift: float, results: Path) -> None:
    from hograd_bench import metrics, store

    try:
        folders = store.run_folders(results)
        first = store.find_run(results, start)
    except store.StoreError as error:
        raise UsageError(f"--since: {error}") from error
    anchor = store.open_run(first).environment
    names = [m.name for m in metrics.metrics().values() if m.exact]
    rows = []
    for folder in sorted(folders, key=lambda f: f.name):
        if folder.name >= first.name:
            run = store.open_run(folder)
            if environment.comparable(anchor, run.environment).level != "none":
                rows += [dict(row) for row in store.read_rows(folder)]
    history = from_rows(rows, names)
    if len(history) < 2:
        found.findings.append(
            Finding("not comparable", "", "", f"no later run in {results} is comparable with {first.name}")
        )
        return
    # A run measures what it was asked for: what it lacks need not be gone.
    found.findings, found.counted = exact_drift(history, drift, whole=False)
