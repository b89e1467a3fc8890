from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path

import peers_fakes as fakes
import pytest
from hograd_bench import store
from hograd_bench.cli import app
from hograd_bench.peers import Contest, _document, _findings, _markdown
from hograd_bench.schema import SchemaError
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


def page(rows, packages=None):
    return _markdown.render(fakes.document(rows, packages), "results/x.json")


def test_the_committed_page_is_what_the_command_makes_of_the_committed_measurement():
    source, found = store.newest_study(ROOT / "results" / "reference", "peers")
    made = _markdown.render(_document.validate(found), source.relative_to(ROOT).as_posix())
    assert made == (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")


def test_reading_results_does_not_see_studies(tmp_path):
    path = store.write_study(tmp_path, "m-1", "peers", {"a": 1})
    assert store.run_folders(tmp_path) == []
    assert store.load(tmp_path).rows.empty
    assert store.newest_study(tmp_path, "peers") == (path, {"a": 1})
    assert store.newest_study(tmp_path / "m-1", "peers") == (path, {"a": 1})
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_newest_study_is_the_last_by_time(tmp_path):
    for machine, name in (("b", "peers.20260101T000000Z-1.json"), ("a", "peers.20260102T000000Z-0.json")):
        (tmp_path / machine).mkdir()
        (tmp_path / machine / name).write_text(json.dumps(name), encoding="utf-8")
    assert store.newest_study(tmp_path, "peers")[1] == "peers.20260102T000000Z-0.json"


def test_studies_refuse_names_that_are_paths_and_say_what_is_missing(tmp_path):
    for machine, kind in (("../x", "peers"), ("reference", "peers"), ("m", "../peers"), ("", "peers")):
        with pytest.raises(store.StoreError, match="expected names"):
            store.write_study(tmp_path, machine, kind, {})
    with pytest.raises(store.StoreError, match=r"holds no peers study; make one with `nox -s peers`"):
        store.newest_study(tmp_path, "peers")
    with pytest.raises(store.StoreError, match="no such results folder"):
        store.newest_study(tmp_path / "none", "peers")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "peers.1.json").write_text('{"a": NaN}', encoding="utf-8")
    with pytest.raises(store.StoreError, match=r"peers\.1\.json: not JSON"):
        store.newest_study(tmp_path, "peers")


def test_a_study_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_study(tmp_path, "m", "peers", {"a": math.nan})
    assert not list(tmp_path.rglob("*peers*"))
    (tmp_path / "f").write_text("", encoding="utf-8")
    with pytest.raises(store.StoreError, match="cannot write"):
        store.write_study(tmp_path / "f", "m", "peers", {})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("kind",), "runs", "kind"),
        (("schema",), 99, "measure again"),
        (("rows",), {}, "rows: got dict"),
        (("rows", 0), None, r"rows\[0\]: got NoneType"),
        (("rows", 0, "status"), "fine", "status"),
        (("rows", 0, "reason"), "why", "reason"),
        (("rows", 0, "n"), "4", r"\.n: got"),
        (("rows", 0, "n"), True, r"\.n: got"),
        (("rows", 0, "peer"), None, r"\.peer"),
        (("rows", 0, "way"), "x" * 10**6, r"\.way"),
        (("rows", 0, "metrics", "seconds_min"), -1.0, "seconds_min"),
        (("rows", 0, "metrics", "seconds_min"), "1", "seconds_min"),
        (("rows", 0, "metrics", "seconds_min"), None, "seconds_min: missing"),
        (("rows", 0, "metrics", "memory_instrument"), 3, "memory_instrument"),
        (("peers", 0, "version"), ["1"], "version"),
        (("environment",), [], "environment"),
    ],
)
def test_a_damaged_document_is_refused_with_the_place(path, value, message):
    found = copy.deepcopy(fakes.document([fakes.row()]))
    *way, last = path
    inner = found
    for step in way:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(SchemaError, match=message):
        _document.validate(found)


@pytest.mark.parametrize("found", [None, [], "x", 3, {}])
def test_what_is_no_document_is_refused(found):
    with pytest.raises(SchemaError):
        _document.validate(found)


def test_numbers_that_json_cannot_hold_become_missing_with_a_reason():
    made = fakes.row(status="wrong", reason="r", relative_error=math.inf)
    assert "relative_error" not in made["metrics"]
    assert made["missing"]["relative_error"] == "not finite"
    fakes.document([made])


def test_hostile_names_versions_and_reasons_stay_text():
    evil = "1.0|x\n# <script>alert(1)</script> [a](javascript:b) `c` *d* \u202e"
    rows = [fakes.row("P"), fakes.row(evil, way=evil, status="failed", reason=evil)]
    text = page(
        rows, [fakes.package("P"), fakes.package(evil, version=evil, reason=evil, distribution=evil, home=evil)]
    )
    assert "<script" not in text
    assert "\n# <" not in text
    assert not re.search(r"(?<!\\)\[a\]", text)
    assert "\u202e" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


