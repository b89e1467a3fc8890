"""Blocks against the whole matrix, at the cost of the block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_fakes import normal
from hograd_bench.metrics._allocations import trace
from torch import Tensor, nn

import hograd_core as h
from hograd_core.curvature import extreme_eigenpairs, fisher, groups_of, hessian_blocks, model_blocks
from hograd_core.curvature._estimators import hutchinson_trace

F64 = torch.float64


torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
LOSS, INPUTS, LABELS = nn.CrossEntropyLoss(), normal(6, 3), torch.arange(6) % 2
# Rows of the groups in the flat order of the parameters.
LAYERS = {"0": slice(0, 16), "2": slice(16, 26)}
WAYS: dict[str, Any] = {
    "parameter": (
        "parameter",
        {"0.weight": slice(0, 12), "0.bias": slice(12, 16), "2.weight": slice(16, 24), "2.bias": slice(24, 26)},
    ),
    "layer": ("layer", LAYERS),
    "groups": (
        {"biases": ["2.bias"], "first": ("0.weight", "0.bias")}, {"biases": slice(24, 26), "first": slice(0, 16)},
    ),
}  # fmt: skip


def made(kind: str, **how: Any) -> tuple[dict[tuple[str, str], Any], Tensor]:
    if kind == "hessian":
        f, x = h.from_module(NET, LOSS, (INPUTS, LABELS), flat=False)
        return hessian_blocks(f, x, **how), h.hessian(f, x, flat=True)
    whole = {"gauss_newton": h.gauss_newton_matrix, "fisher": h.fisher_matrix}[kind]
    return model_blocks(NET, LOSS, INPUTS, LABELS, matrix=kind, **how), whole(NET, LOSS, INPUTS, LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton", "fisher"])
def test_blocks_are_those_of_the_whole_matrix(kind: str, way: str) -> None:
    by, rows = WAYS[way]
    blocks, whole = made(kind, by=by, pairs="all")
    assert set(blocks) == {(a, b) for a in rows for b in rows}
    for (a, b), block in blocks.items():
        true = whole[rows[a], rows[b]]
        assert block.shape == true.shape
        torch.testing.assert_close(block.matrix(), true)
        v = normal(true.shape[1], seed=4)
        torch.testing.assert_close(block @ v, true @ v)
        if a != b:
            with pytest.raises(ValueError, match=f"trace: got the block of {a} and {b}, expected one on the diagonal"):
                block.trace()
            continue
        torch.testing.assert_close(block.trace(), true.trace())
        torch.testing.assert_close(block.eigenvalues(), torch.linalg.eigvalsh(true))
        if a != next(iter(rows)):
            continue
        pairs = extreme_eigenpairs(block.diagonal, tolerance=1e-10)
        torch.testing.assert_close(pairs.values[-1], torch.linalg.eigvalsh(true)[-1])
        estimate = hutchinson_trace(block.diagonal, probes=20, seed=0)
        assert abs(float(estimate.value - true.trace())) <= 8 * float(estimate.standard_error) + 1e-12


def test_the_diagonal_is_what_is_made_unless_asked_for_more() -> None:
    assert list(made("hessian", by="layer")[0]) == [("0", "0"), ("2", "2")]
    assert list(made("fisher", by="layer", pairs=[("0", "2")])[0]) == [("0", "2")]


@pytest.mark.slow
def test_of_data_sets_and_further_arguments() -> None:
    f, x = h.from_module(NET, LOSS, batches=[(INPUTS[:2], LABELS[:2]), (INPUTS[2:], LABELS[2:])], flat=False)
    whole = made("hessian")[1]
    torch.testing.assert_close(hessian_blocks(f, x, by="layer")["2", "2"].matrix(), whole[16:, 16:])
    x = {"a": normal(2), "b": normal(2)}
    blocks = hessian_blocks(lambda p, s: s * (p["a"] ** 3 * p["b"] ** 2).sum(), x, args=(2.0,), pairs=[("a", "b")])
    torch.testing.assert_close(blocks["a", "b"].matrix(), torch.diag(12 * normal(2) ** 2 * normal(2)))


def test_a_block_costs_what_it_is() -> None:
    """The memory of a product with a small block is far below that of the whole."""
    net = nn.Sequential(nn.Linear(3, 400), nn.Tanh(), nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 2)).double()
    f, x = h.from_module(net, LOSS, (INPUTS, LABELS), flat=False)
    block = hessian_blocks(f, x, by={"last": ["4.bias"]})["last", "last"]
    v, u = torch.ones(2, dtype=F64), {name: torch.ones_like(p) for name, p in x.items()}
    for call in (lambda: block @ v, lambda: h.hvp(f, x, u)):
        call()
    assert trace(lambda: block @ v).peak_bytes < trace(lambda: h.hvp(f, x, u)).peak_bytes / 10


def test_groups_are_names_and_each_is_in_one() -> None:
    names = ["layers.0.weight", "layers.0.bias", "scale"]
    assert groups_of(names, "layer") == {"layers.0": ("layers.0.weight", "layers.0.bias"), "scale": ("scale",)}
    for by, message in (
        ("rows", "by: got 'rows', expected 'parameter', 'layer' or a mapping"),
        ({"a": ["other"]}, r"by: got \['other'\] names, expected some of layers.0.weight"),
        ({"a": ["scale"], "b": ["scale"]}, r"by: got \['scale'\] in two groups"),
    ):
        with pytest.raises(ValueError, match=message):
            groups_of(names, by)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pairs: got \('0', '9'\), expected groups of 0, 2"):
        made("hessian", by="layer", pairs=[("0", "9")])
    with pytest.raises(ValueError, match="matrix: got 'hessian', expected one of gauss_newton, fisher; of a function"):
        model_blocks(NET, LOSS, INPUTS, LABELS, matrix="hessian")


def test_what_cannot_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever all entries of a matrix are formed: before the first product or score, let alone the last."""
    monkeypatch.setattr(fisher, "sample_rows", lambda *_: pytest.fail("12 GB of scores of 1000 outcomes"))
    wide = {"a": torch.zeros(2_000_000), "b": torch.zeros(2_000_000)}
    blocks = hessian_blocks(lambda p: (p["a"] * p["b"]).sum(), wide, pairs="all")
    for form in (blocks["a", "a"].matrix, blocks["a", "b"].matrix, blocks["b", "b"].eigenvalues):
        with pytest.raises(h.MemoryBudgetError, match=r"the block of . and .: the result alone needs 14\.6 TiB"):
            form()
    net = nn.Sequential(nn.Linear(3000, 1000))
    n = sum(p.numel() for p in net.parameters())
    data = (net, LOSS, torch.zeros(1, 3000), torch.zeros(1, dtype=torch.long))
    with pytest.raises(h.MemoryBudgetError, match=r"the Fisher matrix: the result alone needs 32\.8 TiB"):
        h.inverse_fisher_vector_product(*data, torch.zeros(n), 1.0, method="dense")
