"""Values of small compiled kernels on the stack, since to allocate one takes longer than to compute it.

Inductor's wrapper of C++ can do so, but returns what lies there by way of a block of memory that is the thread's, which
its next call writes over. Here what is returned, and all whose memory it takes over, never lies on the stack; the
compiler refuses the code (``static_assert``) where it did.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def values_on_the_stack() -> Iterator[None]:
    """Have inductor compile so, for the CPU, within.

    Raises:
        ImportError, AttributeError: this torch has another inductor.
    """
    from torch._inductor import config
    from torch._inductor.codegen import common

    common.init_backend_registration()  # until torch 2.14 the first compilation of a process decides on the wrapper
    registered: Any = common.device_codegens["cpu"]
    before, registered.cpp_wrapper_codegen = registered.cpp_wrapper_codegen, _wrapper()
    settings = {"aot_inductor.allow_stack_allocation": True, "post_grad_custom_post_pass": _mark()}
    try:
        with config.patch(settings):
            yield
    finally:
        registered.cpp_wrapper_codegen = before


@functools.cache
def _mark() -> Any:
    """Does nothing to a graph; tells inductor's cache on disk that code is from this wrapper and no other."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Mark(CustomGraphPass):
        def __call__(self, graph: Any) -> None:
            pass

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return Mark()


@functools.cache
def _wrapper() -> Any:
    from torch._inductor import config
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    from torch._inductor.codegen.cpp_wrapper_cpu_array_ref import CppWrapperCpuArrayRef
    from torch._inductor.codegen.wrapper import ReuseLine
    from torch._inductor.virtualized import V

    base: Any = CppWrapperCpuArrayRef

    class Wrapper(base):  # type: ignore[misc]
        returned: frozenset[str] = frozenset()

        @staticmethod
        def create(*given: Any, **named: Any) -> Any:
            # Another thread may compile meanwhile, by its own settings.
            own = config.aot_inductor.allow_stack_allocation
            return Wrapper() if own else CppWrapperCpu.create(*given, **named)

        def memory_plan_reuse(self) -> None:
            super().memory_plan_reuse()
            found = set(V.graph.get_output_names())
            for line in reversed(self.lines):
                if isinstance(line, ReuseLine) and line.reused_as.get_name() in found:
                    found.add(line.node.get_name())
            self.returned = frozenset(found)

        def can_stack_allocate_buffer(self, buffer: Any) -> bool:
            return buffer.get_name() not in self.returned and super().can_stack_allocate_buffer(buffer)

        def generate_return(self, output_refs: list[str]) -> None:
            for ref in output_refs:
                self.wrapper_call.writeline(
                    f"static_assert(!is_arrayref_tensor_type_v<std::decay_t<decltype({ref})>>); // memory of its own"
                )
            CppWrapperCpu.generate_return(self, output_refs)

    return Wrapper
