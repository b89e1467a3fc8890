"""The page that compares two runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import report_fakes as fakes
from hograd_bench import cli, report
from typer.testing import CliRunner


def two(folder: Path, *, extra: int = 64, **environment: object) -> Path:
    """Results of run "a", and of run "b" a day later with ``extra`` bytes in every cell."""
    fakes.write(folder / "results", "a", fakes.rows("a"), recorded="2026-01-01T00:00:00Z")
    fakes.write(folder / "results", "b", fakes.rows("b", extra=extra), recorded="2026-01-02T00:00:00Z", **environment)
    return folder / "results"


def compared(results: Path, a: str, b: str) -> str:
    return report.build_comparison(results, results.parent, a, b).path.read_text(encoding="utf-8")


def marked(page: str) -> list[str]:
    return re.findall(r'<tr class="marked"><th scope="row">(.*?)</th>', page)


def test_runs_that_cannot_be_compared_say_why(tmp_path: Path) -> None:
    page = compared(two(tmp_path, torch={"version": "2.14.0"}), "a", "b")
    assert "torch.version: 2.13.0 against 2.14.0" in page
    assert "nothing may be compared" in page
    assert "torch" in marked(page)


def test_differences_are_counted_and_the_date_is_none(tmp_path: Path) -> None:
    page = compared(two(tmp_path), "a", "b")
    assert "<b>24</b> differ" in page
    assert "all metrics may be compared" in page
    assert marked(page) == []
    assert "2026-01-01T00:00:00Z" in page


def test_an_unknown_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(report.ReportError, match="no such run"):
        report.build_comparison(two(tmp_path), tmp_path, "a", "1999")


@pytest.mark.slow
def test_a_run_compared_with_itself_is_a_doubt(tmp_path: Path) -> None:
    results = two(tmp_path)
    says = "A and B are one run, b, so that nothing can differ; name two"
    assert report.build_comparison(results, tmp_path, "b", str(results / fakes.MACHINE / "b")).warnings == [says]
    assert report.build_comparison(results, tmp_path, "a", "b").warnings == []
    ran = CliRunner().invoke(cli.app, ["compare", "b", "b", "--results", str(results)])
    assert ran.exit_code == 0
    assert says in " ".join(ran.stderr.split())