def test_rows_that_are_not_ok_stand_in_their_contest_and_in_the_list():
    rows = [fakes.row("hograd"), fakes.row("Q", "gone", status="skipped", reason="q is not installed")]
    text = page(rows, [fakes.package("hograd"), fakes.package("Q", version=None, reason="q is not installed")])
    assert "**skipped**: q is not installed" in text
    assert "| Q | `hvp` | `gone` | skipped | q is not installed |" in text
    assert "| Q | not installed | PyTorch | there | no: q is not installed |" in text
    assert "| `hvp` | ok | skipped |" in text


def test_who_is_faster_is_said_whoever_it_is():
    kinds = {"hograd": "PyTorch", "P": "PyTorch", "J": "JAX"}
    ours, theirs, jax = fakes.row("hograd", "m", 3e-3), fakes.row("P", "w", 1e-3), fakes.row("J", "j", 1e-4)
    lost = _findings.finding([theirs, ours], kinds)
    assert lost == "Fastest: P by w, 1 ms. hograd's fastest, m, takes 3 times that."
    won = _findings.finding([fakes.row("hograd", "m", 1e-3), fakes.row("P", "w", 2e-3)], kinds)
    assert won == "Fastest: hograd by m, 1 ms. The next package, P by w, takes 2 times that."
    tie = _findings.finding([fakes.row("hograd", "m", 1e-3), fakes.row("P", "w", 1.2e-3, spread=0.3)], kinds)
    assert tie.endswith("P by w, is tied with it.")
    compiled = _findings.finding([fakes.row("J", "j", 1e-3, compile_seconds=2.0), theirs, ours], kinds)
    assert "Compiling took 2 s, which 1,000 calls earn back." in compiled
    assert "Fastest on PyTorch: P by w, 1 ms." in _findings.finding([jax, theirs, ours], kinds)
    nobody = _findings.finding([fakes.row(status="failed", reason="r")], kinds)
    assert nobody == "Nobody finished this contest."


def test_the_score_counts_contests_by_who_the_rival_is():
    other = Contest("hvp", "quadratic", 8)
    rows = [
        fakes.row("hograd", "m", 1e-3), fakes.row("P", "w", 2e-3), fakes.row("J", "j", 1e-4),
        fakes.row("hograd", "m", 4e-3, contest=other), fakes.row("P", "w", 2e-3, contest=other),
        fakes.row("J", "j", status="failed", reason="r", contest=other),
    ]  # fmt: skip
    packages = [fakes.package("hograd"), fakes.package("P"), fakes.package("J", "JAX")]
    on_torch, on_jax = _findings.scores(fakes.document(rows, packages))
    assert "faster in 1, tied in 0 and slower in 1 of 2 contests" in on_torch
    assert "at worst it takes 2 times their time (hvp of quadratic, n=8" in on_torch
    assert "faster in 0, tied in 0 and slower in 1 of 1 contests; at worst it takes 10 times" in on_jax
    alone = _findings.scores(fakes.document(rows[:1], packages))
    assert alone[0].endswith("no contest that both finished.")


def test_unlike_instruments_are_marked():
    text = page([fakes.row("P"), fakes.row("J", seconds=2e-3, memory_instrument="XLA buffer assignment")])
    assert "| 2 KiB A |" in text
    assert "| 2 KiB X |" in text


def test_the_command_reads_writes_the_page_and_fails_in_one_sentence(tmp_path):
    invoke = CliRunner().invoke
    nothing = invoke(app, ["peers", "--results", str(tmp_path)])
    assert nothing.exit_code == 1
    assert invoke(app, ["peers", "-k", "hvp", "--results", str(tmp_path)]).exit_code == 2
    store.write_study(tmp_path, "m", "peers", fakes.document([fakes.row("hograd")]))
    written = tmp_path / "peers.md"
    done = invoke(app, ["peers", "--results", str(tmp_path), "--markdown", str(written)])
    assert done.exit_code == 0, done.output
    assert "## hvp of quadratic, n=4" in written.read_text(encoding="utf-8")
    as_json = invoke(app, ["peers", "--results", str(tmp_path), "--json"])
    assert json.loads(as_json.stdout)["kind"] == "peers"
    store.write_study(tmp_path, "m", "peers", {"kind": "peers", "schema": 99})
    assert invoke(app, ["peers", "--results", str(tmp_path)]).exit_code == 1


def test_the_command_prints_what_pip_installs():
    done = CliRunner().invoke(app, ["peers", "--requirements"])
    assert "curvlinops-for-pytorch" in json.loads(done.stdout)["curvlinops"]


def test_a_busy_machine_is_named(monkeypatch):
    def said(load, cpus):
        monkeypatch.setattr(fakes, "ENVIRONMENT", {**fakes.ENVIRONMENT, "system": {"load_average": load}, "cpu": cpus})
        return "**A busy machine**: 7.0 processes wanted its 2 CPUs" in page([fakes.row()])

    assert said([1.0, 1.0, 7.0], {"logical": 2})
    assert not said([9.0, 7.0, 2.0], {"logical": 2})
    for load, cpus in ((None, {"logical": 2}), ([7.0], {}), (["7"], {"logical": 2}), ([], None)):
        assert not said(load, cpus)
