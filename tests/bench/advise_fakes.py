"""A function of 8 elements that nobody measured: its description, rows, and the advice that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hograd_bench import schema
from hograd_bench.advise import _plan
from hograd_bench.advise._advice import Advice, frame_of
from hograd_bench.cells import Cell
from hograd_bench.targets import Request

REQUEST = Request("lib/mine.py:make").to_json()


def described(**more: Any) -> dict[str, Any]:
    """Of a function of 8 elements, without the registries."""
    from hograd_bench.targets._describe import _operator

    import hograd_core

    return {
        "numel": 8, "shape": [8], "leaves": [], "form": "pair", "called": True,
        "has_args": False, "dtype": "float32", "device": "cpu",
        "parameter": "n", "n": 8, "law_sizes": [4, 6, 8, 10, 12, 14], "gradient_seconds": 1e-4, "hvp_seconds": 3e-4,
        "memory": 10_000, "signs": [], "function": "f0",
        "operators": {o.name: _operator(o) for o in hograd_core.operators().values()}, **more,
    }  # fmt: skip


def row(
    method: str, status: str = "ok", reason: str = "", *, n: int = 8, operator: str = "hessian", **metrics: Any
) -> Any:
    need = _plan.needs(described(), [operator])[0]
    cell = Cell(need.operator, method, "target", n, need.order)
    taken = {"seconds_min": 1e-3, "seconds_iqr": 0.0, "peak_bytes": 1000, "relative_error": 1e-7, "allowed": True}
    taken = {**taken, **metrics} if status == "ok" else {}
    return schema.row(cell, status, reason or None, metrics=taken, numel=n)


def advice(*rows: Any, names: Sequence[str] = ("hessian",), sizes: tuple[int, ...] = (), **more: Any) -> Advice:
    about = described(**more)
    return Advice(REQUEST, about, frame_of(rows), tuple(_plan.needs(about, names)), sizes)


def best(*rows: Any, **more: Any) -> str | None:
    (found,) = advice(*rows, **more).rankings
    return found.best and found.best.method
