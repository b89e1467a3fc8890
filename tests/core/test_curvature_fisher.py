"""The empirical Fisher as what it is in expectation, and per-sample gradients where axes have one size."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import normal
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import kfac


def filled(module: nn.Module) -> nn.Module:
    module = module.double()
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(normal(*p.shape, seed=100 + i) * 0.7)
    return module


def empirical(name: str, method: str, arguments: tuple[Any, ...]) -> Tensor:
    if name == "kfac":
        return kfac(*arguments, fisher="empirical").dense()
    matrix: Tensor = hg.operators()[name](*arguments, method=method)
    return matrix


def true(name: str, arguments: tuple[Any, ...]) -> Tensor:
    if name == "kfac":
        return kfac(*arguments).dense()
    diagonal: Tensor = hg.fisher_diagonal(*arguments, method="expectation")
    return diagonal if name == "empirical_fisher_diagonal" else hg.fisher_matrix(*arguments, method="jacobian")


WAYS = [
    ("empirical_fisher_matrix", "per_sample_vmap"),
    ("empirical_fisher_matrix", "per_sample_loop"),
    ("empirical_fisher_diagonal", "per_sample_vmap"),
    ("empirical_fisher_diagonal", "per_sample_loop"),
    ("kfac", ""),
]


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["classes", "positions", "bernoulli"])
@pytest.mark.parametrize(("name", "method"), WAYS)
def test_the_empirical_fisher_is_the_fisher_in_expectation_over_the_models_labels(
    name: str, method: str, kind: str, reduction: str
) -> None:
    """By enumeration of every labelling of two samples, each weighted by the probability the model gives it."""
    inputs = normal(2, 2, seed=1)
    outputs = {"classes": 3, "positions": 4, "bernoulli": 2}[kind]
    layers: list[nn.Module] = [nn.Linear(2, outputs)]
    if kind == "positions":
        layers.append(nn.Unflatten(1, (2, 2)))  # two classes at two positions
    module = filled(nn.Sequential(*layers))
    loss = (
        nn.BCEWithLogitsLoss(reduction=reduction) if kind == "bernoulli" else nn.CrossEntropyLoss(reduction=reduction)
    )
    shape = (2,) if kind == "classes" else (2, 2)
    z = module(inputs).detach()
    expected: Tensor | float = 0.0
    mass = 0.0
    for labelling in itertools.product(range(3 if kind == "classes" else 2), repeat=math.prod(shape)):
        labels = torch.tensor(labelling).reshape(shape)
        if kind == "bernoulli":
            targets: Tensor = labels.double()
            nll = F.binary_cross_entropy_with_logits(z, targets, reduction="sum")
        else:
            targets = labels
            nll = F.cross_entropy(z, targets, reduction="sum")
        probability = math.exp(-float(nll))
        expected = expected + probability * empirical(name, method, (module, loss, inputs, targets))
        mass += probability
    assert mass == pytest.approx(1.0)
    torch.testing.assert_close(expected, true(name, (module, loss, inputs, targets)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("name", "method"), WAYS)
def test_the_empirical_fisher_of_a_regression_with_several_outputs(name: str, method: str, reduction: str) -> None:
    """Targets z ± s e_j: the mean over them of a quadratic in the residual is that over N(z, 1/2), s² = outputs / 2."""
    module, inputs = filled(nn.Sequential(nn.Linear(2, 3))), normal(4, 2, seed=1)
    loss, z = nn.MSELoss(reduction=reduction), module(inputs).detach()
    terms = [
        empirical(name, method, (module, loss, inputs, z + sign * math.sqrt(1.5) * F.one_hot(torch.tensor(j), 3)))
        for j in range(3)
        for sign in (-1, 1)
    ]
    torch.testing.assert_close(torch.stack(terms).mean(0), true(name, (module, loss, inputs, z)))


@pytest.mark.parametrize("kind", ["weighted", "uneven"])
def test_means_without_a_per_sample_form_are_refused(kind: str) -> None:
    module, inputs = filled(nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (3, 2)))), normal(2, 2, seed=1)
    loss: nn.Module = nn.CrossEntropyLoss()
    targets = torch.tensor([[0, 1], [2, 0]])
    if kind == "weighted":
        loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    else:
        targets = torch.tensor([[0, 1], [2, -100]])
    with pytest.raises(ValueError, match="couple"):
        hg.empirical_fisher_matrix(module, loss, inputs, targets)
    evenly = torch.tensor([[0, -100], [2, -100]])
    kept = hg.empirical_fisher_matrix(module, nn.CrossEntropyLoss(), inputs, evenly)
    summed = hg.empirical_fisher_matrix(module, nn.CrossEntropyLoss(reduction="sum"), inputs, evenly)
    torch.testing.assert_close(2 * kept, summed)


# --- axes of one size ---------------------------------------------------------------------------------------


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "prelu": (nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4)), (4, 4)),
    "prelu of channels": (nn.Sequential(nn.Linear(4, 4), nn.PReLU(4), nn.Linear(4, 4)), (4, 4)),
    "prelu of images": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.PReLU(4), nn.Flatten(), nn.Linear(16, 4)),
        (4, 4, 2, 2),
    ),
    "group norm": (nn.Sequential(nn.Conv1d(4, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 4)), (4, 4, 4)),
    "layer norm": (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)), (4, 4)),
    "glu": (nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 4)), (4, 4)),
    "grouped": (nn.Sequential(nn.Conv1d(4, 4, 1, groups=4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)), (4, 4, 4)),
    "transposed": (nn.Sequential(nn.ConvTranspose1d(4, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)), (4, 4, 4)),
}


def one_by_one(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(outputs, J) with J of shape (N, outputs, P), a plain backward pass an entry."""
    parameters = list(module.parameters())
    rows = []
    for i in range(len(inputs)):
        outputs = module(inputs[i : i + 1])[0]
        grads = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in outputs]
        rows.append(torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in grads]))
    return module(inputs).detach(), torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [2, 4])
