"""Earlier runs: which one is gone on with, what it was asked for, and what it teaches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hograd_bench import driver, environment, problems, store
from hograd_bench.engine import FATAL
from hograd_bench.run._outcome import RunError


def recorded(results: Path, on: str = "local") -> dict[str, Any]:
    """How the newest run was asked for, {} where it does not say: of this machine, or of those on Ray, wherever.

    Raises:
        RunError: there is none, or its environment cannot be read.
    """
    try:
        if on == "local":
            return _plan_of(_newest(results, environment.record()))
        there = [
            plan
            for plan in map(_plan_of, _by_time(results))
            if isinstance(plan.get("asked"), Mapping) and plan["asked"].get("on") == on
        ]
    except store.StoreError as error:
        raise RunError(f"--resume: {error}") from None
    if not there:
        raise RunError(f"--resume --on {on}: no such run in {results}; start one without --resume")
    return there[-1]


def _plan_of(folder: Path) -> dict[str, Any]:
    plan = store.environment_of(folder).get("plan")
    return plan if isinstance(plan, dict) else {}


def _by_time(results: Path) -> list[Path]:
    return sorted(store.run_folders(results), key=lambda folder: folder.name)


def _newest(results: Path, here: dict[str, Any]) -> Path:
    try:
        return store.find_run(results / environment.machine_slug(here), "latest")
    except store.StoreError:
        raise RunError(f"--resume: no run of this machine in {results}; start one without --resume") from None


def resumed(results: Path, here: dict[str, Any]) -> store.Run:
    """The newest run of this machine, if what it measured can be continued in this environment."""
    newest = _newest(results, here)
    opened = store.open_run(newest)
    verdict = environment.comparable(opened.environment, here)
    if verdict.level != "full":
        raise RunError(
            f"--resume: {newest.name} was made in another environment ({'; '.join(verdict.reasons)}); "
            "start a new run without --resume"
        )
    now = problems.texts()
    then = store.texts_of(opened.environment)
    changed = [name for name, text in now.items() if then.get(name) != text]
    if changed:
        raise RunError(
            f"--resume: {newest.name} began without the file that declares {', '.join(changed)}, or with another text "
            "of it; start a new run without --resume"
        )
    return opened


def known_failures(results: Path) -> set[str]:
    """Ids of cells that ended badly, or were large, in any earlier run of any machine."""
    rows = store.load(results, details=False).rows
    large = rows["peak_bytes"] > 4 * driver.ISOLATE_ABOVE if "peak_bytes" in rows else False
    return set(rows.loc[rows["status"].isin(FATAL) | large, "cell"])
