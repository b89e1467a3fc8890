"""Problems out of files of one's own: which rows are of the text that such a file has now, and which of another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hograd_bench.store._common import ROWS, ReadWarning


def texts_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """Problem -> SHA-256 of the file that declared it in a run; none for those that hograd brings along."""
    plan = environment.get("plan")
    found = plan.get("problems") if isinstance(plan, Mapping) else None
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}


def of_one_text(
    rows: pd.DataFrame, environments: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[pd.DataFrame, dict[tuple[str, str, str], int]]:
    """The rows without those of a problem whose file had another text than in the newest run that declared it.

    A name stands for one function: laws, figures and advice would otherwise be drawn through two.

    Returns:
        The rows that stay, and how many were left out by machine, run and problem.
    """
    texts = {where: found for where, e in environments.items() if (found := texts_of(e))}
    if not texts:
        return rows, {}
    held = {where: set(part) for where, part in rows.groupby(["machine", "run"], observed=True)["problem"]}
    newest: dict[str, str] = {}
    for run, machine in sorted((run, machine) for machine, run in texts):
        own = held.get((machine, run), set())  # a run that did not measure a problem replaces nothing of it
        newest.update({name: text for name, text in texts[machine, run].items() if name in own})
    stale = {
        (*where, name) for where, found in texts.items() for name, text in found.items() if newest.get(name) != text
    }
    if not stale:
        return rows, {}
    lost: dict[tuple[str, str, str], int] = {}
    keep = []
    for where in zip(rows["machine"], rows["run"], rows["problem"], strict=True):
        keep.append(where not in stale)
        if where in stale:
            lost[where] = lost.get(where, 0) + 1
    kept: pd.DataFrame = rows[keep].reset_index(drop=True) if len(rows) else rows
    return kept, lost


def warnings_of(lost: Mapping[tuple[str, str, str], int]) -> list[ReadWarning]:
    """A warning for each run and problem that lost rows."""
    return [
        ReadWarning(
            Path(machine) / run / ROWS, None,
            f"{count} row{'s' * (count > 1)} of {name} left out: the file that declares it has changed since",
        )
        for (machine, run, name), count in lost.items()
    ]  # fmt: skip
