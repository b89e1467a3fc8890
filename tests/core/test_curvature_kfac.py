"""KFAC: where it is exact, how convolutions unfold, and its damped inverses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import filled, labels, normal
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import kfac
from hograd_core.curvature._layers import input_rows

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def diagonal_blocks(module: nn.Module, matrix: Tensor) -> Tensor:
    """The matrix with everything between layers set to zero."""
    sizes = [
        sum(p.numel() for p in layer.parameters()) for layer in module.modules() if len(list(layer.children())) == 0
    ]
    mask = torch.block_diag(*[torch.ones(s, s, dtype=matrix.dtype) for s in sizes if s])
    return matrix * mask


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), labels(1)),
        (nn.MSELoss(), normal(1, 3, seed=3)),
        (nn.BCEWithLogitsLoss(), normal(1, 3, seed=4).sigmoid()),
    ],
)
def test_blocks_are_exact_for_a_batch_of_one(loss: nn.Module, targets: Tensor) -> None:
    # The activation writes in place, over what a careless hook would have recorded.
    module, inputs = filled(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3, bias=False)), normal(1, 4, seed=1)
    fisher = hg.fisher_matrix(module, loss, inputs, targets)
    torch.testing.assert_close(kfac(module, loss, inputs, targets).dense(), diagonal_blocks(module, fisher))


def test_blocks_are_exact_for_a_deep_linear_network_under_squared_error() -> None:
    module, inputs, targets = (
        filled(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)),
        normal(9, 4, seed=1),
        normal(9, 3, seed=2),
    )
    fisher = hg.fisher_matrix(module, nn.MSELoss(), inputs, targets)
    torch.testing.assert_close(kfac(module, nn.MSELoss(), inputs, targets).dense(), diagonal_blocks(module, fisher))


def test_blocks_are_exact_for_a_deep_linear_network_with_a_target_at_every_position() -> None:
    """The expand setting: averaging G over positions and summing A is what makes the product right."""
    module, inputs, targets = filled(nn.Linear(4, 5), nn.Linear(5, 2)), normal(3, 7, 4, seed=1), normal(3, 7, 2, seed=2)
    fisher = hg.fisher_matrix(module, nn.MSELoss(), inputs, targets)
    torch.testing.assert_close(kfac(module, nn.MSELoss(), inputs, targets).dense(), diagonal_blocks(module, fisher))


def test_blocks_are_an_approximation_elsewhere() -> None:
    module, inputs, targets = filled(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), normal(32, 4, seed=1), labels(32)
    fisher = diagonal_blocks(module, hg.fisher_matrix(module, F.cross_entropy, inputs, targets))
    approximation = hg.fisher_matrix(module, F.cross_entropy, inputs, targets, method="kfac")
    error = float((approximation - fisher).norm() / fisher.norm())
    assert 1e-3 < error < 0.3


@pytest.mark.slow
def test_factors_of_one_linear_layer_by_hand() -> None:
    module, inputs, targets = filled(nn.Linear(4, 3)), normal(6, 4, seed=1), labels(6)
    (block,) = kfac(module, F.cross_entropy, inputs, targets).blocks
    ones = torch.cat([inputs, torch.ones(6, 1, dtype=torch.float64)], 1)
    p = module(inputs).softmax(1).detach()
    torch.testing.assert_close(block.inputs, ones.T @ ones / 6)
    torch.testing.assert_close(block.outputs, (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0))
    assert (block.layer, block.parameters) == ("0", ("0.weight", "0.bias"))
    (empirical,) = kfac(module, F.cross_entropy, inputs, targets, fisher="empirical").blocks
    residual = p - F.one_hot(targets, 3)
    torch.testing.assert_close(empirical.outputs, residual.T @ residual / 6)
    (drawn,) = kfac(module, F.cross_entropy, inputs, targets, fisher="monte_carlo", samples=5000).blocks
    assert (drawn.outputs - block.outputs).abs().max() < 0.01


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(2, 3, (2, 3), padding="same", bias=False),
        nn.Conv2d(2, 3, 2, padding="valid"),
        nn.Conv1d(2, 3, 3, stride=2, padding=1),
        nn.Conv1d(2, 3, 4, padding="same", dilation=2),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_a_convolution_is_the_product_of_its_unfolded_inputs(layer: nn.Conv1d | nn.Conv2d) -> None:
    layer = layer.double()
    received = normal(2, 2, *(7, 6)[: 2 if isinstance(layer, nn.Conv2d) else 1], seed=1)
    product = input_rows(layer, received) @ layer.weight.flatten(1).T
    if layer.bias is not None:
        product = product + layer.bias
    torch.testing.assert_close(product, layer(received).flatten(2).transpose(1, 2))


def test_a_convolution_over_the_whole_image_is_a_linear_layer() -> None:
    conv, linear = filled(nn.Conv2d(2, 3, 4), nn.Flatten()), filled(nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():
        linear[1].weight.copy_(conv[0].weight.flatten(1))
        linear[1].bias.copy_(conv[0].bias)
    inputs, targets = normal(5, 2, 4, 4, seed=1), labels(5)
    torch.testing.assert_close(
        kfac(conv, F.cross_entropy, inputs, targets).dense(),
        kfac(linear, F.cross_entropy, inputs, targets).dense(),
    )


def test_a_pointwise_convolution_is_a_linear_layer_on_a_sequence() -> None:
    class Mean(nn.Module):
        def __init__(self, axis: int) -> None:
            super().__init__()
            self.axis = axis

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(self.axis)

    conv, linear = filled(nn.Conv1d(4, 3, 1), Mean(2)), filled(nn.Linear(4, 3), Mean(1))
    with torch.no_grad():
        linear[0].weight.copy_(conv[0].weight[:, :, 0])
        linear[0].bias.copy_(conv[0].bias)
    inputs, targets = normal(5, 4, 6, seed=1), labels(5)
    torch.testing.assert_close(
        kfac(conv, F.cross_entropy, inputs, targets).dense(),
        kfac(linear, F.cross_entropy, inputs.transpose(1, 2), targets).dense(),
    )


@pytest.mark.parametrize("bias", [False, True])
def test_products_diagonal_and_inverses_match_the_dense_matrix(bias: bool) -> None:
    module = filled(nn.Conv2d(1, 2, 3, padding=1, bias=bias), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3, bias=bias))
    inputs, targets = normal(6, 1, 4, 4, seed=1), labels(6)
    factors = kfac(module, F.cross_entropy, inputs, targets)
    dense, v = factors.dense(), normal(sum(p.numel() for p in module.parameters()), seed=5)
    assert torch.equal(dense, diagonal_blocks(module, dense))
    torch.testing.assert_close(dense, dense.T)
    torch.testing.assert_close(factors.matvec(v), dense @ v)
    torch.testing.assert_close(factors.diagonal(), dense.diagonal())
    damped = dense + 0.1 * torch.eye(len(v), dtype=v.dtype)
    torch.testing.assert_close(factors.inverse(0.1).matvec(v), torch.linalg.solve(damped, v))


def test_the_methods_are_the_factors() -> None:
    model = (filled(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), F.cross_entropy, normal(5, 3, seed=1), labels(5))
    factors, v = kfac(*model), normal(31, seed=5)
    torch.testing.assert_close(hg.fisher_matrix(*model, method="kfac"), factors.dense())
    torch.testing.assert_close(hg.fisher_diagonal(*model, method="kfac"), factors.diagonal())
    torch.testing.assert_close(hg.fisher_vector_product(*model, v, method="kfac"), factors.matvec(v))
    inverse = hg.inverse_fisher_vector_product(*model, v, 0.1, method="kfac")
    torch.testing.assert_close(inverse, factors.inverse(0.1).matvec(v))


def test_factored_damping_is_the_product_of_damped_factors() -> None:
    module, inputs, targets = filled(nn.Linear(4, 3, bias=False)), normal(6, 4, seed=1), labels(6)
    factors = kfac(module, F.cross_entropy, inputs, targets)
    (block,) = factors.blocks
    pi = math.sqrt((block.inputs.trace() / 4) / (block.outputs.trace() / 3))
    a = block.inputs + pi * 0.1**0.5 * torch.eye(4, dtype=torch.float64)
    g = block.outputs + 0.1**0.5 / pi * torch.eye(3, dtype=torch.float64)
    v = normal(12, seed=5)
    torch.testing.assert_close(factors.inverse(0.1, "factored").matvec(v), torch.linalg.solve(torch.kron(g, a), v))


def test_factored_damping_of_a_layer_without_signal() -> None:
    module = filled(nn.Linear(4, 3, bias=False))
    inverse = kfac(module, F.cross_entropy, torch.zeros(2, 4, dtype=torch.float64), labels(2)).inverse(0.1, "factored")
    assert inverse.matvec(normal(12, seed=5)).isfinite().all()


def test_frozen_parts_of_a_layer_are_left_out() -> None:
    module, inputs, targets = filled(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), normal(1, 4, seed=1), labels(1)
    module[0].weight.requires_grad_(False)
    module[2].bias.requires_grad_(False)
    fisher = hg.fisher_matrix(module, F.cross_entropy, inputs, targets)
    fisher[:5, 5:] = fisher[5:, :5] = 0
    torch.testing.assert_close(kfac(module, F.cross_entropy, inputs, targets).dense(), fisher)


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Reused(), r"module: layer was called 2 times"),
        (Tied(), r"module: second.weight is shared between layers"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), r"module: 1 is a LayerNorm .*fisher_diagonal"),
        (
            nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 3, 1, groups=3), nn.Flatten()),
            r"module: 1 has groups=3",
        ),
        (
            nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 3, 1, padding_mode="circular"), nn.Flatten()),
            r"padding_mode='circular'",
        ),
    ],
)
def test_layers_without_a_block_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kfac(module, F.cross_entropy, torch.zeros(2, 3), labels(2))


def test_refused_options_and_damping() -> None:
    module, inputs = filled(nn.Linear(3, 3)), normal(2, 3, seed=1)
    with pytest.raises(ValueError, match="fisher: got 'other'"):
        kfac(module, F.cross_entropy, inputs, labels(2), fisher="other")
    factors = kfac(module, F.cross_entropy, inputs, labels(2))
    with pytest.raises(ValueError, match="form: got 'other'"):
        factors.inverse(0.1, "other")
    with pytest.raises(ValueError, match="damping: got 0"):
        factors.inverse(0)
    assert not module[0]._forward_hooks, "hooks are removed, whatever happens"


def test_hooks_are_removed_when_the_forward_pass_fails() -> None:
    module = filled(nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        kfac(module, F.cross_entropy, normal(2, 5, seed=1), labels(2))
    assert not module[0]._forward_hooks
