"""Differential flame graphs: blocks are as wide as what the rows say, red grew, blue shrank; names stay text."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import report_fakes as fakes
from hograd_bench import makeup, schema
from hograd_bench.cells import Cell
from hograd_bench.gate.exact.findings import made_of
from hograd_bench.gate.outcome import Finding, Outcome
from hograd_bench.gate.output.writer import OutputWriter
from hograd_bench.makeup import BYTES, CALLS, Change
from hograd_bench.report import flame, palette

CELL = Cell("derivative_tensor", "rows", "mlp", 6, 2, 2).id
BEFORE = {("forward", "tanh"): 600, ("backward 1", "MmBackward0", "mm"): 400, ("backward 1", "gone"): 50}
AFTER = {("forward", "tanh"): 600, ("backward 1", "MmBackward0", "mm"): 700, ("backward 2", "new"): 100}
CHANGE = Change(CELL, BYTES, BEFORE, AFTER)


def blocks(change: Change) -> dict[tuple[str, bool], tuple[float, float, str, float]]:
    """Of each block of the picture, by name and whether it is of now: x, width, fill, opacity."""
    (panel,) = flame.draw(change, "some-name").panels
    picture = ET.fromstring(f"<r>{panel}</r>")[1]
    found = {}
    for group in picture.iter("g"):
        rect, title = group.find("rect"), group.findtext("title") or ""
        assert rect is not None
        x, y, width, depth = (float(rect.attrib[n]) for n in ("x", "y", "width", "fill-opacity"))
        found[title.partition(": ")[0], y < float(picture.attrib["viewBox"].split()[3]) / 2 - 1] = (
            x, width, rect.attrib["fill"], depth,
        )  # fmt: skip
    return found


def colour(parts: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def test_widths_are_amounts_on_one_scale_and_colours_are_steps() -> None:
    found = blocks(CHANGE)
    scale = flame.WIDTH / 1400  # now, the larger side
    amounts = {
        (BYTES, True): 1400, (BYTES, False): 1050, ("forward", True): 600, ("forward", False): 600,
        ("forward / tanh", True): 600, ("forward / tanh", False): 600, ("backward 1", True): 700,
        ("backward 1", False): 450, ("backward 1 / MmBackward0", True): 700, ("backward 1 / MmBackward0", False): 400,
        ("backward 1 / MmBackward0 / mm", True): 700, ("backward 1 / MmBackward0 / mm", False): 400,
        ("backward 1 / gone", False): 50, ("backward 2", True): 100, ("backward 2 / new", True): 100,
    }  # fmt: skip
    assert {key: width for key, (_, width, *_) in found.items()} == pytest.approx(
        {key: amount * scale for key, amount in amounts.items()}, abs=0.01
    )
    grew, shrank = colour(palette.WORSE), colour(palette.BETTER)
    fills = {name: fill for (name, _), (*_, fill, _) in found.items()}
    assert [name for name, fill in fills.items() if fill == shrank] == ["backward 1 / gone"]
    assert {name for name, fill in fills.items() if fill == "currentColor"} == {"forward", "forward / tanh"}
    assert all(fill == grew for name, fill in fills.items() if name.endswith(("mm", "new", BYTES)))
    assert found["backward 1 / MmBackward0 / mm", True][3] > found["backward 2 / new", True][3], "deeper: a larger step"


def test_parts_lie_under_their_whole_side_by_side_in_one_order() -> None:
    found = blocks(CHANGE)
    for now in (True, False):
        forward, first = found["forward", now], found["backward 1", now]
        assert (forward[0], first[0]) == pytest.approx((0, forward[1]), abs=0.02), "as they happen"
        for name in ("MmBackward0", "gone"):
            part = found.get((f"backward 1 / {name}", now))
            assert part is None or first[0] - 0.02 <= part[0] <= part[0] + part[1] <= first[0] + first[1] + 0.02


def test_every_step_is_said_the_largest_first() -> None:
    notes = flame.draw(CHANGE, "some-name").notes
    assert [(note.name, note.text) for note in notes] == [
        ("backward 1 / MmBackward0 / mm", "400 B → 700 B (+300 B)"),
        ("backward 2 / new", "0 B → 100 B (+100 B)"),
        ("backward 1 / gone", "50 B → 0 B (−50 B)"),
    ]


def test_many_steps_are_counted() -> None:
    notes = flame.draw(Change(CELL, CALLS, {("x",): 1}, {(f"op{i}",): 9 for i in range(99)}), "n").notes
    assert len(notes) == flame.MOST_STEPS + 1
    assert notes[-1].name == f"and {100 - flame.MOST_STEPS} smaller steps"


def details(held: dict[tuple[str, str, str], int], **calls: int) -> dict[str, object]:
    attribution = [{"phase": p, "within": w, "op": o, "bytes": b, "blocks": 1} for (p, w, o), b in held.items()]
    return {"peak_attribution": attribution, "aten_by_op": {f"aten.{op}.Tensor": n for op, n in calls.items()}}


def test_what_rows_tell_becomes_paths() -> None:
    old = details({("forward", "aten::mm", "aten::mm"): 8, ("backward 1", "MmBackward0", "aten::mm"): 4}, mm=2)
    new = details({("forward", "aten::mm", "aten::mm"): 8, ("backward 1", "TBackward0", "aten::mm"): 4}, mm=3)
    moved, called = makeup.changes(CELL, old, new)
    assert (moved.what, called.what) == (BYTES, CALLS)
    assert moved.before == {("forward", "mm"): 8, ("backward 1", "MmBackward0", "mm"): 4}
    assert (called.before, called.after) == ({("mm", "Tensor"): 2}, {("mm", "Tensor"): 3})


def test_a_side_without_nodes_is_compared_without_them() -> None:
    """A committed baseline has phases and operations alone; that is no change."""
    new = details({("backward 1", "MmBackward0", "aten::mm"): 4, ("backward 1", "TBackward0", "aten::mm"): 4})
    old = {"peak_attribution": [{"phase": "backward 1", "op": "aten::mm", "bytes": 8}]}
    assert makeup.changes(CELL, old, new) == []


@pytest.mark.parametrize(
    "broken", [None, {}, {"peak_attribution": 3}, {"peak_attribution": [{"bytes": "x"}, 5]}, {"aten_by_op": [1]}]
)
def test_damaged_details_tell_nothing(broken: object) -> None:
    assert makeup.changes(CELL, broken, details({("f", "f", "f"): 4}, mm=2)) == []


def test_the_rest_of_small_blocks_is_one_part_however_many() -> None:
    rest = [{"phase": "other", "within": "other", "op": f"{n} rows", "bytes": 9, "blocks": n} for n in (12, 14)]
    assert [makeup.at_peak({"peak_attribution": [one]}) for one in rest] == [{("other",): 9}] * 2


def test_cells_that_grew_or_shrank_are_drawn_in_the_order_of_the_findings() -> None:
    def row(name: str, size: int) -> schema.Row:
        return schema.row(Cell("op", name, "p", 1), "ok", details=details({("forward", "a", "a"): size}))

    base, head = ({n: row(n, size * k) for k, n in enumerate("abc", 1)} for size in (4, 8))
    found = [Finding("growth", "c", "peak_bytes", ""), Finding("improvement", "a", "total_bytes", ""),
             Finding("slower", "b", "time", "")]  # fmt: skip
    assert [change.cell for change in made_of(found, base, head)] == ["c", "a"]


def page_of(outcome: Outcome, folder: Path) -> str:
    file = folder / "gate.html"
    OutputWriter(False, {"--html": file}, False).write(outcome)
    return file.read_text(encoding="utf-8")


def test_the_gates_page_draws_what_changed_and_lists_the_rest(tmp_path: Path) -> None:
    verdict = {"verdict": "same", "ratio": 1.01, "low": 0.99, "high": None, "change": 0.01, "pairs": 5}
    changes = [CHANGE] * (flame.MOST + 3)
    found = [Finding("growth", CELL, "peak_bytes", "peak_bytes 1,050 -> 1,400", 1050, 1400)]
    page = page_of(
        Outcome("B against A", found, {CELL: verdict}, 1, {"A": {"name": "main"}}, changes=changes), tmp_path
    )
    parsed = fakes.Page(page)
    assert sum(1 for tag, props in parsed.tags if tag == "svg" and props.get("class") == "flame") == flame.MOST
    assert sorted(set(parsed.ids)) == sorted(parsed.ids)
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    words = " ".join(" ".join(parsed.text).split())
    for said in ("regression (exit 1): B against A", "peak_bytes 1,050 -> 1,400", "-1.0% to unbounded", "main"):
        assert said in words


def test_a_page_without_changes_has_no_pictures_and_says_why_nothing_was_compared(tmp_path: Path) -> None:
    page = page_of(Outcome("nothing", [Finding("usage", "", "", "no such revision")]), tmp_path)
    assert "<figure" not in page
    assert "no such revision" in page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = f"{fakes.EVIL}</svg><script>alert(1)</script>\u202e\x00"
    change = Change(evil, BYTES, {(evil, "x"): 4}, {(evil, "x"): 5, ("y", evil): 3})
    page = page_of(Outcome(evil, [Finding("growth", evil, evil, evil)], {}, 1, {evil: {evil: evil}}, changes=[change]),
                   tmp_path)  # fmt: skip
    tags = fakes.Page(page).tags
    assert sum(1 for tag, _ in tags if tag == "script") == 2, "the page's own"
    assert not any(tag == "img" or any(name.startswith("on") for name in props) for tag, props in tags)
    assert not re.search("[\x00\u202e]", page)
