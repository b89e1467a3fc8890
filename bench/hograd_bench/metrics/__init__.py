"""Metrics: one file a family, discovered by being here, or in a folder that the variable HOGRAD_METRICS names.

A family's file imports torch inside functions alone, so that whoever reads results has the records without it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hograd_bench import own_files
from hograd_bench.metrics._contract import Metric as Metric
from hograd_bench.metrics._contract import Missing as Missing
from hograd_bench.metrics._contract import Readings as Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject as Subject

FOLDERS = "HOGRAD_METRICS"
"""Environment variable: folders of metric files of one's own, separated as PATH is. Workers inherit it."""

_carried: dict[str, Metric] = {}


def __getattr__(name: str) -> Any:
    if name == "Subject":  # it takes torch, which readers of records do without
        from hograd_bench.metrics._subject import Subject

        return Subject
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def families() -> dict[str, ModuleType]:
    """Every family's module by name, in the order of measuring; each has METRICS and measure(subject).

    Raises:
        ValueError: a file of one's own is no family, or takes a name that is another's.
        OSError: a folder in HOGRAD_METRICS cannot be read.
    """
    names = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    owners = {metric.name: name for name, family in found.items() for metric in family.METRICS}
    for file in own_files.named_by(FOLDERS):
        if file.stem in found:
            raise ValueError(f"{file}: there is a metric family {file.stem!r} already; rename the file")
        family = found[file.stem] = _own(file)
        for metric in family.METRICS:
            if metric.name in owners:
                raise ValueError(f"{file}: the metric {metric.name!r} is declared by {owners[metric.name]} already")
            owners[metric.name] = file.stem
    return dict(sorted(found.items(), key=lambda item: (getattr(item[1], "TURN", 50), item[0])))


@functools.cache
def metrics() -> dict[str, Metric]:
    """Every metric of the installed families by name."""
    return {metric.name: metric for family in families().values() for metric in family.METRICS}


def known() -> dict[str, Metric]:
    """Every installed metric, and those that came with runs (:func:`carry`), by name."""
    return {**_carried, **metrics()}


def record(name: str) -> Metric | None:
    """The record of a metric, installed or come with a run; None where nobody declared it."""
    return metrics().get(name) or _carried.get(name)


def is_exact(name: str) -> bool:
    """Whether a metric is declared to be a whole number that the program determines."""
    found = record(name)
    return found is not None and found.exact


def carry(environment: Mapping[str, Any]) -> None:
    """Take over the records that a run brings of metrics that are not installed here; what is no record is left."""
    brought = environment.get("metrics")
    for name, given in brought.items() if isinstance(brought, Mapping) else ():
        if name not in metrics() and isinstance(given, Mapping):
            try:
                made = Metric.from_dict(given)
            except (TypeError, ValueError):
                continue
            if made.name == name:
                _carried[name] = made


def as_json(records: Iterable[Metric] | None = None) -> dict[str, Any]:
    """The records as a run's environment carries them."""
    return {m.name: m.as_dict() for m in (metrics().values() if records is None else records)}


def _own(file: Path) -> ModuleType:
    module = own_files.load(file, __name__)
    declared = getattr(module, "METRICS", None)
    if not isinstance(declared, tuple | list) or not all(isinstance(m, Metric) for m in declared):
        raise ValueError(f"{file}: expected METRICS, a tuple of Metric; see docs/extending.md")
    if not callable(getattr(module, "measure", None)):
        raise ValueError(f"{file}: expected a function measure(subject) -> Readings; see docs/extending.md")
    return module
