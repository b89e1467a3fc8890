"""The validation study as text: sections, tables, and writing between markers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from studies import _document
from studies._document import written_into
from studies.validation import __main__ as command
from studies.validation import study

MARKED = "<!-- study: {0} -->\n{1}<!-- end of study: {0} -->\n"
DOCUMENT = "before\n" + MARKED.format("a", "old\n") + "between\n" + MARKED.format("b", "")


@pytest.fixture
def two_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {"a": ("A", lambda preset: f"new \\1 {preset}"), "b": ("B", lambda preset: "also")}
    monkeypatch.setattr(study, "SECTIONS", sections)


def test_sections_of_the_documentation_exist() -> None:
    text = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text(encoding="utf-8")
    marked = re.findall(r"<!-- study: (.+?) -->", text)
    assert sorted(marked) == sorted([*study.SECTIONS, "guard"])  # which has a study of its own
    for name in marked:
        between = text.split(_document.BEGIN.format(name))[1].split(_document.END.format(name))[0]
        assert between.strip(), f"section {name} is empty: python -m studies.validation --write FILE {name}"
        assert "DIFFERENT" not in between


@pytest.mark.slow
def test_programs_and_operations_agree() -> None:
    memory = study.run(["memory"])
    assert memory.count("| equal |") == len(study.PROGRAMS)
    arithmetic = study.run(["operations"])
    assert "DIFFERENT" not in arithmetic
    assert "gradient over its bound" not in arithmetic
    assert "without a formula" not in arithmetic


@pytest.mark.usefixtures("two_sections")
def test_writing_replaces_only_what_is_between_the_markers() -> None:
    written = written_into(DOCUMENT, {"a": "new \\1\n"})
    assert written == DOCUMENT.replace("old", "new \\1")
    both = written_into(written, {"b": "also\n", "a": "newer\n"})
    assert both == "before\n" + MARKED.format("a", "newer\n") + "between\n" + MARKED.format("b", "also\n")
    with pytest.raises(ValueError, match="no markers"):
        written_into("nothing here", {"a": ""})
    with pytest.raises(ValueError, match="got 'c', expected one of a, b"):
        study.run(["c"])


@pytest.mark.usefixtures("two_sections")
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["validation", "b"])
    command.main()
    assert capsys.readouterr().out == "### B\n\n`python -m studies.validation b`\n\nalso\n\n"
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["validation", "--write", str(path), "--preset", "smoke", "a"])
    command.main()
    assert path.read_text(encoding="utf-8") == DOCUMENT.replace("old", "new \\1 smoke")
    monkeypatch.setattr(sys, "argv", ["validation", "--write", str(tmp_path / "missing.md")])
    with pytest.raises(SystemExit, match=r"missing\.md"):
        command.main()


def test_table_keeps_its_columns() -> None:
    text = study.table(("a", "b"), [(1234567, 0.126), (True, "x|y")])
    assert text.splitlines() == ["| a | b |", "| --- | --- |", "| 1,234,567 | 0.13 |", "| True | x\\|y |"]
