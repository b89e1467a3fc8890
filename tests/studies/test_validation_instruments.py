"""The deterministic metrics in fresh processes, and allocator events against memray."""

from __future__ import annotations

import copy
import sys

import pytest
from hograd_bench import measure
from hograd_bench.cells import Cell
from studies.validation import determinism

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

TENSOR, PRODUCT, DIRECTIONAL = "derivative_tensor", "derivative_vector_product", "directional_derivative"
CELLS = [
    Cell(TENSOR, "rows", "mlp", 8),
    Cell(TENSOR, "func_hessian", "mlp", 8),
    Cell(TENSOR, "batched_rows", "rosenbrock", 8),
    Cell(TENSOR, "functional_vectorized", "log_sum_exp", 8),
    Cell(PRODUCT, "double_backward", "mlp_loss", 8, batch=4),
    Cell(PRODUCT, "double_backward", "conv_loss", 8, batch=4),
    Cell(PRODUCT, "double_backward", "sdpa_attention_loss", 8, batch=4),
    Cell(PRODUCT, "jvp_of_grad", "attention_loss", 8, batch=4),
    Cell(PRODUCT, "grad_of_jvp", "mlp", 16, dtype="bfloat16"),
    Cell(PRODUCT, "jvp_of_grad", "sin_chain", 16, 3, 4, dtype="float64"),
    Cell(DIRECTIONAL, "nested_grad", "tanh_chain", 16, 4, 3),
    Cell(DIRECTIONAL, "nested_jvp", "polynomial", 8, 3),
]


@pytest.mark.slow
def test_fresh_processes_agree_whatever_ran_before() -> None:
    """Two processes: another hash seed, and the opposite order of cells."""
    forward = determinism.fresh(CELLS, hash_seed=1)
    backward = determinism.fresh(CELLS[::-1], hash_seed=4242)
    assert set(forward) == {cell.id for cell in CELLS}
    assert determinism.differences(forward, backward) == {}
    statuses = {figures["status"] for figures in forward.values()}
    assert statuses == {"ok", "unsupported"}
    ok = next(figures for figures in forward.values() if figures["status"] == "ok")
    assert {"peak_bytes", "relative_error", "aten_calls", "peak_attribution", "aten_by_op"} <= ok.keys()


def test_differences_are_found() -> None:
    cell = CELLS[0]
    ours = {cell.id: determinism.figures(measure.measure(cell, measure.DETERMINISTIC))}
    assert "peak_rss_bytes" not in ours[cell.id]
    theirs = copy.deepcopy(ours)
    assert determinism.differences(ours, theirs) == {}
    theirs[cell.id]["peak_bytes"] += 1
    theirs[cell.id]["peak_attribution"][0]["blocks"] += 1
    assert determinism.differences(ours, theirs) == {cell.id: ["peak_attribution", "peak_bytes"]}
    assert determinism.differences(ours, {}) == {cell.id: ["cell"]}


@pytest.mark.slow
def test_what_no_process_can_measure_is_a_figure_too() -> None:
    cells = [Cell(TENSOR, "rows", "no_such_problem", 2), Cell(TENSOR, "rows", "mlp", 2, preparation="none_such")]
    first, second = determinism.fresh(cells, 0).values()
    assert first["status"] == second["status"] == "skipped"
    assert "no_such_problem" in first["reason"]
    assert "got preparation 'none_such'" in second["reason"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memray needs Linux or macOS")
@pytest.mark.parametrize("name", ["mm 400", "solve 400", "eigh 400", "fft 2¹⁸", "sort 10⁶", "conv2d and its gradient"])
def test_events_equal_memray_to_the_byte(name: str) -> None:
    pytest.importorskip("memray")
    from studies.validation import native

    found = native.peaks(native.operators()[name])
    assert found.events == found.aligned
    assert found.everything >= found.aligned


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memray needs Linux or macOS")
def test_cells_equal_memray_to_the_byte_and_scratch_shows() -> None:
    pytest.importorskip("memray")
    from studies.validation import native

    for cell in native.CELLS[:2]:
        found = native.cell_peaks(cell)
        assert found.events == found.aligned > 0
    # LAPACK's work space for the SVD is of the size of the matrix and outside PyTorch's allocator.
    svd = native.peaks(native.operators()["svd 400"])
    assert svd.events == svd.aligned
    assert svd.everything - svd.events > 400 * 400 * 4
