"""Curvature of models refuses what it cannot take, naming the argument."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import coupled_loss, fill, labels, mlp, normal
from torch import nn

import hograd_core as hg

# Raised inside PyTorch by the first forward-mode call of a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"module": "net"}, TypeError, r"module: got str, expected a torch.nn.Module"),
        ({"module": nn.ReLU()}, ValueError, r"module: got no parameter"),
        ({"module": nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))}, ValueError, r"module: 1 is dropout in training"),
        ({"loss": 3}, TypeError, r"loss: got int"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, ValueError, r"loss: .*reduction"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]))}, ValueError, r"loss: got class weights"),
        ({"loss": nn.L1Loss()}, ValueError, r"loss: got L1Loss, expected nn.CrossEntropyLoss"),
        ({"inputs": [1.0]}, TypeError, r"inputs: got list"),
        ({"inputs": torch.zeros(0, 4)}, ValueError, r"inputs, targets: got first axes \[0, 6\]"),
        ({"inputs": torch.zeros(5, 4)}, ValueError, r"inputs, targets: got first axes \[5, 6\]"),
        ({"targets": 1}, TypeError, r"targets: got int"),
        ({"targets": torch.full((6,), -100)}, ValueError, r"ignored targets"),
        ({"inputs": torch.zeros(6, 4).double()}, TypeError, r"inputs: got dtype torch.float64, expected torch.float32"),
        ({"module": nn.Sequential(nn.Linear(4, 3), nn.RReLU())}, ValueError, r"module: 1 is a random RReLU"),
        (
            {"loss": F.mse_loss, "targets": torch.zeros(6, 1)},
            ValueError,
            r"targets: got shape \(6, 1\), expected \(6, 3\)",
        ),
        ({"module": nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3).double())}, TypeError, r"module: got parameters of"),
    ],
)
def test_refusals_name_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"module": nn.Linear(4, 3), "loss": F.cross_entropy, "inputs": torch.zeros(6, 4), "targets": labels(6)}
    with pytest.raises(error, match=message):
        hg.fisher_matrix(**{**arguments, **change})


@pytest.mark.parametrize("operator", [hg.empirical_fisher_diagonal, hg.empirical_fisher_matrix, hg.fisher_diagonal])
@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss, functools.partial(F.mse_loss, reduction="sum")])
def test_targets_that_broadcast_are_refused(operator: Any, loss: Any) -> None:
    # (6,) against (6, 1) compares every output with every target; per sample the mistake would not show.
    module = fill(nn.Linear(4, 1))
    for method in operator.methods:
        with pytest.raises(ValueError, match="targets: got shape"):
            operator(module, loss, normal(6, 4, seed=1), normal(6, seed=2), method=method)


def test_empirical_fisher_refuses_losses_that_couple_samples() -> None:
    with pytest.raises(ValueError, match="couple samples"):
        hg.empirical_fisher_matrix(mlp(), coupled_loss, normal(6, 4, seed=1), normal(6, 3, seed=3))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3], dtype=torch.float64))
    with pytest.raises(ValueError, match="couple samples"):
        hg.empirical_fisher_diagonal(mlp(), weighted, normal(6, 4, seed=1), labels(6))


@pytest.mark.parametrize(
    ("v", "error"),
    [(1.0, TypeError), (torch.zeros(3), ValueError), (torch.zeros(43), TypeError), ([0.0] * 43, TypeError)],
)
def test_a_vector_that_does_not_fit_is_named(v: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^v: got"):
        hg.gauss_newton_vector_product(mlp(), nn.MSELoss(), normal(6, 4, seed=1), normal(6, 3, seed=3), v)
