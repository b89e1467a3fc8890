"""The README's law of a function of one's own: its commands, run as they stand, say what it says they do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_two_commands_find_the_law_and_foretell(tmp_path: Path) -> None:
    section = README.read_text(encoding="utf-8").split("### Its law", 1)[1].split("\n## ", 1)[0]
    source, commands, said = re.findall(r"```(?:python)?\n(.*?)```", section, re.DOTALL)
    (tmp_path / "springs.py").write_text(source, encoding="utf-8")
    for command in commands.splitlines():
        arguments = [sys.executable, "-m", "hograd_bench", *shlex.split(command)[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout == said
