"""The examples of docs/prepare.md run, in order."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "prepare.md"


def test_examples() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 6
    exec(compile("\n".join(examples), str(PAGE), "exec"), {})
