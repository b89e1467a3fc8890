"""Metrics: one file a family, discovered by being here."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

from hograd_bench.metrics._contract import Metric as Metric
from hograd_bench.metrics._contract import Missing as Missing
from hograd_bench.metrics._contract import Readings as Readings
from hograd_bench.metrics._contract import Subject as Subject


@functools.cache
def families() -> dict[str, ModuleType]:
    """Every family's module by name; each has METRICS and measure(...)."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


@functools.cache
def metrics() -> dict[str, Metric]:
    """Every metric by name."""
    return {metric.name: metric for family in families().values() for metric in family.METRICS}
