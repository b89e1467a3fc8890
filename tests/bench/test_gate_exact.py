"""The exact gate: comparison rule, baselines as text, outcomes and their forms. No kernel runs here."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hograd_bench.gate.exact import agreement, baseline, deterministic
from hograd_bench.gate.exact.baseline import BaselineError, Key
from hograd_bench.gate.exact.deterministic import Entry
from hograd_bench.gate.outcome import KINDS, Exit, Finding, Outcome
from hograd_bench.gate.output import formats
from hypothesis import given
from hypothesis import strategies as st

CELL = "derivative_tensor/rows/mlp/n=6,order=2,depth=2,batch=1/float32/cpu/t1/eager"
KEY = Key("2.13.0+cpu", "x86_64", "AVX2")
BASE = Entry(
    "ok", {"peak_bytes": 1000, "aten_calls": 7}, {"mm": 3, "tanh": 4}, {"forward/tanh": 600, "backward_1/mm": 400}
)


def entry(status: str = "ok", **metrics: int) -> Entry:
    return Entry(status, metrics, BASE.ops, BASE.peak)


def kinds(findings: list[Finding]) -> list[str]:
    return [f.kind for f in findings]


def test_the_same_is_silent() -> None:
    assert deterministic.compare({CELL: BASE}, {CELL: BASE}) == []


def test_one_byte_of_growth_fails_and_names_phase_and_op() -> None:
    head = Entry("ok", {"peak_bytes": 1001, "aten_calls": 7}, BASE.ops, {**BASE.peak, "backward_1/mm": 401})
    (found,) = deterministic.compare({CELL: BASE}, {CELL: head})
    assert (found.kind, found.metric, found.before, found.after) == ("growth", "peak_bytes", 1000, 1001)
    assert "1,000 -> 1,001 (+1, +0.10%)" in found.text
    assert "backward_1/mm +1" in found.text
    assert found.level == "error"


def test_one_more_call_names_the_op() -> None:
    head = Entry("ok", {"peak_bytes": 1000, "aten_calls": 8}, {**BASE.ops, "neg": 1}, BASE.peak)
    (found,) = deterministic.compare({CELL: BASE}, {CELL: head})
    assert found.kind == "growth"
    assert "dispatched: neg +1" in found.text


def test_improvements_ask_to_be_banked() -> None:
    (found,) = deterministic.compare({CELL: BASE}, {CELL: entry(peak_bytes=900, aten_calls=7)})
    assert found.kind == "improvement"
    assert "--update" in found.text
    (unstored,) = deterministic.compare({CELL: BASE}, {CELL: entry(peak_bytes=900, aten_calls=7)}, stored=False)
    assert "--update" not in unstored.text


def test_tolerance_is_per_metric_and_zero_by_default() -> None:
    head = {CELL: entry(peak_bytes=1010, aten_calls=8)}
    assert kinds(deterministic.compare({CELL: BASE}, head)) == ["growth", "growth"]
    assert [f.metric for f in deterministic.compare({CELL: BASE}, head, {"peak_bytes": 0.01})] == ["aten_calls"]
    assert kinds(
        deterministic.compare({CELL: BASE}, {CELL: entry(peak_bytes=1011, aten_calls=7)}, {"peak_bytes": 0.01})
    )


def test_growth_from_zero_is_growth() -> None:
    (found,) = deterministic.compare({CELL: entry(retained_bytes=0)}, {CELL: entry(retained_bytes=4)})
    assert found.kind == "growth"
    assert "0 -> 4" in found.text


def test_what_is_gone_fails() -> None:
    assert kinds(deterministic.compare({CELL: BASE}, {})) == ["missing"]
    (metric,) = deterministic.compare({CELL: BASE}, {CELL: entry(peak_bytes=1000)})
    assert (metric.kind, metric.metric) == ("missing", "aten_calls")


def test_a_renamed_cell_fails_and_says_so() -> None:
    found = deterministic.compare({CELL: BASE}, {CELL.replace("rows", "lines"): BASE})
    assert kinds(found) == ["missing", "new"]
    assert "renamed to derivative_tensor/lines" in found[0].text


@pytest.mark.parametrize("status", ["unsupported", "failed", "crashed"])
def test_a_cell_that_runs_no_more_fails(status: str) -> None:
    (found,) = deterministic.compare({CELL: BASE}, {CELL: Entry(status, reason="no batching rule")})
    assert (found.kind, found.level) == ("broken", "error")
    assert "no batching rule" in found.text


def test_a_cell_that_never_ran_is_no_news() -> None:
    assert deterministic.compare({CELL: Entry("unsupported")}, {CELL: Entry("unsupported")}) == []
    assert kinds(deterministic.compare({CELL: Entry("unsupported")}, {CELL: Entry("failed")})) == ["broken"]
    assert kinds(deterministic.compare({CELL: Entry("unsupported")}, {CELL: BASE})) == ["improvement"]


def test_new_cells_are_listed_and_do_not_fail() -> None:
    (found,) = deterministic.compare({}, {CELL: BASE})
    assert (found.kind, found.level) == ("new", "notice")


NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="|=\x85\xa0"), min_size=1, max_size=12
)
TABLES = st.dictionaries(NAMES, st.integers(0, 2**70), max_size=4)
ENTRIES = st.one_of(
    st.builds(Entry, st.just("ok"), TABLES.filter(bool), TABLES, TABLES),
    st.builds(Entry, st.sampled_from(["failed", "unsupported"]), TABLES, TABLES, TABLES),
)


@given(st.dictionaries(NAMES.filter(lambda n: not n.startswith("#")), ENTRIES, min_size=1, max_size=5))
def test_baselines_survive_the_round_trip(entries: dict[str, Entry]) -> None:
    text = baseline.render(KEY, entries)
    assert baseline.parse(text, "x") == entries
    assert baseline.render(KEY, dict(sorted(entries.items(), reverse=True))) == text


@given(st.data())
def test_a_baseline_that_was_cut_short_is_damage_wherever_it_was_cut(data: st.DataObject) -> None:
    text = baseline.render(KEY, {CELL: BASE, CELL.replace("rows", "columns"): BASE})
    short = text[: data.draw(st.integers(0, len(text) - 2))]
    with pytest.raises(BaselineError):
        baseline.parse(short, "f.txt", KEY)


def test_a_baseline_without_its_last_line_says_so() -> None:
    lines = baseline.render(KEY, {CELL: BASE, CELL.replace("rows", "columns"): BASE}).splitlines()
    with pytest.raises(BaselineError, match=r"expected '# end' as the last line: the file was cut short"):
        baseline.parse("\n".join(lines[:-2]) + "\n", "f.txt")


def test_the_first_format_which_had_no_last_line_is_read() -> None:
    lines = baseline.render(KEY, {CELL: BASE}).splitlines()
    assert baseline.parse("\n".join([baseline.FIRST, *lines[1:-1]]), "f.txt", KEY) == {CELL: BASE}


def test_a_change_is_one_line_of_diff() -> None:
    cells = [CELL.replace("rows", f"m{i}") for i in range(20)]
    random.Random(1).shuffle(cells)
    before = baseline.render(KEY, dict.fromkeys(cells, BASE)).splitlines()
    after = baseline.render(
        KEY, {**dict.fromkeys(cells, BASE), cells[3]: entry(peak_bytes=1, aten_calls=7)}
    ).splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert before[3:-1] == sorted(before[3:-1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("nonsense\n", "f.txt:1"),
        (f"{baseline.HEADER}\n{CELL}\n", "f.txt:2"),
        (f"{baseline.HEADER}\n{CELL} | ok | peak_bytes=many\n", "peak_bytes=many"),
        (f"{baseline.HEADER}\n{CELL} | ok | a=1\n{CELL} | ok | a=1\n", "f.txt:3.*twice"),
        (f"{baseline.HEADER}\n{CELL} | ok | a=1 | lists a=1\n", "lists"),
        (f"{baseline.HEADER}\n<<<<<<< HEAD\n{CELL} | ok | a=1\n", "f.txt:2"),
        (f"{baseline.HEADER}\n{CELL} | ok | a=١\n", "integer"),
        (f"{baseline.HEADER}\n{CELL} | ok | a=-5\n", "integer from 0"),
        (f"{baseline.HEADER}\n{CELL} | ok | a={'9' * 5000}\n", "f.txt:2: a has 5,000 digits, expected 30 at most"),
        (f"{baseline.HEADER}\n{CELL} | ok | a=1 | ops mm={'9' * 31}\n", "f.txt:2: mm has 31 digits"),
        (f"{baseline.HEADER}\n{CELL} | ok | a=5 a=9\n", "f.txt:2: a stands here twice"),
        (f"{baseline.HEADER}\n{CELL} | okk | a=5\n", "got status 'okk', expected one of ok, unsupported"),
        (f"{baseline.HEADER}\n{CELL} | ok |  |\n", "is ok and has no metrics"),
        (f"{baseline.HEADER}\n# nothing\n", "holds no cell"),
    ],
)
def test_damage_names_file_and_line(text: str, says: str) -> None:
    with pytest.raises(BaselineError, match=says):
        baseline.parse(text, "f.txt")


def test_a_file_under_the_name_of_another_key_is_damage(tmp_path: Path) -> None:
    other = Key("2.12.1+cpu", "x86_64", "AVX2")
    baseline.save(tmp_path, other, {CELL: BASE}).rename(tmp_path / KEY.filename)
    with pytest.raises(BaselineError, match=r":2: got '# torch=2\.12\.1\+cpu .*, expected '# torch="):
        baseline.load(tmp_path, KEY)


def test_a_wrong_result_fails_whether_the_cell_is_known_or_new() -> None:
    wrong = Entry(deterministic.WRONG, reason="the result is not float64 truth: relative error 0.5")
    for base in ({CELL: BASE}, {}):
        (found,) = deterministic.compare(base, {CELL: wrong})
        assert (found.kind, found.level, found.metric) == ("wrong", "error", "result")
        assert "relative error 0.5" in found.text


def test_files_by_key(tmp_path: Path) -> None:
    assert baseline.load(tmp_path, KEY) is None
    path = baseline.save(tmp_path / "new", KEY, {CELL: BASE})
    assert baseline.load(tmp_path / "new", KEY) == {CELL: BASE}
    assert baseline.load(tmp_path / "new", Key("2.12.1+cpu", "x86_64", "AVX2")) is None
    assert baseline.load(tmp_path / "new", Key("2.13.0+cpu", "x86_64", "AVX512")) is None
    assert baseline.available(tmp_path / "new") == [path.name]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BaselineError, match="not text"):
        baseline.load(path.parent, KEY)


def test_a_hostile_device_name_stays_a_file_name() -> None:
    key = Key("2.13", "x86_64", "AVX2", "../../etc/passwd GPU\n#")
    assert "/" not in key.filename
    assert "\n" not in str(key)


def test_reserved_characters_are_refused() -> None:
    with pytest.raises(BaselineError, match="reserves"):
        baseline.render(KEY, {"a b": BASE})
    with pytest.raises(BaselineError, match="reserves"):
        baseline.render(KEY, {CELL: Entry("ok", {"a=b": 1})})


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


def test_a_side_that_is_proved_right_at_halved_arguments_need_not_agree_there(tmp_path: Path) -> None:
    """The base may be the one that remembers: a change that mends it is no regression."""
    said = {"shapes": [[2]], "moved": [[2]], "eps": 1e-7, "order": 2, "exact": True, "tolerance": None}
    a, b = tmp_path / "a", tmp_path / "b"
    for path, moved in ((a, [1.0, 2.0]), (b, [0.5, 1.0])):
        np.array([1.0, 2.0]).tofile(path)
        np.array(moved).tofile(f"{path}.moved")
    assert "halved" in str(agreement.between((a, said), (b, said)))
    assert agreement.between((a, said), (b, {**said, "proved": True})) is None
    without = {k: v for k, v in said.items() if k != "moved"}
    assert "fails on B" in str(agreement.between((a, said), (b, without)))
    assert agreement.between((a, without), (b, said)) is None


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
