"""Results for the report's tests: small, with known growth, written as the store writes them."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hograd_bench import schema
from hograd_bench.cells import Cell

MACHINE = "test-machine-0123456789"
EVIL = "<img src=x onerror=alert(1)>$\\frac{\"'"
METHODS = {"double_backward": (1.0, 4), "jvp_of_grad": (2.5, 8), "functional_vhp": (1.4, 3)}
ENVIRONMENT: dict[str, Any] = {
    "schema": 1,
    "machine": MACHINE,
    "recorded": "2026-01-02T03:04:05+00:00",
    "source": {"commit": "a" * 40, "version": "0.1.0"},
    "torch": {"version": "2.13.0", "commit": "b" * 40, "capability": "AVX2", "build_hash": "c"},
    "cpu": {"model": "Test CPU", "logical": 2},
    "gpus": [],
    "ceilings": {
        "cpu": {
            "1": {"copy_bytes_per_s": 1e10, "cached_copy_bytes_per_s": 4e10, "matmul_flop_per_s": {"float32": 5e10}}
        }
    },
}


def metrics(scale: float, coefficient: int, n: int, depth: int, order: int) -> dict[str, Any]:
    """Plausible metrics: time affine in n, bytes an exact law in n and T."""
    seconds = scale * (1e-4 + 1e-6 * n * depth * order)
    return {
        "seconds_min": seconds,
        "gradient_equivalents": scale * order,
        "peak_bytes": 4 * n * (coefficient * depth * order + 3),
        "total_bytes": 40 * n * depth,
        "allocations": 7 * depth,
        "aten_calls": 9 * depth * order,
        "relative_error": 3e-8 * order,
        "tolerance": 1e-4,
        "flops": 10 * n * depth,
        "moved_bytes": 40 * n * depth,
    }


def rows(run: str, *, extra: int = 0, evil: bool = False) -> list[dict[str, Any]]:
    """One run: HVPs of two problems over n, orders over T, a Hessian, and a row of every bad status."""
    made = []

    def add(cell: Cell, *, status: str = "ok", reason: str = "", values: Mapping[str, Any] | None = None) -> None:
        details = {
            "samples_seconds": [values["seconds_min"] * (1 + i / 10) for i in range(7)] if values else [],
            "peak_attribution": [
                {"phase": "forward", "op": "aten::mul", "within": "aten::mul", "bytes": 64, "blocks": 2},
                {"phase": "backward 1", "op": EVIL if evil else "aten::sin", "within": "x", "bytes": 32, "blocks": 1},
            ],
        }
        made.append(
            schema.row(
                cell, status=status, reason=reason, metrics=values, missing={"peak_rss_bytes": "not requested"},
                numel=cell.n, started="2026-01-02T03:04:05+00:00", wall_seconds=0.5, details=details, run=run,
            )
        )  # fmt: skip

    first = EVIL if evil else "mlp"
    for method, (scale, coefficient) in METHODS.items():
        for problem in (first, "sin_chain"):
            for n in (8, 32, 128, 512):
                cell = Cell("derivative_vector_product", method, problem, n)
                values = metrics(scale, coefficient, n, 1, 2)
                values["peak_bytes"] += extra
                add(cell, values=values)
        for order in (1, 2, 3):
            for depth in (2, 4, 6, 8, 12):
                cell = Cell("derivative_vector_product", method, "sin_chain", 16, order, depth)
                add(cell, values=metrics(scale, coefficient, 16, depth, order))
    for method in ("rows", "vmap_hvp"):
        for n in (8, 32, 128, 512):
            values = metrics(n / 4 if method == "rows" else n / 16, n, n, 1, 2)
            add(Cell("derivative_tensor", method, first, n), values=values)
    for status in ("unsupported", "failed", "timeout"):
        cell = Cell("derivative_vector_product", "jvp_of_grad", f"bad_{status}", 8)
        add(cell, status=status, reason=f"{EVIL}</script><script>alert(2)</script> of n=8")
    return made


GPUS = {"gpu-machine-aaaaaaaaaa": ("NVIDIA H100 80GB HBM3", 40.0), "gpu-machine-bbbbbbbbbb": ("NVIDIA L4", 8.0)}


def gpu_rows(run: str, speed: float) -> list[dict[str, Any]]:
    """The rows of a run on a GPU that computes ``speed`` times as fast, after 30 µs of launching."""
    made = []
    for row in rows(run):
        cell = Cell(**{name: row[name] for name in schema.CELL_FIELDS} | {"device": "cuda"})
        values, missing = dict(row["metrics"]), dict(row["missing"])
        if row["status"] == "ok":
            seconds = 3e-5 + values["seconds_min"] / speed
            requested = values["peak_bytes"]
            values |= {
                "seconds_min": seconds, "peak_bytes": -(-requested // 512) * 512,
                "cuda_warm_seconds_min": 0.8 * seconds, "cuda_cold_seconds_min": 1.3 * seconds,
                "cuda_peak_requested_bytes": requested, "cuda_peak_allocated_bytes": -(-requested // 512) * 512,
                "cuda_peak_reserved_bytes": 2 << 20, "gpu_watts": 10 * speed, "gpu_sm_mhz": 1980, "gpu_celsius": None,
                "gpu_throttling": "none", "gpu_joules_per_call": 10 * speed * seconds,
            }  # fmt: skip
            missing["gpu_celsius"] = "NVML does not report a temperature"
        made.append(
            schema.row(
                cell, row["status"], row["reason"], metrics=values, missing=missing, numel=cell.n, run=run,
                started=row["started"], wall_seconds=0.5, details=row["details"],
            )
        )  # fmt: skip
    return made


def write(results: Path, run: str, made: list[dict[str, Any]], machine: str = MACHINE, **environment: Any) -> Path:
    """A run on disk."""
    folder = results / machine / run
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text(json.dumps({**ENVIRONMENT, **environment}), encoding="utf-8")
    (folder / "rows.jsonl").write_bytes(b"".join(schema.encode(r) for r in made))
    return folder


class Page(html.parser.HTMLParser):
    """Tags, ids and links of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag in ("a", "use") and found.get("href"):
            self.links.append(str(found["href"]))

    def handle_data(self, data: str) -> None:
        self.text.append(data)
