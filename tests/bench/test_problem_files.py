"""A file of problems of one's own is refused in its author's terms, and what it leaves changed is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hograd_bench import problems, torch_state


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("1 / 0", "line 3: cannot be run: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "line 3: cannot be run: SystemExit: 3"),
        ("raise GeneratorExit", "line 3: cannot be run: GeneratorExit"),
        ("class E(Exception):\n    __str__ = None\nraise E", "line 5: cannot be run: E: it cannot say why"),
        ("def f(:", r"cannot be run: SyntaxError: invalid syntax \(own\.py, line 3\)"),
        ("\0", "cannot be run: SyntaxError: source code"),
        ("x = 1", "declares no problem; decorate a factory with @problem"),
        ("@problem\ndef f(spec, draw): ...", r"TypeError: problem\(\) missing 4 required keyword-only arguments"),
        ("problem(**{**GOOD, 'name': 5})(print)", "got the name 5, expected text"),
        ("problem(**{**GOOD, 'name': 'a/b'})(print)", "got the name 'a/b', expected letters"),
        ("problem(**{**GOOD, 'name': 'mlp'})(print)", "'mlp' is declared twice"),
        ("problem(**{**GOOD, 'formula': None})(print)", "got the formula None, expected text"),
        ("problem(**{**GOOD, 'family': 'a\\nb'})(print)", "expected a word or two"),
        ("problem(**{**GOOD, 'sizes': ['n']})(print)", r"sizes: got \['n'\], expected a dict from some of n"),
        ("problem(**{**GOOD, 'sizes': {'width': 'w'}})(print)", "expected a dict from some of n, depth, batch"),
        ("problem(**GOOD, provides='module')(print)", "got provides='module', expected a tuple of names"),
        ("problem(**GOOD, operations=3)(print)", "got operations=3, expected a function of spec"),
        ("problem(**GOOD)(None)", r"'own' decorates None, expected a function of \(spec, draw\)"),
        ("problem(**GOOD)(print)\n1 / 0", "line 4: cannot be run: ZeroDivisionError"),
    ],
)
def test_a_file_that_declares_no_good_problem_says_where_and_why(
    tmp_path: Path, declaration: str, message: str
) -> None:
    good = {"name": "own", "formula": "f", "source": "s", "family": "own", "sizes": {"n": "entries of x"}}
    file, before, here = tmp_path / "own.py", problems.problems(), Path.cwd()
    text = f"from hograd_bench.problems import problem\nGOOD = {good}\n{declaration}\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as said:
        problems.load_file(file)
    assert str(file) in str(said.value)
    assert problems.problems() == before  # what it declared before is forgotten: once mended, it can be loaded
    assert Path.cwd() == here


def test_a_file_may_be_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, expected a Python file"):
        problems.load_file(tmp_path)
    with pytest.raises(ValueError, match="is not there, expected a Python file"):
        problems.load_file(tmp_path / "none.py")
    (tmp_path / "text.txt").touch()
    with pytest.raises(ValueError, match="not a Python file"):
        problems.load_file(tmp_path / "text.txt")


def test_settings_of_torch_that_a_file_leaves_are_told(tmp_path: Path) -> None:
    file = tmp_path / "sets.py"
    file.write_text(
        "import torch\nfrom hograd_bench.problems import problem\ntorch.set_default_dtype(torch.float64)\n"
        "problem('sets', formula='f', source='s', family='own', sizes={})(print)\n",
        encoding="utf-8",
    )
    with torch_state.kept() as changed:
        problems.load_file(file)
        assert torch.get_default_dtype() == torch.float64
    assert torch.get_default_dtype() == torch.float32
    assert changed == ["set the default dtype to torch.float64"]
    assert problems.set_by_files() == changed


def test_what_a_function_changed_is_told_and_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    matmul, modes = torch.matmul, torch._C._len_torch_function_stack()
    with torch_state.kept() as changed:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.autograd.set_detect_anomaly(True)
        torch.set_autocast_enabled("cpu", True)
        torch.matmul = print
        del os.environ["PATH"]
        gone.rmdir()
    assert [text.rpartition(" to ")[0] or text for text in changed] == [
        "set torch's threads", "set the default dtype",
        "set the default device", "set torch.set_grad_enabled", "set torch.use_deterministic_algorithms",
        "set torch's precision of float32 products", "set autograd's detection of anomalies", "set autocast on the CPU",
        "changed the working folder", "changed the environment variables PATH", "replaced torch.matmul",
    ]  # fmt: skip
    assert torch.matmul is matmul
    assert os.environ["PATH"]
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.chdir(tmp_path)
    with torch_state.kept() as nothing:
        assert torch.ones(2).device.type == "cpu"
        assert torch.ones(2).dtype == torch.float32
    assert nothing == []
    assert torch._C._len_torch_function_stack() == modes  # none is left that every call goes through


def test_a_seed_is_torchs_and_leaves_nothing_behind() -> None:
    torch.manual_seed(3)
    drawn = torch.rand(4)
    queued = len(torch.cuda._queued_calls)
    torch_state.seed(3)
    assert torch.equal(torch.rand(4), drawn)
    assert len(torch.cuda._queued_calls) == queued
