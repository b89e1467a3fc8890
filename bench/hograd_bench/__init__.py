"""hograd_bench: the suite that measures hograd_core. See docs/architecture.md.

``hograd_bench.measure(f, x)``, ``hograd_bench.laws(frame)``, ``hograd_bench.advise(f, x)`` and
``@hograd_bench.method(...)`` are for interactive use and for other packages (docs/your_project.md). To type checkers
the first three are modules: ``interactive.measure``, ``laws.table`` and ``advise.advise`` are the functions.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hograd_bench import advise as advise
    from hograd_bench import laws as laws
    from hograd_bench import measure as measure
    from hograd_bench.plugins import method as method

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What takes torch or pandas, which whoever imports the package need not have."""
    if name == "method":
        from hograd_bench.plugins import method

        return method
    if name in ("advise", "laws", "measure"):  # modules that are called
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
