"""What makes inductor's code ready sooner: less to read and to look for, strides by differentiation, tables made once.

Functions of inductor are changed while it compiles, and nothing that it then writes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from hograd_core.prepare.graphs._record import changed


@functools.cache
def _able_vectors() -> list[Any]:
    """AVX-512 or AVX2 alone, where the CPU says that it has them; empty: inductor's own list."""
    from torch._inductor import cpu_vec_isa

    able = cpu_vec_isa.x86_isa_checker()
    kinds = [
        kind
        for kind in (getattr(cpu_vec_isa, name, None) for name in ("VecAVX512", "VecAVX2"))
        if kind is not None and str(kind()) in able
    ]
    # True: what the CPU says is believed.
    return [type(k.__name__, (k,), {"__bool__": lambda _: True, "__hash__": k.__hash__})() for k in kinds]


_HEADERS = (
    "array", "filesystem", "optional", "Python.h", "pybind11/gil_simple.h", "torch/csrc/inductor/cpp_prefix.h",
    *(f"torch/csrc/inductor/aoti_runtime/{name}.h" for name in ("utils", "scalar_to_tensor", "thread_local")),
    "torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h",
)  # fmt: skip
"""What code of ours needs of the headers that inductor's wrappers include: not those of tensors."""


@contextmanager
def few_headers() -> Iterator[None]:
    """Have the C++ compiler read less, within: half of its time would go into headers that nothing of ours uses.

    Inductor precompiles the header of its wrapper, not that of kernels; and what templates a precompiled header leaves
    open, the compiler makes once more for each kernel. Debug information, which is left out, too, is also the mark of
    threads that compile so.
    """
    from torch._inductor import codecache, config
    from torch._inductor.codegen import cpp_wrapper_cpu, cpp_wrapper_cpu_array_ref

    together = ">\n#include <".join(_HEADERS)  # one, to be precompiled: it is put between "#include <" and ">"
    # What only calls kernels takes the compiler a quarter of its time, and nothing from a call, as it is optimised.
    entry = "inductor_entry_impl(AtenTensorHandle*, AtenTensorHandle*)"
    names = f"namespace py = pybind11;\nusing namespace torch::aot_inductor;\n[[gnu::optimize(1)]] void {entry};"
    wrapper, by_name = cpp_wrapper_cpu.CppWrapperCpu, "generate_fallback_kernel_with_runtime_lookup_nopython"
    call_by_name: Any = getattr(wrapper, by_name, None)

    def or_else(ours: str, theirs: Callable[..., str]) -> Callable[..., str]:
        return lambda *given, **named: theirs(*given, **named) if config.aot_inductor.enable_line_tables else ours

    def with_values(self: Any, *given: Any, **named: Any) -> Any:
        """Calls of operations that inductor has no function for need another header, which takes a compiler seconds."""
        self.header.splice("#include <torch/csrc/stable/stableivalue_conversions.h>")
        return call_by_name(self, *given, **named)

    include = f"#include <{together}>\n{names}"
    with ExitStack() as stack:
        stack.enter_context(config.patch({"aot_inductor.enable_line_tables": False}))
        if call_by_name is not None:
            stack.enter_context(changed(wrapper, by_name, with_values))
        for where, name, ours in (
            (codecache, "_get_cpp_wrapper_header", together),
            (wrapper, "get_device_include_path_jit", include),
            (cpp_wrapper_cpu_array_ref.CppWrapperCpuArrayRef, "get_device_include_path_jit", include),
        ):
            stack.enter_context(changed(where, name, or_else(ours, getattr(where, name))))
        yield


@contextmanager
def plain_vectors() -> Iterator[None]:
    """Have inductor look for no further sets of instructions, within.

    For each that the CPU has it builds a library, once a machine, and loads that in a process of its own, once a
    process: 2 s, and 0.5 s, for types that our kernels have not. Code that cannot be built or loaded is not used.
    """
    from torch._inductor import config, cpu_vec_isa

    found = _able_vectors() if config.cpp.vec_isa_ok is None else []
    with changed(cpu_vec_isa, "valid_vec_isa_list", lambda: found) if found else nullcontext():
        yield


@contextmanager
def quick_strides() -> Iterator[None]:
    """Have the steps of an index found by differentiation where it is a polynomial, within.

    Inductor looks for the simplest form of a difference of indices, and of the index before: a tenth of the time that
    it takes for a graph.
    """
    from torch._inductor import sizevars

    sympy: Any = sizevars.sympy  # type: ignore[attr-defined]

    step, simpler = sizevars.stride_at, sizevars.simplify_index_in_vec_range

    def is_polynomial(index: Any) -> bool:
        return not index.has(sympy.Function, sympy.Rel, sympy.Piecewise)

    def stride_at(index: Any, var: Any) -> Any:
        slope = sympy.diff(index, var) if is_polynomial(index) else var
        return step(index, var) if slope.has(var) else slope

    def simplify_index_in_vec_range(index: Any, var: Any, vec_length: int) -> Any:
        return index if is_polynomial(index) else simpler(index, var, vec_length)

    with (
        changed(sizevars, "stride_at", stride_at),
        changed(sizevars, "simplify_index_in_vec_range", simplify_index_in_vec_range),
    ):
        yield


@contextmanager
def few_tables() -> Iterator[None]:
    """Have inductor's table of the types of results made once, within, and not for each loop a few times."""
    from torch._inductor.dtype_propagation import DtypePropagationOpsHandler as Table

    with changed(Table, "__init__", functools.cache(Table.__init__)):
        yield
