"""f over one flat parameter vector is the module's loss, and leaves the module alone."""

from __future__ import annotations

import pytest
import torch
from core_fakes import squares
from torch import Tensor, nn

import hograd_core as h

F64 = torch.float64


class Tied(nn.Module):
    """Two layers of one weight, a frozen bias and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh()) + self.offset


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(4, 3, dtype=F64, generator=generator), torch.randn(4, 3, dtype=F64, generator=generator)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_value_and_gradient_are_the_modules() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = batch()
    f, x = h.from_module(module, squares, (inputs, targets))
    assert x.shape == (3 * 5 + 5 + 5 * 3 + 3,)
    assert x.dtype == F64
    assert not x.requires_grad
    loss = squares(module(inputs), targets)
    assert f(x).item() == loss.item()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
    torch.testing.assert_close(h.gradient(f, x), expected)


def test_tied_parameters_count_once_and_frozen_ones_not_at_all() -> None:
    module = Tied().double()
    inputs, targets = batch()
    f, x = h.from_module(module, squares, (inputs, targets))
    assert x.numel() == 9
    expected = torch.autograd.grad(squares(module(inputs), targets), module.first.weight)[0].flatten()
    torch.testing.assert_close(h.gradient(f, x), expected)
    # The tie holds at another point as well: both layers see it.
    other = x + 0.5
    with torch.no_grad():
        module.first.weight.copy_(other.view(3, 3))
        assert f(other).item() == squares(module(inputs), targets).item()


@pytest.mark.parametrize("method", list(h.derivative_vector_product.methods))
def test_the_module_stays_as_it_is(method: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double().train()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    inputs, targets = batch()
    before = state(module)
    f, x = h.from_module(module, squares, (inputs, targets))
    try:
        h.derivative_vector_product(f, x, torch.ones_like(x), 2, method=method)
    except h.UnsupportedError:
        # Batch norm in training is wrong there, and refused.
        assert method == "grad_of_jvp"
    after = state(module)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert all(p.grad is None for p in list(module.parameters())[1:])
    assert all(p.requires_grad for p in module.parameters())
    assert f(x).item() == f(x).item()


def test_the_point_is_a_copy() -> None:
    module = nn.Linear(2, 1, bias=False).double()
    _, x = h.from_module(module, squares, (torch.ones(1, 2, dtype=F64), torch.zeros(1, 1, dtype=F64)))
    x.zero_()
    assert module.weight.abs().sum() > 0


def test_a_shared_buffer_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, dtype=F64))
            self.register_buffer("count", torch.zeros(1, dtype=F64))
            self.also = nn.Module()
            self.also.register_buffer("count", self.count)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            self.count += 1
            return (self.scale * a * b).sum() * self.also.count[0]

    module = Two()
    a, b = torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, 4.0], dtype=F64)
    f, x = h.from_module(module, lambda out, target: out - target, ((a, b), torch.tensor(1.0, dtype=F64)))
    assert f(x).item() == f(x).item() == 10.0
    assert module.count.item() == 0


def test_made_in_inference_mode() -> None:
    with torch.inference_mode():
        module = nn.Linear(2, 1, bias=False).double()
        _, x = h.from_module(module, squares, (torch.ones(1, 2, dtype=F64), torch.zeros(1, 1, dtype=F64)))
    assert not x.is_inference()


@pytest.mark.parametrize(
    ("module", "loss", "error", "words"),
    [
        (lambda x: x, squares, TypeError, "module: got function"),
        (nn.Linear(2, 1), None, TypeError, "loss: got NoneType"),
        (nn.Tanh(), squares, ValueError, "module: got no parameter"),
        (nn.Linear(2, 1).requires_grad_(False), squares, ValueError, "unfreeze"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), squares, ValueError, "one dtype"),
        (nn.Linear(2, 1, dtype=torch.complex64), squares, TypeError, "complex64"),
    ],
)
def test_errors_name_the_argument(module: object, loss: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        h.from_module(module, loss, (torch.ones(1, 2), torch.zeros(1, 1)))  # type: ignore[arg-type]
