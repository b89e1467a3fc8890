"""docs/arguments.md: its examples run, in order, and every item has one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "arguments.md").read_text(encoding="utf-8")
SECTIONS = TEXT.split("\n## ")
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_every_item_has_an_example() -> None:
    titles = [section.splitlines()[0] for section in SECTIONS[1:] if not EXAMPLE.search(section)]
    assert titles == ["What others accept"]


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for section in SECTIONS:
        for example in EXAMPLE.findall(section):
            line = TEXT[: TEXT.index(example)].count("\n")
            exec(compile("\n" * line + example, "docs/arguments.md", "exec"), names)
    assert "needs 156 KiB, the limit is 100 KiB" in capsys.readouterr().out
