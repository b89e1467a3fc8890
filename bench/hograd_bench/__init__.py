"""hograd_bench: the suite that measures hograd_core. See docs/architecture.md."""

__version__ = "0.1.0"
