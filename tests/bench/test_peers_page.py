"""docs/peers.md and what `hograd peers` prints: functions of one run's rows and environment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hograd_bench import schema, store
from hograd_bench.cells import Cell
from hograd_bench.cli import app
from hograd_bench.cli._peers import newest_run
from hograd_bench.report import contests
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "machine": "m-1",
    "recorded": "2026-01-02T03:04:05+00:00",
    "cpu": {"model": "CPU"},
    "torch": {"version": "2.13.0", "capability": "AVX2"},
}
HVP = "derivative_vector_product"


def row(method="p", gradients=1.0, status="ok", reason="", spread=0.0, missing=(), n=4, preparation="eager", **metrics):
    """A row; a gradient takes a millisecond."""
    read = {"relative_error": 1e-7, "tolerance": 1e-4}
    if status == "ok":
        seconds = 1e-3 * gradients
        read |= {
            "seconds_min": seconds, "seconds_median": seconds, "seconds_iqr": spread * seconds, "peak_bytes": 2048,
            "gradient_equivalents": gradients, "gradient_seconds_before": 1e-3, "gradient_seconds_after": 1e-3,
        }  # fmt: skip
    read = {k: v for k, v in (read | metrics).items() if k not in missing}
    cell = Cell(HVP, method, "quadratic", n, preparation=preparation)
    return schema.row(cell, status, reason=reason, metrics=read, missing=dict.fromkeys(missing, "none"))


def peer(*methods, framework="PyTorch", version="1.0", absence=None, how="{}'s way", **more):
    """What a run says of a peer."""
    told = {f"{HVP}/{m}": {"how": how.format(m), "note": "a note"} for m in methods}
    return {"distribution": "dist", "home": "there", "framework": framework, "version": version, "absence": absence,
            "methods": told, **more}  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """Writes rows and peers as a run; gives back its frame and environment."""

    def write(rows, peers, **environment):
        told = {**ENVIRONMENT, "facts": {"peers": peers}, **environment}
        with store.create_run(tmp_path, told) as run:
            for one in rows:
                run.append(one)
        loaded = store.load(run.path)
        return loaded.rows, next(iter(loaded.environments.values()))

    return write


def findings(frame):
    return [contests.finding(rows) for rows in contests.contests(frame)]


@pytest.mark.slow
def test_the_committed_page_is_what_the_command_makes_of_the_committed_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    run = newest_run(Path("results/reference"))
    page = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    if run is None:
        assert "Not measured since" in page
    else:
        loaded = store.load(run)
        assert page == contests.page(loaded.rows, next(iter(loaded.environments.values())), run.as_posix())


def test_only_contests_that_a_peer_enters_are_told(stored):
    rows, environment = stored([row("double_backward"), row("p", n=8), row("taylor", n=8)], {"p": peer("p")})
    frame = contests.contestants(rows, environment)
    assert set(frame["n"]) == {8}
    assert dict(zip(frame["method"], frame["peer"], strict=True)) == {"p": "p", "taylor": "hograd"}


def test_who_is_faster_is_said_whoever_it_is(stored):
    peers = {"p": peer("p"), "j": peer("j", framework="JAX")}

    def said(*rows):
        return findings(contests.contestants(*stored(rows, peers)))[0]

    ours, theirs, jax = row("taylor", 3.0), row("p", 1.0), row("j", 0.1)
    assert said(theirs, ours) == "Fastest: p by p's way, 1 gradients. hograd's fastest, taylor, takes 3 times that."
    won = said(row("taylor", 1.0), row("p", 2.0))
    assert won == "Fastest: hograd by taylor, 1 gradients. The next package, p by p's way, takes 2 times that."
    assert said(row("taylor", 1.0), row("p", 1.2, spread=0.3)).endswith("p by p's way, is tied with it.")
    assert said(row("taylor", 1.0), row("p", 1.2, gradient_seconds_after=1.3e-3)).endswith("is tied with it.")
    assert said(row("taylor", 1.0), row("p", 1.2)).endswith("takes 1.2 times that.")
    compiled = said(row("j", 1.0, compile_seconds=2.0), theirs, ours)
    assert "Compiling took 2 s, which 1,000 calls earn back." in compiled
    assert "Fastest on PyTorch: p by p's way, 1 gradients." in said(jax, theirs, ours)
    assert said(row(status="failed", reason="r")) == "Nobody finished this contest."
    assert said(theirs, row("taylor", status="failed", reason="r")).endswith("No method of hograd finished.")


def test_the_score_counts_contests_by_who_the_rival_is(stored):
    rows = [
        row("taylor", 1.0), row("p", 2.0), row("j", 0.1),
        row("taylor", 4.0, n=8), row("p", 2.0, n=8), row("j", status="failed", reason="r", n=8),
    ]  # fmt: skip
    peers = {"p": peer("p"), "j": peer("j", framework="JAX")}
    on_torch, on_jax = contests.scores(contests.contestants(*stored(rows, peers)))
    assert "faster in 1, tied in 0 and slower in 1 of 2 contests" in on_torch
    assert "at worst it takes 2 times their time (Hessian-vector product of quadratic, n = 8" in on_torch
    assert "faster in 0, tied in 0 and slower in 1 of 1 contests; at worst it takes 10 times" in on_jax
    alone = contests.scores(contests.contestants(*stored([row("p")], peers)))
    assert alone[0].endswith("no contest that both finished.")


def test_rows_that_are_not_ok_stand_in_their_contest_and_in_the_list(stored):
    why = "q is not installed"
    rows = [row("taylor"), row("q", status="skipped", reason=why)]
    page = contests.page(*stored(rows, {"q": peer("q", version=None, absence=why)}), "results/x")
    assert "| skipped: q is not installed |" in page
    assert "| q | derivative\\_vector\\_product | q's way | skipped | q is not installed |" in page
    assert "| q | not installed | PyTorch | there | no: q is not installed |" in page
    assert "| derivative\\_vector\\_product | ok | skipped |" in page


def test_figures_of_unlike_instruments_have_columns_of_their_own(stored):
    rows = [row("p"), row("j", 2.0, missing=("peak_bytes",), xla_peak_bytes=4096), row("taylor", 3.0)]
    page = contests.page(*stored(rows, {"p": peer("p"), "j": peer("j", framework="JAX")}), "results/x")
    assert "| 1.0e-07 | 2 KiB |  |" in page
    assert "| 1.0e-07 |  | 4 KiB |" in page


def test_hostile_names_versions_and_reasons_stay_text(stored):
    evil = "1.0|x\n# <script>alert(1)</script> [a](javascript:b) `c` *d* \u202e"
    told = peer("q", version=evil, absence=evil, how=evil, distribution=evil, home=evil)
    rows = [row("taylor"), row("p"), row("q", status="failed", reason=evil)]
    page = contests.page(*stored(rows, {"p": peer("p"), evil: told}), evil)
    assert "<script" not in page
    assert "\n# <" not in page
    assert not re.search(r"(?<!\\)\[a\\?\]", page)
    assert "\u202e" not in page
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize(
    "facts", [None, [], {"peers": None}, {"peers": {"p": 3}}, {"peers": {"p": {}}}, {"peers": {"p": {"methods": [1]}}}]
)
def test_an_environment_that_tells_nothing_of_peers_costs_the_page_its_rows_and_nothing_else(stored, facts):
    page = contests.page(*stored([row("p")], {}, facts=facts), "results/x")
    assert "# hograd and its peers" in page


def test_a_busy_machine_is_named(stored):
    def said(load, cpus):
        told = {"system": {"load_average": load}, "cpu": cpus}
        return "**A busy machine**: 7.0 processes wanted its 2 CPUs" in contests.page(
            *stored([row("p")], {"p": peer("p")}, **told), "results/x"
        )

    assert said([1.0, 1.0, 7.0], {"logical": 2})
    assert not said([9.0, 7.0, 2.0], {"logical": 2})
    for load, cpus in ((None, {"logical": 2}), ([7.0], {}), (["7"], {"logical": 2}), ([], None)):
        assert not said(load, cpus)


def test_the_command_reads_writes_the_page_and_fails_in_one_sentence(stored, tmp_path):
    def invoke(*more):
        return CliRunner().invoke(app, ["peers", "--results", str(tmp_path), *more])

    nothing = invoke()
    assert nothing.exit_code == 1
    assert "no run of peers; make one with `nox -s peers`" in " ".join(nothing.output.split())
    stored([row("taylor"), row("p", 2.0, n=8), row("taylor", n=8)], {"p": peer("p")})
    with store.create_run(tmp_path, ENVIRONMENT, "20990101T000000Z-0") as other:  # newer, and none of peers
        other.append(row("taylor"))
    written = tmp_path / "peers.md"
    done = invoke("--markdown", str(written))
    assert done.exit_code == 0, done.output
    assert "## Hessian-vector product of quadratic, n = 8" in written.read_text(encoding="utf-8")
    assert [(r["method"], r["peer"], r["n"]) for r in json.loads(invoke("--json").stdout)] == [
        ("taylor", "hograd", 8), ("p", "p", 8),
    ]  # fmt: skip
    assert invoke("--results", str(tmp_path / "none")).exit_code == 1


def test_prepared_methods_take_part_and_what_cannot_be_prepared_does_as_it_is(stored):
    frame = contests.contestants(*stored(
        [
            row("double_backward", 3.0),
            row("double_backward", 0.5, preparation="compiled", first_preparation_seconds=2.0),
            row("vjp_of_grad", 4.0), row("vjp_of_grad", status="unsupported", reason="no", preparation="compiled"),
            row("p", 1.0),
        ],
        {"them": peer("p")},
    ))  # fmt: skip
    (rows,) = contests.contests(frame)
    assert [r["how"] for r in rows] == ["double_backward, compiled", "p's way", "double_backward", "vjp_of_grad"]
    assert rows[0]["compile_seconds"] == 2.0
    (says,) = findings(frame)
    assert says.startswith("Fastest: hograd by double_backward, compiled, 0.5 gradients.")