def test_fisher_and_natural_gradient_where_batch_outputs_and_channels_are_one_size(name: str, batch: int) -> None:
    module, shape = NETWORKS[name]
    module, inputs = filled(module), normal(batch, *shape[1:], seed=1)
    targets, loss = torch.arange(batch) % 4, nn.CrossEntropyLoss()
    arguments = (module, loss, inputs, targets)
    outputs, j = one_by_one(module, inputs)
    p = outputs.softmax(1)
    fisher = torch.einsum("ncp,ncd,ndq->pq", j, torch.diag_embed(p) - p[:, :, None] * p[:, None], j) / batch
    for method in ("expectation", "jacobian"):
        torch.testing.assert_close(hg.fisher_matrix(*arguments, method=method), fisher)
    torch.testing.assert_close(hg.fisher_diagonal(*arguments), fisher.diagonal())
    residual = p - F.one_hot(targets, 4)
    g = torch.einsum("ncp,nc->np", j, residual)
    torch.testing.assert_close(hg.empirical_fisher_matrix(*arguments), g.T @ g / batch)
    damped = fisher + 0.1 * torch.eye(len(fisher), dtype=torch.float64)
    for method in ("dense", "woodbury", "cg"):
        step = hg.natural_gradient_step(*arguments, 0.1, method=method)
        torch.testing.assert_close(step, -torch.linalg.solve(damped, g.mean(0)), rtol=1e-6, atol=1e-8)
    step = hg.natural_gradient_step(*arguments, 0.1, method="diagonal")
    torch.testing.assert_close(step, -g.mean(0) / damped.diagonal())


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x)[0][:, -1]
        return outputs


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_layers_that_cannot_be_vectorised_are_named_with_the_way_out(kind: type[nn.RNNBase]) -> None:
    module, inputs = filled(Recurrent(kind)), normal(4, 3, 2, seed=1)
    arguments = (module, nn.CrossEntropyLoss(), inputs, torch.tensor([0, 1, 2, 0]))
    for operator in (hg.empirical_fisher_matrix, hg.empirical_fisher_diagonal, hg.fisher_matrix, hg.fisher_diagonal):
        with pytest.raises(hg.UnsupportedError, match="per_sample_loop"):
            operator(*arguments)
    outputs, j = one_by_one(module, inputs)
    p = outputs.softmax(1)
    g = torch.einsum("ncp,nc->np", j, p - F.one_hot(arguments[3], 3))
    torch.testing.assert_close(hg.empirical_fisher_matrix(*arguments, method="per_sample_loop"), g.T @ g / 4)
    fisher = torch.einsum("ncp,ncd,ndq->pq", j, torch.diag_embed(p) - p[:, :, None] * p[:, None], j) / 4
    torch.testing.assert_close(hg.fisher_matrix(*arguments, method="jacobian"), fisher)
