"""What every test may rely on: nothing of who runs the tests, from within what, reaches them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# At import, before typer and rich are imported: they look once. A git hook exports the repository that it runs for.
_FOREIGN = ("GIT_", "GITHUB_", "HOGRAD_GATE_", "HOGRAD_PLANT")
_TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
for _name in [name for name in os.environ if name.startswith(_FOREIGN) or name in _TERMINAL]:
    del os.environ[_name]
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

# No test fails for a slow machine, or for a folder that cannot be written.
settings.register_profile("hograd", deadline=None, database=None)
settings.load_profile("hograd")


@pytest.fixture(scope="session", autouse=True)
def _temporary_folders_are_in_no_repository(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["GIT_CEILING_DIRECTORIES"] = str(tmp_path_factory.getbasetemp().parent)


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Collections look at what this file's tests make, not at all that is loaded: half the time of a test of leaks."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _registrations_end_with_their_module() -> Iterator[None]:
    """Plugins that a file of tests loads, some of them planted faults, are not there for the next, in any order."""
    from hograd_bench import problems

    import hograd_core
    from hograd_core import reference

    problems.problems()  # discovered, so that none is taken for a plugin's
    tables: list[dict[Any, Any]] = [
        hograd_core._registry._OPERATORS, reference._TRUTHS, problems._contract._PROBLEMS, problems._FILES,
        *(operator.methods for operator in hograd_core.operators().values()),
    ]  # fmt: skip
    kept = [dict(table) for table in tables]
    methods = [method for operator in hograd_core.operators().values() for method in operator.methods.values()]
    functions = [method.function for method in methods]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    for method, function in zip(methods, functions, strict=True):
        object.__setattr__(method, "function", function)
    for operator in hograd_core.operators().values():
        operator.sign()
