"""What one process has compiled, the next takes from the disk, and from no other making."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from core_fakes import normal
from prepare_fakes import V, X, close, needs_compiler, network
from torch import Tensor

import hograd_core as h
from hograd_core import prepare
from hograd_core.prepare import _build, _hessian
from hograd_core.prepare.inductor import _kept, _key

AGAIN = """
import json, sys
from prepare_fakes_plain import V, X, network
import hograd_core as h

f = network()
p, q = (h.prepare(operator, f, X, preparation="compiled") for operator in (h.hvp, h.hessian))
told = [(k.preparation, k.explain().partition(" s\\n")[2], k.peak_bytes) for k in (p, q)]
bound = p.bind(X)
found = p(X, V).tolist(), bound(V).tolist(), bound(q(X), in_dims=0).tolist(), q(X).tolist()
loaded = [name for name in ("torch._inductor", "torch._dynamo") if name in sys.modules]
print(json.dumps([loaded, told, found]))
"""


def names(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor = X) -> list[str | None]:
    found = [_key.named(f, [x]) for f in functions]
    return [None if one is None else one.name for one in found]


@needs_compiler
@pytest.mark.slow
def test_a_second_process_finds_the_kernel_and_loads_no_compiler(tmp_path: Path) -> None:
    """On whatever cache the tests use, so that headers are not compiled for this test; but records of its own."""
    (tmp_path / "prepare_fakes_plain.py").write_text(PLAIN)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "TORCH_OF_THIS_TEST": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_FORCE_DISABLE_CACHES", None)
    first, second = (
        json.loads(subprocess.run(
            [sys.executable, "-c", AGAIN], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1])
        for _ in range(2)
    )  # fmt: skip
    assert (first[0], second[0]) == (["torch._inductor", "torch._dynamo"], [])
    assert [preparation for preparation, *_ in first[1]] == ["compiled", "compiled"]
    assert second[1:] == first[1:]  # what is told of them, and every bit that they compute


PLAIN = """
import torch
from core_fakes import F64, normal
X, V = normal(8), normal(8, seed=1)
def network():
    weights = [normal(8, 8, seed=s, dtype=F64) for s in (2, 3)]
    def f(x):
        for w in weights:
            x = (x @ w).tanh()
        return x.square().sum()
    return f
"""


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each graph that is compiled from now on."""
    made: list[str] = []
    inner = _build._compile.compiled

    def counting(*given: Any) -> Any:
        made.append("compiled")
        return inner(*given)

    monkeypatch.setattr(_build._compile, "compiled", counting)
    return made


def prepared_once_more(f: Callable[[Tensor], Tensor], compilations: list[str]) -> int:
    """How many graphs it takes to prepare it; the result is right in any case."""
    before = len(compilations)
    p = prepare(h.hvp, f, X, preparation="compiled")
    assert p.preparation == "compiled", p.explain()
    assert close(p(X, V), h.hvp(f, X, V))
    return len(compilations) - before


