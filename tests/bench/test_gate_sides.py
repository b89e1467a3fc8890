"""Revisions out of git, cached and cleared; environments built once; plugins and presets of other projects."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gate_fakes import git
from hograd_bench import metrics, problems, schema
from hograd_bench.cells import Cell
from hograd_bench.gate import preset
from hograd_bench.gate.exact import drift
from hograd_bench.gate.exact.baseline import Key, save
from hograd_bench.gate.outcome import NotComparableError, UsageError
from hograd_bench.gate.revisions import environments, repository, sides, trees

import hograd_core
from hograd_core import Operator

DEAD = 2**22 + 1  # above any pid that Linux gives


def commit(repo: Path, message: str = "change") -> str:
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", message)
    return git(repo, "rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository whose first commit lacks the suite and whose second has it."""
    top = tmp_path / "repo"
    top.mkdir()
    git(top, "init", "-q")
    (top / "README").write_text("old\n", encoding="utf-8")
    commit(top)
    (top / "hograd_core").mkdir()
    (top / "hograd_core" / "__init__.py").write_text("VERSION = 1\n", encoding="utf-8")
    (top / "bench" / "hograd_bench" / "metrics").mkdir(parents=True)
    (top / sides.SUITE).write_text("", encoding="utf-8")
    (top / "constraints.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    commit(top)
    return top


@pytest.mark.slow
def test_a_tree_is_written_once_and_registers_nothing(repo: Path) -> None:
    cache = trees.cache_folder(repo)
    sha = repository.commit(repo, "HEAD")
    (repo / "hograd_core" / "__init__.py").write_text("VERSION = 2\n", encoding="utf-8")
    tree = trees.tree(repo, sha, cache)
    assert (tree / "hograd_core" / "__init__.py").read_text(encoding="utf-8") == "VERSION = 1\n"
    (tree / "mark").touch()
    assert trees.tree(repo, sha, cache) == tree
    assert (tree / "mark").exists()
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    assert git(repo, "status", "--porcelain").split() == ["M", "hograd_core/__init__.py"]
    assert [p.name for p in (cache / "trees").iterdir()] == [sha]


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_tree_is_written_anew(repo: Path, damage: str) -> None:
    cache = trees.cache_folder(repo)
    sha = repository.commit(repo, "HEAD")
    file = trees.tree(repo, sha, cache) / "hograd_core" / "__init__.py"
    if damage == "removed":
        file.unlink()
        file.parent.rmdir()
    else:
        file.write_text("VERSION = 0\n", encoding="utf-8")
        os.utime(file, (1.0, 1.0))  # of equal size: seen by its time, and some file systems' clocks are coarse
    trees.tree(repo, sha, cache)
    assert file.read_text(encoding="utf-8") == "VERSION = 1\n"
    assert [p.name for p in (cache / "trees").iterdir()] == [sha]
    assert git(repo, "status", "--porcelain") == ""


def test_what_a_dead_gate_left_is_cleared_and_a_living_ones_is_not(repo: Path) -> None:
    cache = trees.cache_folder(repo)
    folder = cache / "trees"
    dead, living, foreign = (folder / f"hograd-{pid}-x" for pid in (DEAD, os.getpid(), "odd"))
    for left in (dead, living, foreign):
        (left / "tree").mkdir(parents=True)
    trees.tree(repo, repository.commit(repo, "HEAD"), cache)
    assert (dead.exists(), living.exists(), foreign.exists()) == (False, True, True)


def test_old_trees_are_forgotten_but_not_those_in_use(repo: Path) -> None:
    cache = trees.cache_folder(repo)
    shas = []
    for i in range(trees.KEPT_TREES + 3):
        (repo / "README").write_text(f"{i}\n", encoding="utf-8")
        shas.append(commit(repo))
        tree = trees.tree(repo, shas[-1], cache)
        if i < 2:
            os.utime(tree, (1.0 + i, 1.0 + i))
    kept = {p.name for p in (cache / "trees").iterdir()}
    assert kept == set(shas[2:])


def test_a_revision_is_a_side_with_the_current_interpreter(repo: Path) -> None:
    side = sides.revision(repo, "HEAD", trees.cache_folder(repo))
    assert side.commit == repository.commit(repo, "HEAD")
    assert side.own_suite
    assert [Path(r).name for r in side.roots] == [side.commit, "bench"]


def test_a_base_without_the_suite_says_what_to_do(repo: Path) -> None:
    first = git(repo, "rev-parse", "--short", "HEAD")
    with pytest.raises(NotComparableError, match=f"no hograd_bench.*--base {first}"):
        sides.revision(repo, "HEAD~1", trees.cache_folder(repo))


@pytest.mark.parametrize("name", ["no-such-branch", "HEAD~99", "--output=x", ""])
def test_an_unknown_revision_is_a_usage_error(repo: Path, name: str) -> None:
    with pytest.raises(UsageError, match="fetch"):
        repository.commit(repo, name)


def test_in_a_hook_of_another_repository(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git exports to its hooks which repository they run for; the one that is named counts."""
    head = repository.commit(repo, "HEAD")
    other = tmp_path / "other repo"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert repository.repository(repo / "bench").samefile(repo)
    assert repository.commit(repo, "HEAD") == head
    assert (trees.tree(repo, head, tmp_path / "cache") / sides.SUITE).is_file()


def test_outside_of_a_repository(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no git repository"):
        repository.repository(tmp_path)


def test_changed_constraints_get_an_environment_of_their_own(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "constraints.txt").write_text("torch==2.14.0\n", encoding="utf-8")
    built = []
    monkeypatch.setattr(sides, "environment", lambda folder, cache, **how: built.append(folder) or "/other/python")
    assert sides.revision(repo, "HEAD", trees.cache_folder(repo)).python == "/other/python"
    assert len(built) == 1
    assert sides.revision(repo, "HEAD", trees.cache_folder(repo), python="/this").python == "/this"


def test_building_the_environment_of_a_base_is_announced(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "constraints.txt").write_text("torch==2.14.0\n", encoding="utf-8")
    events: list[str] = []
    monkeypatch.setattr(environments, "_build", lambda target, *rest: (target.mkdir(), events.append("built")))
    for _ in range(2):
        sides.revision(repo, "HEAD", trees.cache_folder(repo), log=events.append)
    told, built = events
    assert built == "built", "said before minutes go by, and only where they do"
    assert "building an environment for HEAD (" in told
    assert "whose constraints.txt is another: minutes the first time, then cached in" in told


def test_environments_are_built_once_per_requirements(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.subprocess, "run", lambda *a, **k: None)  # no real environment
    calls: list[list[str]] = []

    def install(python: Path, arguments: list[str]) -> None:
        calls.append(arguments)
        python.parent.mkdir(parents=True)
        if len(calls) == 1:
            raise NotComparableError("pip failed")

    (repo / "constraints.txt").write_text("torch==2.13.0\nnvidia-cublas==1\nnumpy==2.0\n", encoding="utf-8")
    cache = repo / "cache"
    with pytest.raises(NotComparableError):
        environments.environment(repo, cache, "2.12.1", install)
    first = environments.environment(repo, cache, "2.12.1", install)
    assert environments.environment(repo, cache, "2.12.1", install) == first
    assert len(calls) == 2, "a failed build is tried again, a complete one is kept"
    assert Path(calls[1][1]).read_text(encoding="utf-8") == "numpy==2.0\ntorch==2.12.1\n"
    assert environments.environment(repo, cache, "2.13.0", install) != first


def test_two_gates_that_build_one_environment_do_it_once(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first installs; it waits, and finds everything that the first installed."""
    pytest.importorskip("fcntl")
    monkeypatch.setattr(environments.subprocess, "run", lambda *a, **k: None)  # no real environment
    first_installs, second_came = threading.Event(), threading.Event()
    installs: list[Path] = []

    def install(python: Path, arguments: list[str]) -> None:
        installs.append(python)
        python.parent.mkdir(parents=True)
        python.touch()
        first_installs.set()
        assert second_came.wait(60)

    def log(line: str) -> None:
        if line.startswith("another gate builds this environment"):
            second_came.set()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(environments.environment, repo, repo / "cache", None, install, log)
        assert first_installs.wait(60)
        second = pool.submit(environments.environment, repo, repo / "cache", None, install, log)
        assert first.result(60) == second.result(60)
    assert installs == [Path(first.result())]
    assert installs[0].is_file()


def test_without_locks_an_environment_is_built_all_the_same(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.subprocess, "run", lambda *a, **k: None)  # no real environment
    monkeypatch.setattr(trees, "fcntl", None)
    built = environments.environment(
        repo, repo / "cache", None, lambda python, arguments: python.parent.mkdir(parents=True)
    )
    assert Path(built).parent.is_dir()


def test_the_roots_of_other_projects(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert sides.roots(tmp_path) == (str(tmp_path), str(tmp_path / "src"))
    assert not sides.owns_suite(tmp_path)


# --since


KEY = Key("2.13.0+cpu", "x86_64", "AVX2")


CELL = Cell("derivative_tensor", "rows", "mlp", 6)


def row(cell: Cell, peak: int) -> Any:
    return schema.row(cell, "ok", metrics={"peak_bytes": peak})


def bank(repo: Path, peak: int) -> str:
    save(repo / "bench" / "baselines", KEY, [row(CELL, peak)], metrics.metrics())
    return commit(repo)


def test_banked_growth_since_a_revision(repo: Path) -> None:
    start = bank(repo, 100)
    middle = bank(repo, 104)
    bank(repo, 108)
    outcome = drift.outcome(repo, start, repo / "bench" / "baselines", 0.05)
    (found,) = outcome.findings
    assert (found.before, found.after, int(outcome.exit)) == (100, 108, 1)
    assert f"+4 at {middle[:10]}" in found.text
    assert drift.outcome(repo, start, repo / "bench" / "baselines", 0.10).exit == 0
    before = drift.outcome(repo, f"{start}~1", repo / "bench" / "baselines", 0.05)
    assert f"since {start[:10]}" in before.findings[0].text, "the file begins later than was asked for"
    assert drift.outcome(repo, start, repo / "nowhere", 0.05).exit == 4
    save(repo / "bench" / "baselines", KEY, [row(Cell("gradient", "autograd", "mlp", 6), 100)], metrics.metrics())
    gone = drift.outcome(repo, start, repo / "bench" / "baselines", 0.10)
    assert [(f.kind, f.cell, int(gone.exit)) for f in gone.findings] == [("missing", CELL.id, 1)]


def test_baselines_of_the_text_format_are_no_history(repo: Path) -> None:
    folder = repo / "bench" / "baselines"
    folder.mkdir()
    (folder / f"{KEY.folder}.txt").write_text("# hograd gate baseline 2\n", encoding="utf-8")
    start = commit(repo)
    save(folder, KEY, [row(CELL, 100)], metrics.metrics())
    outcome = drift.outcome(repo, start, folder, 0.05)
    assert outcome.exit == 4
    assert "text files that this hograd reads no more" in outcome.findings[0].text


# Cells


def test_the_preset_covers_every_operator_and_times_enough() -> None:
    cells = preset.cells()
    timed = preset.timed(cells)
    operators = {o.name for o in hograd_core.operators().values() if _fits(o)}
    assert {c.operator for c in cells} == operators
    assert {c.operator for c in timed} == operators
    assert len(timed) >= 20
    assert len(set(cells)) == len(cells)
    measured = {(o.name, m) for o in hograd_core.operators().values() for m in o.methods if o.name in operators}
    assert {(c.operator, c.method) for c in cells} >= {
        (o, m) for o, m in measured if hograd_core.operators()[o].method(m).supports(2) or o == "gradient"
    }


def _fits(operator: Operator) -> bool:
    needs = set(operator.inputs) - {"f", "x", "v"}
    return any(needs <= set(p.provides) for p in problems.problems().values())


def test_methods_are_paired_on_equal_terms() -> None:
    pairs = preset.with_methods(preset.cells(), "double_backward", "jvp_of_grad")
    assert pairs
    for a, b in pairs:
        assert (a.method, b.method) == ("double_backward", "jvp_of_grad")
        assert {k: v for k, v in a.as_dict().items() if k != "method"} == {
            k: v for k, v in b.as_dict().items() if k != "method"
        }
    with pytest.raises(ValueError, match="no operator of these cells has both 'rows' and 'jvp_of_grad'"):
        preset.with_methods(preset.cells(), "rows", "jvp_of_grad")


def test_chosen_cells() -> None:
    one = preset.cells()[0]
    assert preset.chosen([one.id], "") == [one]
    assert all("gradient" in c.id for c in preset.chosen([], "gradient/"))
    with pytest.raises(ValueError, match="no id"):
        preset.chosen([], "no such thing")
    with pytest.raises(ValueError, match="cell"):
        preset.chosen(["nonsense"], "")


def test_plugins_bring_their_own_cells(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from hograd_bench.problems import Instance, problem\n"
        "@problem('gate_plugin_cubes', formula='Σx³', source='here', family='elementwise', sizes={'n': 'size'})\n"
        "def cubes(spec, draw):\n    return Instance(lambda x: (x**3).sum(), draw.normal(spec.n))\n",
        encoding="utf-8",
    )
    preset.load_plugins([str(tmp_path / "mine.py")], [])
    added = preset.added()
    assert added
    assert {c.problem for c in added} == {"gate_plugin_cubes"}
    assert all(isinstance(c, Cell) for c in added)
    with pytest.raises(ValueError, match="--plugin: no_such_module"):
        preset.load_plugins(["no_such_module"], [])
