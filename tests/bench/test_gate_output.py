"""What a gate run says: exit codes, and its forms as text, JSON, JUnit, Markdown and annotations."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from hograd_bench.cells import Cell
from hograd_bench.gate.outcome import KINDS, Exit, Finding, Outcome
from hograd_bench.gate.output import formats

CELL = Cell("derivative_tensor", "rows", "mlp", 6, 2, 2).id


def outcome(*found: str) -> Outcome:
    made = Outcome("B against A", [Finding(kind, CELL, "time", f"text of {kind}") for kind in found], counted=3)
    made.timing = {CELL: {"verdict": "same", "ratio": 1.01, "low": 0.99, "high": None, "change": 0.01, "pairs": 5}}
    return made


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ((), 0), (("improvement", "new", "faster", "skipped"), 0), (("inconclusive",), 3),
        (("inconclusive", "growth"), 1), (("slower",), 1), (("wrong",), 1), (("missing",), 1), (("broken",), 1),
        (("not comparable",), 4), (("not comparable", "slower"), 1), (("not comparable", "inconclusive"), 4),
    ],
)  # fmt: skip
def test_exit_codes(found: tuple[str, ...], code: int) -> None:
    assert outcome(*found).exit == code


def test_nothing_measured_is_no_pass() -> None:
    assert Outcome("empty").exit == Exit.NOT_COMPARABLE


HOSTILE = "<script>|`x`\n::error::%0A\x00\x1b[31m & ]]>"


def test_every_form_survives_hostile_text() -> None:
    made = Outcome(HOSTILE, [Finding("slower", HOSTILE, HOSTILE, HOSTILE)], {HOSTILE: outcome().timing[CELL]}, 1)
    assert json.loads(formats.to_json(made))["findings"][0]["text"] == HOSTILE
    root = ElementTree.fromstring(formats.junit(made))
    assert root[0].get("failures") == "1"
    page = formats.markdown(made)
    assert "<script>" not in re.sub("`[^`]*`", "", page)
    assert all(len(line.split(" | ")) in (1, 4, 5) for line in page.splitlines() if line.startswith("| ✗"))
    (command,) = formats.github(made).splitlines()
    assert command.startswith("::error title=hograd gate%3A slower::")
    assert "%250A" in command


def test_markdown_escapes_what_people_did_not_write() -> None:
    made = Outcome("t", [Finding("growth", "c", "m", "<img src=x> [a](b) | `q`")], counted=1)
    line = next(x for x in formats.markdown(made).splitlines() if x.startswith("| ✗"))
    assert "<img" not in line
    assert "\\[a\\]" in line
    assert "\\|" in line


def test_many_new_cells_take_one_line() -> None:
    made = Outcome("t", [Finding("new", f"c{i}", "", "x") for i in range(50)], counted=1)
    assert len(formats.text(made).splitlines()) == 2


def test_junit_and_headline_say_what_happened() -> None:
    made = outcome("growth", "inconclusive", "new")
    root = ElementTree.fromstring(formats.junit(made))[0]
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("5", "1", "1")
    assert formats.headline(made).startswith(
        "regression (exit 1): B against A; exact metrics of 3 cells; 1 cells timed"
    )
    nothing = ElementTree.fromstring(formats.junit(Outcome("empty")))[0]
    assert nothing.get("failures") == "1"


def test_kinds_are_known() -> None:
    with pytest.raises(ValueError, match="kind"):
        Finding("slowish", CELL, "", "")
    assert {level for level, _ in KINDS.values()} == {"error", "warning", "notice"}
