"""`hograd gate` on real kernels: planted changes in a working tree, exit codes, files. Slow: workers import torch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_fakes import git
from hograd_bench.gate import cli, preset
from hograd_bench.gate.output import writer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
HERE = str(Path(__file__).parent)
CELLS = (
    "derivative_vector_product/double_backward/mlp/n=16,order=2,depth=2,batch=1/float32/cpu/t1/eager",
    "gradient/autograd/mlp/n=6,order=1,depth=2,batch=1/float32/cpu/t1/eager",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this tree's core and suite; its first commit has neither."""
    top = tmp_path_factory.mktemp("gated") / "repo"
    top.mkdir()
    git(top, "init", "-q")
    (top / "README").write_text("older than the suite\n", encoding="utf-8")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hograd_core", top / "hograd_core", ignore=skip)
    shutil.copytree(ROOT / "bench", top / "bench", ignore=skip)
    shutil.rmtree(top / "bench" / "baselines", ignore_errors=True)
    (top / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "suite")
    return top


@pytest.fixture(autouse=True)
def _undisturbed() -> Iterator[None]:
    """The gate's signal handlers end with the test."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def gate(repo: Path, *options: str, cells: tuple[str, ...] = CELLS) -> Any:
    named = [x for c in cells for x in ("--cell", c)]
    return CliRunner().invoke(cli.app, ["--repo", str(repo), *named, *options])


@pytest.fixture
def planted(repo: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The working tree with a recipe appended, as tests/recipes/README.md says; restored afterwards."""
    target = repo / "hograd_core" / "__init__.py"
    kept = target.read_text(encoding="utf-8")
    target.write_text(
        kept + (ROOT / "tests" / "recipes" / f"{request.param}.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    try:
        yield repo
    finally:
        target.write_text(kept, encoding="utf-8")


def findings(done: Any) -> list[dict[str, object]]:
    return [f for f in json.loads(done.stdout)["findings"] if f["level"] == "error"]


def test_the_same_tree_passes_and_writes_every_file(repo: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / "out" / f"gate.{kind}" for kind in ("json-file", "junit", "markdown", "html")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    done = gate(repo, "--base", "HEAD", "--no-time", *options)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "pass (exit 0): working tree against HEAD" in done.stdout
    assert json.loads(files["json-file"].read_text(encoding="utf-8"))["cells_counted"] == 2
    assert ElementTree.fromstring(files["junit"].read_text(encoding="utf-8"))[0].get("failures") == "0"
    assert "hograd gate: pass" in files["markdown"].read_text(encoding="utf-8")
    assert "<title>hograd gate: pass</title>" in files["html"].read_text(encoding="utf-8")
    assert git(repo, "status", "--porcelain") == ""
    assert len(git(repo, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    ("planted", "metric", "least", "named"),
    [
        ("extra_vector", "peak_bytes", 64, "forward/empty"),
        ("extra_call", "aten_calls", 1, "neg +1"),
        ("extra_node", "graph_nodes", 1, "neg +1"),
    ],
    indirect=["planted"],
)
def test_a_planted_change_is_named_with_cell_metric_op_and_size(
    planted: Path, metric: str, least: int, named: str
) -> None:
    done = gate(planted, "--base", "HEAD", "--no-time", "--json")
    assert done.exit_code == 1
    found = findings(done)
    assert {f["cell"] for f in found} == {CELLS[0]}
    (grown,) = (f for f in found if f["metric"] == metric)
    assert grown["after"] - grown["before"] >= least  # type: ignore[operator]
    assert named in str(grown["text"])


@pytest.mark.parametrize("planted", ["faster_wrong"], indirect=True)
def test_a_faster_wrong_kernel_fails(planted: Path) -> None:
    done = gate(planted, "--base", "HEAD", "--no-counts", "--max-pairs", "1", "--json")
    assert done.exit_code == 1
    (found,) = findings(done)
    assert (found["kind"], found["cell"], found["metric"]) == ("wrong", CELLS[0], "result")


def test_a_base_without_the_suite(repo: Path) -> None:
    done = gate(repo, "--base", "HEAD~1")
    assert done.exit_code == 4
    assert f"--base {git(repo, 'rev-parse', '--short', 'HEAD')}" in done.stderr


def test_baselines_from_nothing_to_update_to_growth(repo: Path, tmp_path: Path) -> None:
    folder = ("--baseline", str(tmp_path / "baselines"))
    missing = gate(repo, *folder, cells=CELLS[1:])
    assert missing.exit_code == 4
    assert "hograd gate --update" in missing.stdout
    assert gate(repo, *folder, "--update", cells=CELLS[1:]).exit_code == 0
    (file,) = (tmp_path / "baselines").glob("*/rows.jsonl")
    text = file.read_text(encoding="utf-8")
    lowered = text.replace('"aten_calls":', '"aten_calls":1,"was":')
    assert lowered != text
    file.write_text(lowered, encoding="utf-8")
    environment = json.loads(file.with_name("environment.json").read_text(encoding="utf-8"))
    environment["metrics"]["was"] = {**environment["metrics"]["aten_calls"], "name": "was"}
    file.with_name("environment.json").write_text(json.dumps(environment), encoding="utf-8")
    grown = gate(repo, *folder, "--json", cells=CELLS[1:])
    assert grown.exit_code == 1
    assert {(f["kind"], f["metric"]) for f in findings(grown)} == {("growth", "aten_calls"), ("missing", "was")}


def test_two_methods_agree_and_are_compared(repo: Path) -> None:
    done = gate(repo, "--methods", "double_backward", "vjp_of_grad", "--max-pairs", "1", "--json", cells=CELLS[:1])
    outcome = json.loads(done.stdout)
    assert done.exit_code == 1, "vjp_of_grad records more nodes than double_backward"
    assert list(outcome["timing"]) == [CELLS[0].replace("double_backward", "vjp_of_grad")]
    assert not [f for f in outcome["findings"] if f["kind"] == "wrong"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--base", "no-such-revision"), "no revision"),
        (("--base", "HEAD", "--methods", "a", "b"), "one of them at a time"),
        (("--update", "--since", "HEAD"), "one of them at a time"),
        (("--tolerance", "peak_bytes"), "METRIC=FRACTION"),
        (("--methods", "rows", "no_such_method"), "no operator"),
        (("--pythons", "/nonexistent", "/nonexistent"), "no executable"),
        (("--matters", "0.1"), "matters"),
        (("--tolerance", "peak_byte=0.1"), "got the metric 'peak_byte', expected one of"),
        (("--methods", "rows", "rows"), "rows twice"),
        (("--since", "HEAD", "--drift", "-1"), "--drift: got -1"),
        (("--since", "HEAD", "--drift", "nan"), "--drift: got nan, expected a growth from 0"),
        (("--since", "HEAD", "--drift", "inf"), "--drift: got inf, expected a growth from 0"),
        (("--since", "no-such-revision"), "--since: 'no-such-revision' is no revision"),
        (("--no-counts",), "nothing would be left"),
        (("--base", "HEAD", "--no-counts", "--no-time"), "nothing would be left"),
        (("--pythons", HERE, HERE), "no executable"),
        (("--json-file", HERE), f"--json-file: {HERE} is a folder"),
        (("--junit", f"{__file__}/x.xml"), f"--junit: {__file__}/x.xml cannot be written"),
        (("--cell", "nonsense"), "cell"),
        (("-k", "no such text"), "no id"),
        (("--baseline", __file__), "expected the folder of the baselines"),
    ],
)
def test_usage_errors(repo: Path, options: tuple[str, ...], says: str) -> None:
    done = gate(repo, *options)
    assert done.exit_code == 2
    assert says in done.stderr


def test_one_file_for_two_formats_is_refused(repo: Path, tmp_path: Path) -> None:
    done = gate(repo, "--json-file", str(tmp_path / "gate"), "--junit", str(tmp_path / "gate"))
    assert done.exit_code == 2
    assert "is --json-file's file already" in done.stderr


def test_a_refusal_is_in_the_files_too(repo: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"gate.{kind}" for kind in ("json", "junit")}
    options = ["--json-file", str(files["json"]), "--junit", str(files["junit"])]
    files["json"].write_text("an earlier run's", encoding="utf-8")
    assert gate(repo, "--base", "no-such-revision", *options).exit_code == 2
    said = json.loads(files["json"].read_text(encoding="utf-8"))
    assert (said["exit"], said["findings"][0]["kind"]) == (2, "usage")
    assert "no-such-revision" in files["junit"].read_text(encoding="utf-8")
    assert gate(repo, "--base", "HEAD~1", *options).exit_code == 4
    assert json.loads(files["json"].read_text(encoding="utf-8"))["exit"] == 4


def test_plugins_concern_what_they_brought_and_nothing_else() -> None:
    """A baseline's other cells are neither missing nor removed by --update."""
    preset.load_plugins([], [])
    mine = CELLS[0].replace("double_backward", "mine"), CELLS[1].replace("mlp", "my_loss")
    concerns = cli._concerned([], "", ["plugin.py"])
    assert concerns is not None
    assert [concerns(cell) for cell in (*CELLS, *mine)] == [False, False, True, True]
    assert cli._concerned([], "", []) is None
    named = cli._concerned([CELLS[0]], "", ["plugin.py"])
    assert named is not None
    assert [named(cell) for cell in (*CELLS, *mine)] == [True, False, False, False]


def test_a_cell_that_is_named_twice_is_one() -> None:
    assert [c.id for c in preset.chosen([CELLS[0], CELLS[1], CELLS[0]], "")] == list(CELLS)


def test_a_file_that_is_named_twice_is_not_touched(repo: Path, tmp_path: Path) -> None:
    twice, pipe = tmp_path / "gate.out", tmp_path / "pipe"
    done = gate(repo, "--base", "HEAD", "--junit", str(twice), "--json-file", str(twice))
    assert done.exit_code == 2
    assert f"--junit: {twice} is --json-file's file already" in done.stderr
    os.mkfifo(pipe)
    writer.OutputWriter(False, {"--json-file": pipe}, False).prepare()
    assert pipe.is_fifo()


def test_a_refusal_is_annotated(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = gate(repo, "--base", "no-such-revision", "--github")
    assert "::error title=hograd gate%3A usage::--base: 'no-such-revision'" in done.stdout
    assert "no-such-revision" in summary.read_text(encoding="utf-8")


def test_code_that_does_not_import_is_no_regression_and_leaves_no_old_verdict(repo: Path, tmp_path: Path) -> None:
    """In a process of its own: the suite is imported there."""
    target, kept = repo / "bench" / "hograd_bench" / "problems" / "mlp.py", tmp_path / "gate.json"
    text = target.read_text(encoding="utf-8")
    kept.write_text('{"outcome": "pass"}', encoding="utf-8")
    target.write_text("no Python\n" + text, encoding="utf-8")
    command = [sys.executable, "-m", "hograd_bench", "gate", "--repo", str(repo), "--json-file", str(kept)]
    try:
        path = os.pathsep.join((str(repo / "bench"), str(repo)))
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, cwd=repo, capture_output=True, text=True, check=False
        )
    finally:
        target.write_text(text, encoding="utf-8")
    assert done.returncode == 4, done.stderr
    assert "nothing was compared: SyntaxError" in done.stderr
    assert json.loads(kept.read_text(encoding="utf-8"))["outcome"] == "not_comparable"


@pytest.mark.parametrize("planted", ["faster_wrong"], indirect=True)
def test_a_wrong_kernel_fails_without_a_base_and_is_not_banked(planted: Path, tmp_path: Path) -> None:
    folder = ("--baseline", str(tmp_path / "baselines"))
    done = gate(planted, *folder, "--json", cells=CELLS[:1])
    assert done.exit_code == 1
    (found,) = findings(done)
    assert (found["kind"], found["cell"]) == ("wrong", CELLS[0])
    assert "not float64 truth" in str(found["text"])
    assert gate(planted, *folder, "--update", cells=CELLS[:1]).exit_code == 1
    assert not (tmp_path / "baselines").exists()


def test_a_plugin_file_is_that_of_each_side_however_it_is_named(repo: Path) -> None:
    plugin = repo / "mine.py"
    recipe = (ROOT / "tests" / "recipes" / "extra_call.py").read_text(encoding="utf-8")
    plugin.write_text("import torch\n", encoding="utf-8")
    git(repo, "add", "mine.py")
    git(repo, "commit", "-qm", "plugin")
    try:
        plugin.write_text(recipe, encoding="utf-8")
        for name in ("mine.py", str(plugin)):
            done = gate(repo, "--plugin", name, "--base", "HEAD", "--no-time", "--json", cells=CELLS[:1])
            assert {f["kind"] for f in findings(done)} == {"growth"}, name
    finally:
        git(repo, "reset", "-q", "--hard", "HEAD~1")
