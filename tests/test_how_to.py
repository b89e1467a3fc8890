"""docs/how_to: the examples of every page run, in order; the pages of the site are all listed on its first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "how_to").glob("*.md"))
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for example in EXAMPLE.finditer(text):
        line = text[: example.start(1)].count("\n")
        exec(compile("\n" * line + example[1], str(page), "exec"), names)
    if page.stem == "memory":
        assert "39.1 KiB" in capsys.readouterr().out


def test_every_page_is_on_the_first() -> None:
    listed = set(re.findall(r"^[\w/]+$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in (*DOCS.rglob("*.md"), DOCS / "tutorial.py")}
    assert {page for page in listed if not page.startswith("reference/made/")} == {
        page for page in pages if page != "index" and not page.startswith("reference/made/")
    }
