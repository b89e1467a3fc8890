"""The cells that claims need, so that exactly those that are missing can be run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import hograd_core
from hograd_bench import metrics, plan
from hograd_bench.cells import Cell
from hograd_bench.claims import Claim, Part, canonical, cell_ids, load


def planned(claims: Iterable[Claim] | None = None) -> list[plan.Planned]:
    """Every cell that claims need, each once, with the metric families that some claim wants of it.

    Args:
        claims: which; None: all of claims.toml.

    Returns:
        Cells with families, skips and their reasons included, in the claims' order.

    Raises:
        ValueError: a claim names an operator, method or problem that does not exist, or one that does not fit.
    """
    parts = [part for claim in (load() if claims is None else claims) for part in claim.parts]
    return plan.merge(each for part in parts for each in _of_part(part))


def _of_part(part: Part) -> list[plan.Planned]:
    found = []
    for i, table in enumerate(part.cells):
        given = {"families": families_of(part.metric), **table}
        try:
            found += plan.expand(plan.Sweep.from_table(given, f"{part.id} cells {i + 1}"))
        except ValueError as error:
            raise ValueError(f"{part.id}: {error}") from error
    baseline = part.parameters.get("baseline") or part.parameters.get("over")
    if baseline and "/" in str(baseline):
        operator, _, method = str(baseline).partition("/")
        name = canonical(operator)
        fixed = hograd_core.resolve(name)[0].order
        for p in list(found):
            like = {**p.cell.as_dict(), "operator": name, "method": method, "order": fixed or p.cell.order}
            found.append(plan.Planned(Cell(**like), tuple(families_of(part.metric))))
    return found


def families_of(metric: str) -> list[str]:
    """The metric families that must run for a metric to be there."""
    owners = {m.name: name for name, module in metrics.families().items() for m in module.METRICS}
    return [owners[metric]] if metric in owners else list(plan.FAMILIES)


def needed_cells(claim: Claim) -> list[Cell]:
    """The cells of one claim, each once; cells that a method or problem does not define are left out.

    Raises:
        ValueError: the claim names an operator, method or problem that does not exist.
    """
    return [p.cell for p in planned([claim]) if p.skip is None]


def missing_cells(frame: pd.DataFrame, claims: Iterable[Claim] | None = None) -> list[plan.Planned]:
    """The planned cells of claims for which the frame has no row at all."""
    have = set(cell_ids(frame)) if len(frame) else set()
    return [p for p in planned(claims) if p.skip is None and p.cell.id not in have]


def shipped_facts() -> str:
    """The text of facts.json: all operators, and the problems of every cell of a preset or a claim."""
    cells = [p.cell for name in plan.load_presets() for p in plan.preset(name)] + [p.cell for p in planned()]
    facts = {
        name: told for name, told in plan.facts(cells).items() if name != "peers"
    }  # whose versions are a run's own
    return json.dumps(facts, indent=0, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("facts.json").write_text(shipped_facts(), encoding="utf-8")
