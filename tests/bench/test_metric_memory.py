"""The memory family on cells, saved tensors, and peak RSS in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hograd_bench.cells import Cell
from hograd_bench.engine import Host, Local, Task
from hograd_bench.metrics import Missing, Subject, memory, resident
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._saved import Saved, saved_for_backward
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

HVP = "derivative_vector_product"
N, B = 100, 400


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        (HVP, "double_backward"),
        (HVP, "jvp_of_grad"),
        ("derivative_tensor", "rows"),
        ("derivative_tensor", "func_hessian"),
    ],
)
def test_every_metric_and_the_sum_of_the_attribution(operator: str, method: str) -> None:
    cell = Cell(operator, method, "mlp", 12)
    read = memory.measure(Subject(cell))
    assert set(read.values) == {metric.name for metric in memory.METRICS}
    rows = read.details["peak_attribution"]
    assert sum(row["bytes"] for row in rows) == read.values["peak_bytes"] > 0
    assert set(rows[0]) == {"phase", "op", "within", "bytes", "blocks"}
    numel = 12 if operator == HVP else 144
    assert read.values["result_bytes"] == read.values["returned_bytes"] == 4 * numel
    assert read.values["retained_bytes"] == 0
    assert read.values["peak_bytes"] <= read.values["total_bytes"]


def test_hooks_are_missing_with_pytorchs_reason_where_barred() -> None:
    for method, barred in (("double_backward", False), ("jvp_of_grad", True), ("vjp_of_grad", True)):
        read = memory.measure(Subject(Cell(HVP, method, "mlp", 4)))
        for name in ("saved_bytes", "saved_new_bytes"):
            value = read.values[name]
            assert isinstance(value, Missing) == barred
            if isinstance(value, Missing):
                assert "saved tensor hooks" in value.reason


def test_a_long_attribution_is_cut_and_keeps_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(Cell(HVP, "double_backward", "mlp", 12, 3))
    whole = memory.measure(subject).details["peak_attribution"]
    monkeypatch.setattr(memory, "ATTRIBUTION_ROWS", 4)
    cut = memory.measure(subject).details["peak_attribution"]
    assert len(cut) == 4 < len(whole)
    assert cut[:3] == whole[:3]
    assert cut[3]["op"] == f"{len(whole) - 3} rows"
    assert cut[3]["bytes"] == sum(row["bytes"] for row in whole[3:])
    assert cut[3]["blocks"] == sum(row["blocks"] for row in whole[3:])


def chain(x: Tensor, depth: int) -> Tensor:
    for _ in range(depth):
        x = x.sin()
    return x.sum()


@pytest.mark.parametrize("depth", [1, 5])
def test_saved_bytes_of_a_chain(depth: int) -> None:
    """Each sin saves its input: x, which is older, and depth - 1 results. The sum saves only a shape."""
    x = torch.ones(N, requires_grad=True)
    assert saved_for_backward(lambda: chain(x, depth)) == Saved(depth * B, B, depth)


def test_saved_storages_count_once() -> None:
    x = torch.ones(N, requires_grad=True)
    # x is saved three times, once through a view; the product saves both factors.
    assert saved_for_backward(lambda: x.sin() * x[:N].cos()) == Saved(3 * B, B, 4)
    # Nothing is saved without a tape.
    assert saved_for_backward(lambda: chain(torch.ones(N), 3)) == Saved(0, 0, 0)


def test_saved_bytes_under_vmap_and_second_order() -> None:
    x = torch.ones(N, requires_grad=True)

    def rows() -> Tensor:
        (g,) = torch.autograd.grad(chain(x, 1), x, create_graph=True)
        (h,) = torch.autograd.grad(g, x, torch.eye(N), is_grads_batched=True)
        return h

    # x by sin, by cos; the backward's product saves the cotangent, one number expanded.
    # (The product's other factor cos x is not saved: the cotangent needs no gradient.)
    assert saved_for_backward(rows) == Saved(B + 4, B, 3)


def test_the_hooks_keep_no_graph_alive() -> None:
    x = torch.ones(N, requires_grad=True)

    def call() -> None:
        saved_for_backward(lambda: torch.autograd.grad(x.exp().sum(), x, create_graph=True))

    call()
    assert trace(call).retained_bytes == 0


def test_unseen_needs_both_thresholds() -> None:
    mebibyte = 2**20
    assert resident.unseen(0, mebibyte) == 0
    assert resident.unseen(0, mebibyte + 1) == mebibyte + 1
    assert resident.unseen(100 * mebibyte, 104 * mebibyte) == 0
    assert resident.unseen(100 * mebibyte, 106 * mebibyte) == 6 * mebibyte
    assert resident.unseen(10 * mebibyte, mebibyte) == 0


PROBLEM = """
import torch
from hograd_bench.problems import Instance, problem

@problem("resident", formula="f(x) = sum over x of a planted size", source="test", family="dense", sizes={"n": "MiB"})
def resident(spec, draw):
    planted = spec.n * 2**18

    def f(x):
        return (x * torch.ones(planted)).sum()

    return Instance(f, draw.normal(1))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak RSS is read from /proc")
def test_peak_rss_sees_a_planted_block(tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text(PROBLEM, encoding="utf-8")
    host = Host(problem_files=(str(path),), variables=resident.VARIABLES)
    tasks = [Task(Cell("gradient", "autograd", "resident", n), ("resident",), host, alone=True) for n in (1, 33)]
    rises = [event.row["metrics"]["peak_rss_bytes"] for event in Local().run(tasks) if event.row is not None]
    # 64 MiB more: ones and their product; but for two huge pages, where small blocks get them too.
    assert abs(rises[1] - rises[0] - 64 * 2**20) <= 4 * 2**20


@pytest.mark.slow
def test_without_a_high_water_mark_the_reason_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resident, "_CLEAR", tmp_path / "none" / "clear_refs")
    read = resident.measure(Subject(Cell(HVP, "double_backward", "mlp", 4)))
    for name in ("peak_rss_bytes", "unseen_bytes"):
        value = read.values[name]
        assert isinstance(value, Missing)
        assert value.reason.startswith("the high-water mark of resident memory cannot be reset and read (needs Linux)")