@needs_compiler
@pytest.mark.slow
def test_what_is_damaged_is_made_anew(compilations: list[str]) -> None:
    f = network()
    prepared_once_more(f, compilations)
    assert prepared_once_more(f, compilations) == 0
    place = _kept.folder() / "hograd"
    record = place / name_of_kernel(f)
    text = record.read_text()
    for damaged in ("", text[:-9], text.replace('"lifted": [0', '"lifted": [1'), "\x00" * 40):
        record.write_text(damaged)
        assert prepared_once_more(f, compilations) == 1
        assert record.read_text() == text
    content = _kept.read(record.name)
    (kept,) = content["libraries"]
    library = bytearray((_kept.folder() / kept["library"]).read_bytes())
    library[len(library) // 2] ^= 1
    (place / "damaged.so").write_bytes(library)
    for other in ({"library": "no/such.so"}, {"library": "hograd/damaged.so"}, {"size": 1}, {"sha256": "0" * 64}):
        _kept.write(record.name, content | {"libraries": [kept | other]})
        _kept._LOADED.clear()
        assert prepared_once_more(f, compilations) == 1
        assert record.read_text() == text
    assert prepared_once_more(f, compilations) == 0


def name_of_kernel(f: Callable[[Tensor], Tensor]) -> str:
    made: list[str] = []
    inner = _key.named
    with pytest.MonkeyPatch.context() as patch:

        def noting(*given: Any) -> Any:
            found = inner(*given)
            made.append("" if found is None else found.name)
            return found

        patch.setattr(_key, "named", noting)
        prepare(h.hvp, f, X, preparation="compiled")
    return made[0]


@needs_compiler
@pytest.mark.slow
def test_a_kernel_that_computes_something_else_is_made_anew(compilations: list[str]) -> None:
    """A record that is whole, and of another function: what is compared with the eager method is noticed."""
    f, w = network(), normal(8, seed=9)

    def other(x: Tensor) -> Tensor:
        return ((x * w).square() * x).sum()

    prepared_once_more(f, compilations)
    prepared_once_more(other, compilations)
    name = name_of_kernel(f)
    content, foreign = _kept.read(name), _kept.read(name_of_kernel(other))
    assert foreign["lifted"] != content["lifted"]
    _kept.write(name, foreign)
    assert prepared_once_more(f, compilations) == 1
    assert _kept.read(name) == content


@pytest.fixture
def own_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No kernel is known at first."""
    monkeypatch.setattr(_kept, "_place", lambda name: tmp_path / name)


@needs_compiler
@pytest.mark.slow
@pytest.mark.usefixtures("own_records")
def test_bound_products_are_found(compilations: list[str]) -> None:
    """For one direction, and for two of them; for three, of which nothing is on the disk, they are made."""
    f, rows = network(), torch.stack([X, V, X + V])
    prepared_once_more(f, compilations)
    for expected in (3, 0):  # what depends on x alone, a direction, two of them
        before = len(compilations)
        bound = prepare(h.hvp, f, X, preparation="compiled").bind(X)
        assert close(bound(V), h.hvp(f, X, V))
        assert close(bound(rows[:2], in_dims=0)[1], h.hvp(f, X, V))
        assert len(compilations) - before == expected
    assert close(bound(rows, in_dims=0)[1], h.hvp(f, X, V))
    assert len(compilations) > before


@needs_compiler
@pytest.mark.slow
@pytest.mark.usefixtures("own_records")
@pytest.mark.parametrize(
    ("options", "triangular"), [({}, 256), ({}, 8), ({"chunk_size": 3}, 256), ({"chunk_size": 3}, 8)]
)
def test_hessians_are_found(
    options: dict[str, int], triangular: int, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hessian, "_TRIANGULAR", triangular)
    w = normal(8, 8, seed=5)

    def f(x: Tensor) -> Tensor:
        return (w @ (w @ x).tanh()).sin().sum()

    results = []
    for expected in (True, False):
        before = len(compilations)
        p = prepare(h.hessian, f, X, preparation="compiled", **options)
        assert (p.preparation, p.reason, len(compilations) > before) == ("compiled", None, expected)
        results.append((p(V), p.peak_bytes, p.explain().partition(" s\n")[2]))
        assert close(results[-1][0], h.hessian(f, V))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]
    w.mul_(1.5)
    assert close(p(V), h.hessian(f, V))
    for others in ({"chunk_size": 2}, {"memory": 100_000}):
        prepare(h.hessian, f, X, preparation="compiled", **others)
    assert len(compilations) > before


@needs_compiler
@pytest.mark.slow
def test_a_hessian_and_halves_of_something_else_are_made_anew(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that are whole and run, and are of another function."""
    read, written, swapped = _kept.read, [], {}
    monkeypatch.setattr(_kept, "write", lambda name, content: written.append((name, content)))
    functions = [lambda x: (x.sin() * x).sum(), lambda x: (x.cos() * x.flip(0)).sum()]

    def made(f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return prepare(h.hessian, f, X, preparation="compiled")(V), prepare(h.hvp, f, X, preparation="compiled").bind(
            X
        )(V)

    for f in functions:
        made(f)
    half = len(written) // 2
    assert half == 3  # a Hessian, a product, its halves
    swapped = {mine[0]: other[1] for mine, other in zip(written[:half], written[half:], strict=True)}
    asked, forgotten = [], []

    def reading(name: str) -> Any:
        asked.append(name)
        return swapped.get(name) if name not in forgotten else read(name)

    monkeypatch.setattr(_kept, "read", reading)
    monkeypatch.setattr(_kept, "forget", forgotten.append)
    hessian, product = made(functions[0])
    assert close(hessian, h.hessian(functions[0], V))
    assert close(product, h.hvp(functions[0], X, V))
    assert set(swapped) <= set(asked)
    assert set(forgotten) == set(swapped)


def test_what_code_depends_on_is_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    w, u = normal(8, seed=2), normal(8, seed=3)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: (x * 2.0).sum(), lambda x: (x * 3.0).sum(), lambda x: (x * 2).sum(), lambda x: (x * w).sum(),
        lambda x: (x * w + u).sum(), lambda x: (x * w + w).sum(), lambda x: (x * torch.tensor(2.0)).sum(),
        lambda x: (x * torch.tensor(3.0)).sum(), lambda x: (x * w[:4].repeat(2)).sum(), lambda x: (x + 2.0).sum(),
        lambda x: (x * w.flip(0)).sum(), lambda x: (x * w).sum(0, keepdim=True)[0],
    ]  # fmt: skip
    first = names(functions)
    assert None not in first
    assert len(set(first)) == len(first)
    assert names(functions) == first
    assert names([lambda x: (x * u).sum()]) == first[3:4]  # other values of a tensor that is an input
    for x in (X.float(), normal(9), normal(8, 2)[:, 0], X.view(2, 4).t()):
        assert set(names(functions[:2], x)).isdisjoint(first)
    for change in (
        ("torch.__version__", "2.0.0"), ("torch.version.git_version", "0"), ("torch.get_num_threads", lambda: 77),
        ("torch.backends.cpu.get_cpu_capability", lambda: "NONE"), ("torch.get_default_dtype", lambda: torch.float16),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            _key._making.cache_clear()
            assert set(names(functions)).isdisjoint(first), change
    _key._making.cache_clear()
    assert names(functions) == first


def test_what_is_not_known_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    library = torch.library.Library("hograd_test_names", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    counter = torch.zeros(())
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.ops.hograd_test_names.twice(x).sum(), lambda x: x.sum() * x.sum().item(),
        lambda x: (x * torch.rand_like(x)).sum(), lambda x: (x * torch.tensor([2.0] * 8)).sum(),
        lambda x: x.sum() * float(counter.add_(1)),
    ]  # fmt: skip
    assert names(functions) == [None] * len(functions)
    with monkeypatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
        assert names([torch.sum]) == [None]
    monkeypatch.setenv("TORCH_SOMETHING", "1")  # after the import, which may have been inductor's, too
    assert names([torch.sum]) == [None]


@pytest.mark.slow
def test_another_setting_of_inductor_is_not_known() -> None:
    from torch._inductor import config

    assert None not in names([torch.sum])
    with config.patch(max_fusion_size=3):
        assert names([torch.sum]) == [None]


def test_a_folder_that_cannot_be_written_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "folder"))
    (tmp_path / "file").write_text("")
    _kept.write("name", [1])
    assert _kept.read("name") is None
    _kept.forget("name")


def test_the_folder_is_inductors(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    ours = _kept.folder()
    assert str(ours) == cache_dir()
