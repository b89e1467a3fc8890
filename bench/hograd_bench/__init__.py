"""hograd_bench: the suite that measures hograd_core. See docs/architecture.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hograd_bench.plugins import method as method

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "method":  # it takes torch, which readers of results do without
        from hograd_bench.plugins import method

        return method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
