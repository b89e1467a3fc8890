"""Prepared operators on models: right for other batches and weights, and the eager way where a trace does not hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import close, every
from torch import Tensor, nn

import hograd_core as h
from hograd_core import prepare

N = 5
LABELS = torch.tensor([0, 2, 1, 1, 0])
OPERATORS = [
    (h.gauss_newton_vector_product, "double_vjp"),
    (h.fisher_vector_product, "jvp_vjp"),
    (h.empirical_fisher_diagonal, "layers"),
    (h.fisher_diagonal, "layers"),
    (h.fisher_diagonal, "expectation"),
    (h.empirical_fisher_diagonal, "per_sample_loop"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)).to(F64)


class Tied(nn.Module):
    """A weight that is used beside its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) @ self.layer.weight


def batch(seed: int) -> tuple[Tensor, Tensor]:
    return normal(N, 3, seed=seed), LABELS.roll(seed)


def directions(operator: Any, module: nn.Module, seed: int = 5) -> tuple[Tensor, ...]:
    return (normal(sum(p.numel() for p in module.parameters()), seed=seed),) if "v" in operator.inputs else ()


@pytest.mark.slow
@every
@pytest.mark.parametrize(("operator", "method"), OPERATORS)
def test_other_batches_directions_and_weights(operator: Any, method: str, preparation: str) -> None:
    module, loss = network(), nn.CrossEntropyLoss()
    p = prepare(
        operator, module, loss, *batch(1), *directions(operator, module), method=method, preparation=preparation
    )
    assert (p.preparation, p.reason) == (preparation, None)
    for seed in (2, 3):
        given = (*batch(seed), *directions(operator, module, seed))
        assert close(p(*given), operator(module, loss, *given))
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(1.5)
    assert p.traces == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "loss"),
    [(h.fisher_diagonal, nn.CrossEntropyLoss(reduction="sum")), (h.empirical_fisher_diagonal, nn.MSELoss())],
)
def test_convolutions_and_other_losses(operator: Any, loss: Any) -> None:
    module = convolutional()
    targets = normal(N, 3, seed=9) if isinstance(loss, nn.MSELoss) else LABELS
    p = prepare(operator, module, loss, normal(N, 3), targets, method="layers", preparation="graph")
    assert p.reason is None
    x = normal(N, 3, seed=2)
    assert close(p(x, targets), operator(module, loss, x, targets))


def test_labels_that_are_ignored_go_the_eager_way() -> None:
    module, loss = network(), nn.CrossEntropyLoss()
    x, labels = batch(1)
    ignoring = torch.where(labels == 1, -100, labels)
    v = directions(h.gauss_newton_vector_product, module)
    p = prepare(h.gauss_newton_vector_product, module, loss, x, labels, *v, method="double_vjp", preparation="graph")
    assert close(p(x, ignoring, *v), h.gauss_newton_vector_product(module, loss, x, ignoring, *v))
    assert close(p(x, labels, *v), h.gauss_newton_vector_product(module, loss, x, labels, *v))
    assert p.traces == 1
    q = prepare(h.fisher_diagonal, module, loss, x, labels, method="layers", preparation="graph")
    with pytest.raises(ValueError, match="ignored targets"):
        q(x, ignoring)


def test_a_weight_that_its_layer_does_not_explain_is_left_to_the_eager_method() -> None:
    module, loss = Tied().to(F64), nn.CrossEntropyLoss()
    p = prepare(h.empirical_fisher_diagonal, module, loss, *batch(1), method="layers", preparation="graph")
    assert p.preparation == "eager"
    assert p.reason is not None
    assert "does not hold" in p.reason
    assert close(p(*batch(2)), h.empirical_fisher_diagonal(module, loss, *batch(2)))


def test_what_hides_at_the_weights_of_the_trace_is_seen_later() -> None:
    module = network()
    with torch.no_grad():
        module[0].bias.zero_()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:  # at zero its second term has no gradient
        return nn.functional.cross_entropy(outputs, targets, reduction="sum") + module[0].bias.square().sum()

    given = batch(1)
    p = prepare(h.empirical_fisher_diagonal, module, loss, *given, method="layers", preparation="graph")
    with torch.no_grad():
        module[0].bias.add_(1.0)
    how = {"method": "layers"}
    try:
        expected = h.empirical_fisher_diagonal(module, loss, *given, **how)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:20]):
            p(*given)
    else:
        assert close(p(*given), expected)


@pytest.mark.slow
def test_changes_of_the_module_are_seen() -> None:
    module, loss = network(), nn.CrossEntropyLoss()
    given = batch(1)
    p = prepare(h.fisher_diagonal, module, loss, *given, method="layers", preparation="graph")
    module[1] = nn.ReLU()
    assert close(p(*given), h.fisher_diagonal(module, loss, *given))
    assert p.traces == 2
    shorter = given[0][:3], given[1][:3]
    assert close(p(*shorter), h.fisher_diagonal(module, loss, *shorter))


def test_what_is_missing_is_named() -> None:
    module, loss = network(), nn.CrossEntropyLoss()
    with pytest.raises(TypeError, match="takes module, loss, inputs, targets"):
        prepare(h.fisher_diagonal, module, loss)
    with pytest.raises(TypeError, match="inputs, targets, v: got 2"):
        prepare(h.gauss_newton_vector_product, module, loss, *batch(1))
    with pytest.raises(TypeError, match="one tensor each"):
        prepare(h.fisher_diagonal, module, loss, (normal(N, 3),), LABELS)
