"""One cell -> one row. Truth first: nothing is measured before the result agreed with it."""

from __future__ import annotations

import datetime
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hograd_bench import called, metrics, problems, schema, torch_state
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing, Readings, Subject, accuracy
from hograd_bench.metrics.time import Timer
from hograd_bench.own_files import describe
from hograd_core import UnsupportedError

APART = tuple(name for name, family in metrics.families().items() if hasattr(family, "VARIABLES"))
"""Families that need a process of their own, with these environment variables: taken only where asked for."""
ALL = tuple(
    name for name, family in metrics.families().items() if name not in APART and not hasattr(family, "ON_REQUEST")
)
DETERMINISTIC = tuple(
    name
    for name, family in metrics.families().items()
    if name in ALL
    and not hasattr(family, "DEVICES")
    and not hasattr(family, "PEERS_ONLY")
    and not hasattr(family, "PREPARED_ONLY")
    and any(metric.deterministic for metric in family.METRICS)
)

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on the CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in describe(error).lower() for sign in _OUT_OF_MEMORY)


def measure(
    cell: Cell,
    families: Sequence[str] = ALL,
    timer: Timer | None = None,
    *,
    in_child: bool = False,
) -> dict[str, Any]:
    """Measure one cell; never raises for what the cell itself does.

    Args:
        cell: what to measure.
        families: names of metric families; accuracy is always first and always taken.
        timer: takes a call and returns seconds per round; without one, time is missing with that reason.
        in_child: whether this is an engine's process, which Ctrl-C does not reach: KeyboardInterrupt is the cell's.

    Returns:
        The row (see docs/architecture.md), whatever happened: its status says what.

    Raises:
        KeyboardInterrupt: Ctrl-C is the person's, unless ``in_child``.
    """
    started = datetime.datetime.now(datetime.UTC)
    clock = time.perf_counter()
    taken = Readings()
    subject: Subject | None = None
    status, reason = "ok", ""
    with (
        warnings.catch_warnings(record=True) as caught,
        torch_state.threads(cell.threads),
        torch_state.kept() as changed,
    ):
        warnings.simplefilter("always")
        try:
            subject = Subject(cell)
            before = time.perf_counter()
            _, seeded = torch_state.seeds(subject.call)
            subject.wait()
            first_call = time.perf_counter() - before
            if seeded:
                taken.details["changed"] = ["seeded torch's generator"]
            disagreement = accuracy.verdict(subject)
            if accuracy.judge(subject).unknown is not None:
                # No method can be held against it: what is exact is measured, and how far the methods agree.
                status, reason = "unverified", disagreement or ""
                _take(taken, subject, [name for name in families if name in DETERMINISTIC], {})
            elif disagreement is not None:
                status, reason = "wrong", disagreement
                _merge(taken, accuracy.measure(subject))
            else:
                more: dict[str, dict[str, Any]] = {"gpu": {"timed": timer is not None}}
                if timer is not None:
                    more["time"] = {"timer": timer, "first_call_seconds": first_call}
                _take(taken, subject, families, more)
                if taken.wrong:
                    status, reason = "wrong", taken.wrong
        except UnsupportedError as error:
            status, reason = "unsupported", error.reason
        except Exception as error:
            status, reason = ("oom" if is_out_of_memory(error) else "failed"), describe(error)
            taken.details["traceback"] = traceback.format_exc(limit=-6)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not in_child:
                raise
            status = "failed"
            reason = f"{describe(error)}: the problem ended the program; have f return, or raise an Exception"
    said = sorted({f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught if str(w.message)})
    if said:
        taken.details["warnings"] = said[:5]
    told = [*(f"{what}, when its file was loaded" for what in problems.set_by_files()), *changed]
    if told:
        taken.details["changed"] = [*taken.details.get("changed", []), *told][:5]
        if status != "ok":  # which may well be why
            reason += f"; meanwhile the problem {', '.join(changed[:5])}"
    numbers = {name: value for name, value in taken.values.items() if not isinstance(value, Missing)}
    missing = {name: value.reason for name, value in taken.values.items() if isinstance(value, Missing)}
    return schema.row(
        cell,
        status=status,
        reason=reason,
        numel=subject.instance.x.numel() if subject is not None else None,
        started=started.isoformat(timespec="seconds"),
        wall_seconds=time.perf_counter() - clock,
        metrics=numbers,
        missing=missing,
        details=taken.details,
    )


def _take(taken: Readings, subject: Subject, families: Sequence[str], more: Mapping[str, Mapping[str, Any]]) -> None:
    """Read the wanted families in a fixed order; one that fails is missing with its error, the others stand."""
    for name, family in metrics.families().items():
        if subject.cell.device not in getattr(family, "DEVICES", (subject.cell.device,)):
            continue
        if subject.peer is None and hasattr(family, "PEERS_ONLY"):
            continue
        if subject.prepared is None and hasattr(family, "PREPARED_ONLY"):
            continue
        if name not in families:
            taken.values.update({metric.name: Missing(schema.NOT_ASKED) for metric in family.METRICS})
        elif subject.unseen is not None and hasattr(family, "PYTORCH_ONLY"):
            taken.values.update({metric.name: Missing(subject.unseen) for metric in family.METRICS})
        elif name == "time" and name not in more:
            taken.values.update({metric.name: Missing("not timed: no timer was given") for metric in family.METRICS})
        else:
            try:
                read = family.measure(subject, **more.get(name, {}))
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                why = Missing(f"the instrument failed: {describe(error)}")
                read = Readings({metric.name: why for metric in family.METRICS})
            _merge(taken, read)


def _merge(into: Readings, more: Readings) -> None:
    into.values.update(more.values)
    into.details.update(more.details)
    into.wrong = into.wrong or more.wrong


called.as_function(__name__, "hograd_bench.interactive:measure")
