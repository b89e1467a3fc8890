"""Where ``--since`` gets its figures: baselines out of git, stored runs, and the ledger of A/B ratios."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

from hograd_bench import environment
from hograd_bench._probes import git_environment
from hograd_bench.gate import baseline, live, revisions, since
from hograd_bench.gate.deterministic import Entry
from hograd_bench.gate.outcome import Finding, Outcome, UsageError
from hograd_bench.gate.twins import Side, reading


def _git(repo: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(repo), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=git_environment(), check=False)
    return done.stdout if done.returncode == 0 else None


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
    sha = revisions.commit(repo, revision, "--since")
    path = file.resolve().relative_to(repo.resolve()).as_posix()
    log = _git(repo, "log", "--reverse", "--format=%H", f"{sha}..HEAD", "--", path) or ""
    history = []
    for commit in (sha, *log.split()):
        text = _git(repo, "show", f"{commit}:{path}")
        if text is not None:
            history.append((commit[:10], baseline.parse(text, f"{path} at {commit[:10]}")))
    if file.is_file():
        history.append(("now", baseline.parse(file.read_text(encoding="utf-8"), path)))
    return history


def outcome(
    repo: Path, start: str, folder: Path, drift: float, *, ledger: Path | None = None, results: Path | None = None
) -> Outcome:
    """What grew or went since ``start``, added up.

    Args:
        repo: the repository's top.
        start: a revision; with ``results``, a stored run.
        folder: where the baselines lie.
        drift: growth over the whole span that is not worth a word.
        ledger: recorded A/B ratios, for time.
        results: folder of stored runs.

    Returns:
        The outcome; "not comparable" where there is nothing to add up.

    Raises:
        UsageError: no such revision, run or ledger.
        BaselineError: a baseline is damaged.
        ValueError: the ledger is damaged.
    """
    found = Outcome(f"growth since {start} of more than {drift:.1%}")
    if results is not None:
        _stored(found, start, drift, results)
        return found
    revisions.commit(repo, start, "--since")
    names = baseline.available(folder)
    for name in names:
        history = baselines(repo, start, folder / name)
        if len(history) > 1:
            findings, compared = since.exact_drift(history, drift)
            found.findings += findings
            found.counted += compared
    if ledger is not None:
        if not ledger.is_file():
            raise UsageError(f"--ledger: {ledger} does not exist; `hograd gate --base REV --ledger` writes it")
        ratios = since.parse_ledger(ledger.read_text(encoding="utf-8"), str(ledger))
        anchor, head = revisions.commit(repo, start, "--since"), revisions.commit(repo, "HEAD")
        findings, compared = since.time_drift(ratios, anchor, head, drift)
        found.findings += findings
        found.counted += compared
    if not found.counted and not found.findings:
        what = f"no baseline in {folder} with an earlier version since {start}" if names else f"no baseline in {folder}"
        found.findings.append(
            Finding("not comparable", "", "", f"{what}, and no chain of ratios reaches HEAD: nothing to add up")
        )
    return found


def _stored(found: Outcome, start: str, drift: float, results: Path) -> None:
    from hograd_bench import metrics, store

    try:
        folders = store.run_folders(results)
        first = store.find_run(results, start)
    except store.StoreError as error:
        raise UsageError(f"--since: {error}") from error
    anchor = store.open_run(first).environment
    names = [m.name for m in metrics.metrics().values() if m.deterministic and m.unit in ("B", "1", "FLOP")]
    rows = []
    for folder in sorted(folders, key=lambda f: f.name):
        if folder.name >= first.name:
            run = store.open_run(folder)
            if environment.comparable(anchor, run.environment).level != "none":
                rows += [dict(row) for row in store.read_rows(folder)]
    history = since.from_rows(rows, names)
    if len(history) < 2:
        found.findings.append(
            Finding("not comparable", "", "", f"no later run in {results} is comparable with {first.name}")
        )
        return
    # A run measures what it was asked for: what it lacks need not be gone.
    found.findings, found.counted = since.exact_drift(history, drift, whole=False)


def record(ledger: Path, a: Side, b: Side, timed: live.Timed, repo: Path) -> int:
    """Append a run's ratios to the ledger; only between commits, and only from a clean working tree.

    Cells of fewer than ``since.LEAST_PAIRS`` pairs are left out: how far their ratio is off is not known.

    Args:
        ledger: the file, made where it does not exist.
        a: the base.
        b: the working tree.
        timed: the timing gate's record.
        repo: the repository.

    Returns:
        Number of lines written.
    """
    clean = _git(repo, "status", "--porcelain", "--untracked-files=no") == ""
    head = b.commit or (revisions.commit(repo, "HEAD") if clean else None)
    if a.commit is None or head is None:
        return 0
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = str(environment.record()["machine"])
    lines = []
    for name in timed.verdicts:
        pairs = [reading(p[name].log_ratios()).ratio for p in timed.pairs if name in p]
        if len(pairs) >= since.LEAST_PAIRS:
            lines.append(since.ratio(a.commit, head, name, pairs, machine, now).to_line())
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return len(lines)
