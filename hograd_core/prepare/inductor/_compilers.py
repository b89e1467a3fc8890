"""The C++ compilers of inductor's code: several at once, a quick linker, headers looked at while code is written.

Inductor's command for a library becomes one for each part of its code and one that links them. The library's name, by
which inductor finds it again, is of the code and of inductor's own command.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

from hograd_core.prepare.graphs._record import changed

_ENTRY, _KERNEL, _REST = (
    "} // inductor_entry_impl", "#include <torch/csrc/inductor/cpp_prefix.h>\n", "// Python bindings to call ",
)  # fmt: skip
"""In inductor's code: where the function that calls kernels ends, where each kernel and what follows the last begin."""
_SHARED = "#endif\n"
"""Where code ends that all kernels of a kind share, and of which a compiler reads the first copy alone."""
_LEAST, _PART, _MOST = 2**11, 2**15, 8
"""Characters that any kernel counts for at least; those that are worth a compiler of their own, which reads headers for
half a second; compilers at once, each of which takes a third of a gigabyte."""
_HEADERS: dict[tuple[str, str], str] = {}
"""Headers that this process had precompiled: inductor would look at each kernel whether one has changed."""


def parts(text: str, most: int) -> list[str]:
    """Inductor's code in parts that take about as long, cut between kernels, which know nothing of each other."""
    entry, end, code = text.partition(_ENTRY)
    code, mark, rest = code.partition(_REST)
    between, *kernels = code.split(_KERNEL)
    first = entry + end + between + mark + rest
    work = {kernel: _LEAST + len(kernel.rpartition(_SHARED)[2]) for kernel in kernels}
    count = min(most, 1 + (len(first) + sum(work.values())) // _PART)
    made, taken = [first, *[""] * (count - 1)], [len(first), *[0] * (count - 1)]
    for kernel in sorted(work, key=lambda kernel: work[kernel], reverse=True):
        least = taken.index(min(taken))
        made[least] += f"\n{_KERNEL}{kernel}"
        taken[least] += work[kernel]
    return [part for part in made if part]


@functools.cache
def _linker() -> list[str]:
    """A quicker linker than ld, which takes a third of a second for the symbols of torch."""
    return [f"-fuse-ld={name}" for name in ("mold", "lld", "gold") if shutil.which(f"ld.{name}")][:1]


@contextmanager
def several_compilers() -> Iterator[None]:
    """Have as many compilers at work on one graph's kernels, within, as inductor may have at once, and are of use."""
    from torch._inductor import codecache, config, cpp_builder

    compile_else, precompile_else = cpp_builder.run_compile_cmd, codecache._precompile_header

    def run_compile_cmd(cmd_line: str, cwd: str) -> None:
        words = shlex.split(cmd_line)
        source = next((word for word in words if word.endswith(".main.cpp")), "")
        if not source or "-shared" not in words:
            compile_else(cmd_line, cwd)
            return
        target = words[words.index("-o") + 1]

        def run(sources: list[str], result: str, *more: str) -> None:
            by = {source: sources, target: [result]}
            own = chain.from_iterable(by.get(word, [word]) for word in words)
            done = subprocess.run([*own, *more], cwd=cwd, capture_output=True, text=True, errors="replace")
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                raise RuntimeError(next((line for line in said if "error" in line), said[-1]))

        def compiled(i: int, part: str) -> str:
            file = Path(cwd, f"{i}.cpp")
            file.write_text(part, encoding="utf-8")
            run([str(file)], f"{file}.o", "-c")
            return f"{file}.o"

        made = parts(Path(source).read_text(encoding="utf-8"), min(config.compile_threads or 1, _MOST))
        with ThreadPoolExecutor(len(made)) as pool:
            objects = list(pool.map(compiled, *zip(*enumerate(made), strict=True)))
        run(objects, target, *_linker())

    def precompile(header: str, command: str, **given: Any) -> str:
        known = _HEADERS.get((header, command))
        if known is None or not os.path.exists(known):
            known = _HEADERS[header, command] = precompile_else(header, command, **given)
        return known

    def look_at_headers() -> None:
        with suppress(Exception):  # whoever compiles does it, then
            codecache.CppWrapperCodeCache.load_async("", needs_vec_isa=True)

    with (
        changed(cpp_builder, "run_compile_cmd", run_compile_cmd),
        changed(codecache, "_precompile_header", precompile),
    ):
        looking = Thread(target=copy_context().run, args=(look_at_headers,))
        looking.start()
        try:
            yield
        finally:
            looking.join()
