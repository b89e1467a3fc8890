"""A report of many runs stays as large as a page can be, whatever the number of rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import report_scale as scale
from hograd_bench import claims, report, store
from hograd_bench.claims import _growth
from hograd_bench.report import data, page, verdicts

pytestmark = pytest.mark.slow


RUNS, ROWS, CELLS = 80, 2400, 400


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 80 runs on four machines."""
    base = tmp_path_factory.mktemp("scale")
    scale.write(base, rows=ROWS, runs=RUNS, cells=CELLS)
    return base


def test_the_made_up_results_are_what_the_store_reads(results: Path) -> None:
    loaded = store.load(results, strict=True)
    assert not loaded.warnings
    assert len(loaded.rows) == ROWS
    assert len(loaded.environments) == RUNS
    assert len(store.newest(loaded.rows)) == CELLS * len(scale.MACHINES)
    assert set(loaded.rows["device"]) == {"cpu", "cuda"}
    assert max(len(d.get("samples_seconds", [])) for d in loaded.rows["details"][:200]) > 3, (
        "details are the recorded ones"
    )


def test_page_holds_so_many_cells_cases_and_environments_and_no_more(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST_CELLS", 300)
    monkeypatch.setattr(verdicts, "MOST_CASES", 5)
    built = report.build(results, tmp_path)
    html = built.path.read_text(encoding="utf-8")
    assert html.count('class="ev"') == 300
    assert f"{CELLS * 4 - 300:,} more cells are in rows.csv" in html
    assert html.count('class="env"') <= page.MOST_ENVIRONMENTS
    tables = re.findall(r"<caption class=\"hide\">Cases of .*?</table>", html, re.DOTALL)
    assert tables
    assert max(table.count('<th scope="row">') for table in tables) == 5
    assert "more cases: <code>hograd claims" in html
    assert max(s.count("<figure") for s in html.split('<section id="')) <= 8
    assert len(html.encode()) < 5_000_000


def test_laws_that_machines_and_runs_share_are_sought_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[Any] = []
    _growth._exact.cache_clear()
    search = _growth.fit_exact
    monkeypatch.setattr(_growth, "fit_exact", lambda *a, **k: (sought.append(a), search(*a, **k))[1])
    rows = store.newest(store.load(results).rows)
    one = rows[rows["machine"] == scale.MACHINES[0]]
    claims.adjudicate(one)
    first = len(sought)
    assert first > 10
    claims.adjudicate(rows)
    assert len(sought) - first <= first / 2, "four machines have the same bytes"
