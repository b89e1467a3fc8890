"""The examples of docs/prepare.md run, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "prepare.md"


@pytest.mark.slow
def test_examples() -> None:
    text = PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == text.count("```python") > 0
    exec(compile("\n".join(examples), str(PAGE), "exec"), {})
