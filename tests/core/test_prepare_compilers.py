"""What makes compiled kernels ready sooner: fewer headers, strides by differentiation, several compilers at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prepare_fakes import V, X, close, needs_compiler
from torch import Tensor

import hograd_core as h
from hograd_core import prepare


@needs_compiler
@pytest.mark.slow
def test_others_compile_with_headers_of_their_own_meanwhile() -> None:
    from torch._inductor import codecache, config

    from hograd_core.prepare.inductor._sooner import few_headers

    assert config.aot_inductor.enable_line_tables
    theirs = codecache._get_cpp_wrapper_header("cpu")
    with few_headers():
        ours = codecache._get_cpp_wrapper_header("cpu")
        with config.patch({"aot_inductor.enable_line_tables": True}):  # as another thread sees it
            assert codecache._get_cpp_wrapper_header("cpu") == theirs
    assert codecache._get_cpp_wrapper_header("cpu") == theirs != ours


def test_code_is_cut_between_kernels() -> None:
    from hograd_core.prepare.inductor._compilers import parts

    prefix = "#include <torch/csrc/inductor/cpp_prefix.h>\n"
    entry, bindings = f"{prefix}void entry() {{\n}} // inductor_entry_impl\n", "// Python bindings to call entry():\n"
    kernels = [f"void kernel_{i}() {{{' ' * 30_000}}}\n" for i in range(6)]
    code = entry + "".join(prefix + kernel for kernel in kernels) + bindings
    made = parts(code, 3)
    assert [entry in made[0], bindings in made[0], len(made)] == [True, True, 3]
    for kernel in kernels:
        assert sum(prefix + kernel in part for part in made) == 1
    assert [sum(kernel in part for kernel in kernels) for part in made] == [2, 2, 2]
    assert [len(parts(code, 1)), len(parts(entry + bindings, 4)), parts("int x;", 2)] == [1, 1, ["int x;"]]


def test_code_that_kernels_share_is_no_work() -> None:
    from hograd_core.prepare.inductor._compilers import parts

    prefix, shared = "#include <torch/csrc/inductor/cpp_prefix.h>\n", f"#ifndef S\n{' ' * 50_000}\n#endif\n"
    kernels = [f"{shared}void kernel_{i}() {{}}\n" for i in range(4)]
    kernels += [f"void kernel_{i}() {{{' ' * 40_000}}}\n" for i in range(4, 8)]
    made = parts(f"{prefix}}} // inductor_entry_impl\n{''.join(prefix + kernel for kernel in kernels)}", 2)
    assert [sum(f"kernel_{i}()" in part for i in range(4, 8)) for part in made] == [2, 2]


@needs_compiler
@pytest.mark.parametrize("linker", [None, "-fuse-ld=nothing"])
def test_kernels_are_compiled_in_several_parts_or_else_in_one(
    linker: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    from hograd_core.prepare.inductor import _compilers

    commands: list[str] = []
    run = _compilers.subprocess.run

    def noted(command: list[str], **given: Any) -> Any:
        commands.append(" ".join(command))
        return run(command, **given)

    monkeypatch.setattr(_compilers, "subprocess", SimpleNamespace(run=noted))
    monkeypatch.setattr(_compilers, "_PART", 1)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # no kernel is kept there
    if linker is not None:
        monkeypatch.setattr(_compilers, "_linker", lambda: [linker])

    factor = 0.5 if linker is None else 0.25  # inductor remembers code that this process compiled

    def f(x: Tensor) -> Tensor:
        return (factor * x.outer(x).sin() @ x).cumsum(0).exp().square().sum()

    with config.patch({"compile_threads": 3}):
        p = prepare(h.hvp, f, X, preparation="compiled")
    assert (p.preparation, p.reason) == ("compiled", None)
    assert close(p(X, V), h.hvp(f, X, V))
    assert [any(f"/{i}.cpp " in command for command in commands) for i in range(4)] == [True, True, True, False]
    assert ("without several compilers: " in p.explain()) == (linker is not None)


@needs_compiler
def test_types_of_results_are_those_of_inductor() -> None:
    from torch._inductor.dtype_propagation import DtypePropagationOpsHandler as Table

    from hograd_core.prepare.inductor._sooner import few_tables

    theirs, make = {name: str(rule) for name, rule in vars(Table()).items()}, Table.__init__
    vars(Table()).clear()
    with few_tables():
        assert {name: str(rule) for name, rule in vars(Table()).items()} == theirs
        known = vars(Table())["add"]
        assert vars(Table())["add"] is known
    assert Table.__init__ is make
    assert vars(Table())["add"] is not known


@needs_compiler
def test_strides_are_those_that_inductor_finds() -> None:
    import sympy
    from torch._inductor import sizevars
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    from hograd_core.prepare.inductor._sooner import quick_strides

    x, y = sympy.symbols("x0 x1", integer=True, nonnegative=True)
    indices = [
        x,
        y,
        48 * x + y,
        48 * (x + 2 * y) + 7,
        x * y,
        x**2 + y,
        FloorDiv(x, 16) + y,
        3 * ModularIndexing(x, 1, 32),
    ]

    def strides() -> list[object]:
        return [sizevars.stride_at_vec_range.__wrapped__(index, x, 8) for index in indices]

    theirs = strides()
    with quick_strides():
        assert strides() == theirs
    assert theirs[2] == 48
