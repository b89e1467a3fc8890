"""What is in results/ is hostile: whatever stands in a name, a message or a number, it stays text of bounded length."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import report_fakes as fakes
from hograd_bench import report, schema
from hograd_bench.cells import Cell
from hograd_bench.report import text

NAMES = (
    "<script>alert(1)<\\script>", "]]><svg onload=alert(1)>", "javascript:alert(1)", "\u202egnp.exe\u202c",
    "a\x00b\x1b[31mred", "{{ 7 * 7 }}{% raw %}", "'\" onmouseover=alert(1) x='", "&lt;b&gt;&#60;", "\u2028line\u2029",
    "x" * 100_000,
)  # fmt: skip
MEGABYTE = "</script><img src=x onerror=alert(1)> " * 30_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two runs in which every name, reason and number is bad."""
    base = tmp_path_factory.mktemp("hostile")
    for run in ("run-a", "run-b"):
        made = fakes.rows(run)
        for i, name in enumerate(NAMES):
            for n in (8, 16, 32, 64):
                values = {**fakes.metrics(1.0, 4, n, 1, 2), "note": name[:2000]}
                values |= {
                    "seconds_min": (9e18, -1.0, 5e-324, 1e-9 * n)[i % 4],
                    "peak_bytes": (2**62, 0, n, -n)[i % 4],
                }
                cell = Cell("derivative_vector_product", name, name, n)
                details = {"warnings": [name], "peak_attribution": [{"phase": name, "op": name, "bytes": 8}]}
                made.append(
                    schema.row(
                        cell, "ok", metrics=values, missing={"flopz": MEGABYTE}, numel=n, started=name[:50],
                        details=details, run=run,
                    )
                )  # fmt: skip
            bad = Cell("derivative_vector_product", name, f"bad {name}", 8)
            made.append(schema.row(bad, "failed", MEGABYTE, numel=8, run=run, details={"traceback": MEGABYTE}))
        fakes.write(base / "results", run, made, cpu={"model": MEGABYTE}, note=NAMES[0], gpus=[{"name": NAMES[1]}])
    return base


@pytest.fixture(scope="module")
def page(base: Path) -> str:
    return report.build(base / "results", base / "reports").path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison(base: Path) -> str:
    made = report.build_comparison(base / "results", base / "reports", "run-a", "run-b")
    return made.path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["page", "comparison"])
def test_no_name_becomes_markup_or_script(which: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(which)
    found = fakes.Page(page).tags
    assert sum(tag == "script" for tag, _ in found) == 2
    assert not {tag for tag, _ in found} & {"img", "iframe", "object", "embed", "link", "base", "form"}
    assert not [a for _, a in found if any(k.startswith("on") for k in a)]
    links = {str(a["href"]) for _, a in found if a.get("href")}
    assert all(link.startswith("#") or link in ("rows.csv", "rows.parquet", "summary.md") for link in links)
    assert "{{ 7 * 7 }}" in page, "no template within a template"


@pytest.mark.slow
def test_nothing_hides_or_turns_the_text(page: str) -> None:
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


@pytest.mark.slow
def test_long_messages_are_cut(page: str) -> None:
    """Megabytes come in by the dozen; some kilobytes of each are on the page."""
    assert len(page) < 12_000_000
    assert max(len(line) for line in page.splitlines() if "onerror" in line) < 400_000


def test_numbers_of_any_size_have_few_digits() -> None:
    for value in (1e300, -1e300, 2.0**62, -(2.0**62), 5e-324, 0.0):
        for name in ("seconds_min", "peak_bytes", "allocations", "gpu_joules_per_call"):
            assert len(text.metric(name, value)) < 18, (name, value, text.metric(name, value))
    assert text.visible("a\x00\u202eb\nc\td") == "a\ufffd\ufffdb\nc\td"
