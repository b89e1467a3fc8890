"""Growth with the order, judged on prepared passes as they are measured here."""

from __future__ import annotations

import pandas as pd
import pytest
from hograd_bench import claim_cells, claims, torch_state
from hograd_bench.cells import Cell
from hograd_bench.claims import HOLDS, REFUTED, Claim, Part
from hograd_bench.metrics import Subject
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._calls import warm
from prepare_fakes import needs_compiler

(C4,) = (c for c in claims.load() if c.id == "C4")
PARTS = {part.id: part for part in C4.parts}
PREPARED = ("C4c", "C4d", "C4e", "C4f")


def planned(part: Part, preparation: str) -> list[Cell]:
    found = claim_cells.needed_cells(Claim("X", "t", "s", "o", (part,)))
    return [cell for cell in found if cell.preparation == preparation]


@pytest.mark.parametrize("preparation", ["graph", "compiled"])
@pytest.mark.parametrize("part", PREPARED)
def test_orders_are_planned_prepared(part: str, preparation: str) -> None:
    assert len({cell.order for cell in planned(PARTS[part], preparation)}) >= 5


def measured(cell: Cell) -> dict[str, object]:
    with torch_state.threads(1):
        subject = Subject(cell)
        peak = trace(warm(subject)).peak_bytes
    operations = sum((subject.prepared.operations or {}).values())  # type: ignore[union-attr]
    row = {**cell.as_dict(), "cell": cell.id, "status": "ok", "run": "r", "machine": "m"}
    return {**row, "graph_operations": float(operations), "peak_bytes": float(peak)}


@pytest.mark.slow
@pytest.mark.parametrize("preparation", ["graph", pytest.param("compiled", marks=needs_compiler)])
def test_taylor_is_polynomial_and_nesting_exponential(preparation: str) -> None:
    """Compiled, nesting at n = 8 is one kernel, whose peak is its result: of it the bytes are flat."""
    cells = {c for p in PREPARED for c in planned(PARTS[p], preparation) if c.problem != "sin_chain"}
    rows = pd.DataFrame([measured(cell) for cell in sorted(cells)])
    for name in PREPARED:
        (verdict,) = claims.adjudicate(rows, [Claim("X", "t", "s", "o", (PARTS[name],))], operations=lambda *a: 100)
        (judged,) = verdict.parts
        flat = name == "C4f" and preparation == "compiled"
        assert judged.outcome == (REFUTED if flat else HOLDS), judged.findings
