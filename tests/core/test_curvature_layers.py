"""Squares of per-sample gradients without these gradients: where they hold, and where they must not be used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hograd_core import empirical_fisher_diagonal, fisher_diagonal, gauss_newton_vector_product, gradient
from hograd_core.curvature._layers import squared_gradients
from hograd_core.curvature._model import check_model


class Tied(nn.Module):
    """A weight that is used by its layer and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.layer(x)), self.layer.weight)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layer(torch.tanh(self.layer(x))))
        return out


class PositionsFirst(nn.Module):
    """A layer that sees as many positions as there are samples, positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.tanh(self.layer(x[:, None, :] * torch.arange(1.0, 6.0, dtype=x.dtype)[:, None]).transpose(0, 1))
        out: Tensor = self.last(torch.relu(each)).square().mean(0)
        return out


class Sequence(nn.Module):
    """Layers on several positions of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.tanh(self.layer(x[:, None, :] * torch.arange(1.0, 6.0, dtype=x.dtype)[:, None]))
        out: Tensor = self.last(each).sin().mean(1)
        return out


class Keywords(nn.Module):
    """A layer that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(input=x)
        return out


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 5, (1, 3), padding="same"), nn.ReLU(inplace=True), nn.Conv2d(5, 2, 1),
        nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 3),
    )  # fmt: skip


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    module[0].register_forward_hook(lambda layer, arguments, output: 2 * output)
    return module


# Each with the number of its parameters that need gradients of samples.
MODULES = {
    "plain": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), 0),
    "tied": (Tied, 9),
    "twice": (Twice, 12),
    "hooked": (hooked, 16),
    "positions first": (PositionsFirst, 15),  # of its last layer; before it samples are first
    "sequence": (Sequence, 0),
    "keywords": (Keywords, 12),
    "convolutional": (convolutional, 12),  # of the norm
}
N = 5


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    module = MODULES[name][0]().to(dtype)
    return module, torch.randn(N, 3, dtype=dtype), torch.randint(3, (N,))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", MODULES)
def test_layers_give_what_gradients_of_samples_give(name: str, reduction: str) -> None:
    module, inputs, targets = made(name)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    for operator, method in ((empirical_fisher_diagonal, "per_sample_vmap"), (fisher_diagonal, "expectation")):
        true = operator(module, loss, inputs, targets, method=method)
        found = operator(module, loss, inputs, targets, method="layers")
        torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_samples_are_written_out_only_where_they_must_be(name: str) -> None:
    module, inputs, targets = made(name)
    model = check_model(module, nn.CrossEntropyLoss(), inputs, targets, per_sample=True)
    sums, known = squared_gradients(model, lambda value, _: (value, None))
    unknown = torch.zeros_like(sums, dtype=torch.bool) if known is None else ~known
    assert int(unknown.sum()) == MODULES[name][1]
    assert not bool(sums[unknown].any())


def test_a_loss_that_looks_at_the_weights_is_noticed() -> None:
    module, inputs, targets = made("plain")

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + module[0].weight.square().sum()

    true, found = (
        empirical_fisher_diagonal(module, loss, inputs, targets, method=m) for m in ("per_sample_loop", "layers")
    )
    torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-14)


def test_memory_of_many_positions_is_bounded_and_the_sum_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, targets = made("sequence")
    whole = empirical_fisher_diagonal(module, nn.CrossEntropyLoss(), inputs, targets, method="layers")
    monkeypatch.setattr("hograd_core.curvature._layers._MOST", 24)
    parts = empirical_fisher_diagonal(module, nn.CrossEntropyLoss(), inputs, targets, method="layers")
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


def test_inside_a_larger_derivative_the_result_stays_differentiable() -> None:
    module, inputs, targets = made("plain")

    def total(method: str) -> Tensor:
        def of(x: Tensor) -> Tensor:
            return empirical_fisher_diagonal(module, nn.CrossEntropyLoss(), x, targets, method=method).sum()

        return gradient(of, inputs)

    torch.testing.assert_close(total("layers"), total("per_sample_vmap"))


SOFT = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64).expand(N, 3)  # of sum 3.5, which the Hessian scales with
LOSSES = {
    "cross entropy": (nn.CrossEntropyLoss(), None),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), None),
    "summed": (nn.CrossEntropyLoss(reduction="sum"), None),
    "weighted": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), None),
    "ignoring": (nn.CrossEntropyLoss(ignore_index=1), None),
    "soft targets": (nn.CrossEntropyLoss(), SOFT),
    "squared": (nn.MSELoss(), SOFT),
    "logistic": (nn.BCEWithLogitsLoss(), SOFT),
    "other": (nn.SmoothL1Loss(beta=5.0), SOFT),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_products_are_those_of_the_loss_given(name: str) -> None:
    loss, soft = LOSSES[name]
    module, inputs, labels = made("plain")
    targets = labels if soft is None else soft
    v = torch.randn(sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    for method in ("jvp_vjp", "double_vjp"):
        found = gauss_newton_vector_product(module, loss, inputs, targets, v, method=method)
        # By definition: J^T H J v, H by torch.autograd.functional, which no method here uses.
        parameters = dict(module.named_parameters())

        def outputs(flat: Tensor, parameters: dict[str, nn.Parameter] = parameters) -> Tensor:
            parts = flat.split([p.numel() for p in parameters.values()])
            named = {k: t.view_as(p) for (k, p), t in zip(parameters.items(), parts, strict=True)}
            return torch.func.functional_call(module, named, (inputs,)).reshape(-1)

        flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
        jacobian = torch.autograd.functional.jacobian(outputs, flat)
        curvature = torch.autograd.functional.hessian(lambda z: loss(z.reshape(N, 3), targets), outputs(flat).detach())
        torch.testing.assert_close(found, jacobian.T @ (curvature @ (jacobian @ v)), rtol=1e-9, atol=1e-12)
