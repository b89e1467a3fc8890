"""Gauss-Newton and Fisher operators: closed forms, identities, and what the guards refuse."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import coupled_loss, fill, labels, mlp, normal
from torch import Tensor, nn

import hograd_core as hg
from hograd_core.curvature import sampled_fisher_diagonal

# Raised inside PyTorch by the first forward-mode call of a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

MODEL_OPERATORS = [
    hg.gauss_newton_matrix,
    hg.fisher_matrix,
    hg.fisher_diagonal,
    hg.empirical_fisher_matrix,
    hg.empirical_fisher_diagonal,
    hg.natural_gradient_step,
]


class Tied(nn.Module):
    """The same weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(self.left(a)) * self.right(b)


LOSSES: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "cross_entropy": (nn.CrossEntropyLoss(), labels(6)),
    "cross_entropy_sum": (functools.partial(F.cross_entropy, reduction="sum"), labels(6)),
    "cross_entropy_smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), labels(6)),
    "mse": (nn.MSELoss(), normal(6, 3, seed=3)),
    "mse_sum": (nn.MSELoss(reduction="sum"), normal(6, 3, seed=3)),
    "bce": (F.binary_cross_entropy_with_logits, normal(6, 3, seed=4).sigmoid()),
}


def custom_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).square().mean() + outputs.exp().mean()


def jacobian(module: nn.Module, inputs: Tensor) -> Tensor:
    """(outputs, P), row by row with autograd on the module itself."""
    outputs = module(inputs)
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(o, parameters, retain_graph=True) for o in outputs.reshape(-1)]
    return torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])


@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_is_the_fisher_for_exponential_families(name: str) -> None:
    loss, targets = LOSSES[name]
    module, inputs = mlp(), normal(6, 4, seed=1)
    expected = hg.gauss_newton_matrix(module, loss, inputs, targets)
    assert expected.abs().max() > 1e-2
    for method in ("expectation", "jacobian"):
        torch.testing.assert_close(hg.fisher_matrix(module, loss, inputs, targets, method=method), expected)
    torch.testing.assert_close(hg.fisher_diagonal(module, loss, inputs, targets), expected.diagonal())
    v = normal(expected.shape[0], seed=5)
    for operator in (hg.gauss_newton_vector_product, hg.fisher_vector_product):
        for method in ("jvp_vjp", "double_vjp"):
            torch.testing.assert_close(operator(module, loss, inputs, targets, v, method=method), expected @ v)


@pytest.mark.slow
@pytest.mark.parametrize("positions", [(4,), (2, 3)])
def test_labelled_positions_are_observations_of_their_own(positions: tuple[int, ...]) -> None:
    module = fill(nn.Sequential(nn.Linear(4, 3 * 4 if positions == (4,) else 18), nn.Unflatten(1, (3, *positions))))
    inputs, targets = normal(5, 4, seed=1), labels(5, *positions)
    expected = hg.gauss_newton_matrix(module, F.cross_entropy, inputs, targets)
    torch.testing.assert_close(hg.fisher_matrix(module, F.cross_entropy, inputs, targets), expected)
    drawn = hg.fisher_matrix(module, F.cross_entropy, inputs, targets, method="monte_carlo", samples=4000, seed=1)
    assert (drawn - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("loss", [custom_loss, coupled_loss, F.smooth_l1_loss], ids=["custom", "coupled", "huber"])
@pytest.mark.parametrize("method", list(hg.gauss_newton_matrix.methods))
def test_gauss_newton_of_any_loss_is_jt_h_j(loss: Callable[..., Tensor], method: str) -> None:
    module, inputs, targets = mlp(), normal(6, 4, seed=1), normal(6, 3, seed=3)
    j, outputs = jacobian(module, inputs), module(inputs).detach()
    h = torch.autograd.functional.hessian(lambda z: loss(z.reshape(6, 3), targets), outputs.reshape(-1))
    torch.testing.assert_close(hg.gauss_newton_matrix(module, loss, inputs, targets, method=method), j.T @ h @ j)


@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_is_the_hessian_where_outputs_are_linear(name: str) -> None:
    loss, targets = LOSSES[name]
    module, inputs = fill(nn.Linear(4, 3)), normal(6, 4, seed=1)
    f, x = hg.from_module(module, loss, (inputs, targets))
    torch.testing.assert_close(hg.gauss_newton_matrix(module, loss, inputs, targets), hg.hessian(f, x))


def test_gauss_newton_is_not_the_hessian_of_a_curved_network() -> None:
    module, inputs = mlp(), normal(6, 4, seed=1)
    loss, targets = LOSSES["mse"]
    f, x = hg.from_module(module, loss, (inputs, targets))
    gauss_newton = hg.gauss_newton_matrix(module, loss, inputs, targets)
    assert (gauss_newton - hg.hessian(f, x)).norm() > 0.1 * gauss_newton.norm()
    assert torch.linalg.eigvalsh(gauss_newton)[0] > -1e-14


# --- the empirical Fisher and its flawed cousin -------------------------------------------------------------


@pytest.mark.parametrize("method", ["per_sample_vmap", "per_sample_loop"])
@pytest.mark.parametrize("bias", [False, True])
def test_empirical_fisher_of_a_linear_classifier_in_closed_form(method: str, bias: bool) -> None:
    """S10: the gradient of sample n is (p_n - e_y) [a_n, 1]^T."""
    module, inputs, targets = fill(nn.Linear(4, 3, bias=bias)), normal(6, 4, seed=1), labels(6)
    residual = (module(inputs).softmax(1) - F.one_hot(targets, 3)).detach()
    weight = (residual.square().T @ inputs.square() / 6).reshape(-1)
    expected = torch.cat([weight, residual.square().mean(0)]) if bias else weight
    found = hg.empirical_fisher_diagonal(module, nn.CrossEntropyLoss(), inputs, targets, method=method)
    torch.testing.assert_close(found, expected)
    summed = hg.empirical_fisher_diagonal(module, nn.CrossEntropyLoss(reduction="sum"), inputs, targets, method=method)
    torch.testing.assert_close(summed, 6 * expected)


def test_squaring_the_mean_gradient_misses_the_variance_of_the_gradients() -> None:
    module, inputs, targets = mlp(), normal(64, 4, seed=1), labels(64)
    loss = nn.CrossEntropyLoss()
    j = [
        torch.autograd.grad(loss(module(inputs[i : i + 1]), targets[i : i + 1]), list(module.parameters()))
        for i in range(64)
    ]
    rows = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in j])
    flawed = hg.empirical_fisher_diagonal(module, loss, inputs, targets, method="squared_mean_gradient")
    true = hg.empirical_fisher_diagonal(module, loss, inputs, targets)
    torch.testing.assert_close(true - flawed, rows.var(0, unbiased=False))
    assert flawed.sum() < 0.2 * true.sum(), "for random labels nearly all of the Fisher is variance"


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_of_ones_own_is_read_as_mean_or_sum(reduction: str) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        each = (outputs - targets).abs().pow(3).sum(1)
        return each.mean() if reduction == "mean" else each.sum()

    module, inputs, targets = mlp(), normal(6, 4, seed=1), normal(6, 3, seed=3)
    rows = torch.stack(
        [
            torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(loss(module(a[None]), t[None]), list(module.parameters()))]
            )
            for a, t in zip(inputs, targets, strict=True)
        ]
    )
    expected = rows.T @ rows / (6 if reduction == "mean" else 1)
    for method in hg.empirical_fisher_matrix.methods:
        torch.testing.assert_close(hg.empirical_fisher_matrix(module, loss, inputs, targets, method=method), expected)


def test_empirical_fisher_nears_the_true_one_where_labels_follow_the_model() -> None:
    module, inputs = mlp(), normal(1, 4, seed=1).repeat(40_000, 1)
    p = module(inputs[:1]).softmax(1).detach()[0]
    targets = torch.multinomial(p, 40_000, replacement=True, generator=torch.Generator().manual_seed(0))
    true = hg.fisher_diagonal(module, F.cross_entropy, inputs[:1], targets[:1])
    empirical = hg.empirical_fisher_diagonal(module, F.cross_entropy, inputs, targets)
    assert (empirical - true).abs().max() < 0.03 * true.max()


# --- what the Monte Carlo Fisher says about itself ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
def test_sampled_fisher_diagonal_is_unbiased_with_the_error_it_states(name: str) -> None:
    loss, targets = LOSSES[name]
    module, inputs = mlp(), normal(6, 4, seed=1)
    true = hg.fisher_diagonal(module, loss, inputs, targets)
    estimate = sampled_fisher_diagonal(module, loss, inputs, targets, samples=2000, seed=11)
    z = (estimate.value - true) / estimate.standard_error
    # 43 entries, correlated: each below 4.5 sigma (chance 3e-4 in all), their mean square near 1.
    assert z.abs().max() < 4.5
    assert 0.2 < z.square().mean() < 2.5
    repeats = torch.stack(
        [sampled_fisher_diagonal(module, loss, inputs, targets, samples=50, seed=s).value for s in range(100)]
    )
    stated = sampled_fisher_diagonal(module, loss, inputs, targets, samples=50, seed=0).standard_error
    ratio = (repeats.std(0) / stated).square().mean().sqrt()
    assert 0.75 < ratio < 1.33, "the stated standard error is the spread over seeds"


def test_sampling_is_by_seed_or_generator() -> None:
    loss, targets = LOSSES["cross_entropy"]
    call = functools.partial(hg.fisher_diagonal, mlp(), loss, normal(6, 4, seed=1), targets, method="monte_carlo")
    assert torch.equal(call(seed=1), call(seed=1))
    assert not torch.equal(call(seed=1), call(seed=2))
    assert torch.equal(call(seed=1), call(generator=torch.Generator().manual_seed(1)))
    one = sampled_fisher_diagonal(mlp(), loss, normal(6, 4, seed=1), targets, samples=1)
    assert one.standard_error.isnan().all()


# --- generality ---------------------------------------------------------------------------------------------


def test_tied_parameters_count_once() -> None:
    module, inputs, targets = fill(Tied()), normal(6, 4, seed=1), labels(6)
    loss = nn.CrossEntropyLoss()
    size = sum(p.numel() for p in module.parameters())
    fisher = hg.fisher_matrix(module, loss, inputs, targets)
    assert fisher.shape == (size, size)
    j, p = jacobian(module, inputs).reshape(6, 3, size), module(inputs).softmax(1).detach()
    lam = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(fisher, torch.einsum("ncp,ncd,ndq->pq", j, lam, j) / 6)
    for operator in (hg.gauss_newton_vector_product, hg.fisher_vector_product):
        for method in ("jvp_vjp", "double_vjp"):
            v = normal(size, seed=5)
            torch.testing.assert_close(operator(module, loss, inputs, targets, v, method=method), fisher @ v)


def test_frozen_parameters_are_constants() -> None:
    module, inputs = mlp(), normal(6, 4, seed=1)
    loss, targets = LOSSES["cross_entropy"]
    whole = hg.fisher_matrix(module, loss, inputs, targets)
    module[0].weight.requires_grad_(False)
    torch.testing.assert_close(hg.fisher_matrix(module, loss, inputs, targets), whole[20:, 20:])
    torch.testing.assert_close(
        hg.empirical_fisher_diagonal(module, loss, inputs, targets, method="per_sample_loop"),
        hg.empirical_fisher_diagonal(module, loss, inputs, targets),
    )


def test_several_inputs() -> None:
    module, inputs = fill(TwoInputs()), (normal(6, 4, seed=1), normal(6, 2, seed=2))
    loss, targets = LOSSES["cross_entropy"]
    expected = hg.gauss_newton_matrix(module, loss, inputs, targets)
    torch.testing.assert_close(hg.fisher_matrix(module, loss, inputs, targets), expected)
    torch.testing.assert_close(
        hg.empirical_fisher_matrix(module, loss, inputs, targets, method="per_sample_loop"),
        hg.empirical_fisher_matrix(module, loss, inputs, targets),
    )


@pytest.mark.parametrize("operator", MODEL_OPERATORS, ids=lambda o: o.name)
def test_chunks_change_nothing_but_memory(operator: Any) -> None:
    loss, targets = LOSSES["cross_entropy"]
    arguments = (mlp(), loss, normal(6, 4, seed=1), targets)
    for name, method in operator.methods.items():
        if "chunk_size" in method.options:
            whole = operator(*arguments, method=name)
            for size in (1, 4, 6, 100):
                torch.testing.assert_close(operator(*arguments, method=name, chunk_size=size), whole)
            with pytest.raises(ValueError, match="chunk_size"):
                operator(*arguments, method=name, chunk_size=0)


@pytest.mark.parametrize("operator", MODEL_OPERATORS, ids=lambda o: o.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_keep_the_dtype_and_the_module_its_state(operator: Any, dtype: torch.dtype) -> None:
    module = mlp().to(dtype)
    before = [p.detach().clone() for p in module.parameters()]
    inputs, targets = normal(6, 4, seed=1, dtype=dtype), labels(6)
    for name in operator.methods:
        result = operator(module, nn.CrossEntropyLoss(), inputs, targets, method=name)
        assert result.dtype == dtype
        assert not result.requires_grad
        assert result.isfinite().all()
    assert all(torch.equal(a, p) for a, p in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.slow
def test_batch_norm_in_training_mode() -> None:
    module = fill(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))
    loss, targets = LOSSES["cross_entropy"]
    inputs = normal(6, 4, seed=1)
    buffers = [b.clone() for b in module.buffers()]
    expected = hg.gauss_newton_matrix(module, loss, inputs, targets, method="columns")
    v = normal(expected.shape[0], seed=5)
    for method in hg.gauss_newton_vector_product.methods:
        product = hg.gauss_newton_vector_product(module, loss, inputs, targets, v, method=method)
        torch.testing.assert_close(product, expected @ v)
    assert all(torch.equal(a, b) for a, b in zip(buffers, module.buffers(), strict=True))
    with pytest.raises(ValueError, match=r"module: 1 is batch normalisation in training mode.*eval\(\)"):
        hg.fisher_matrix(module, loss, inputs, targets)
    module.eval()
    torch.testing.assert_close(
        hg.fisher_matrix(module, loss, inputs, targets), hg.gauss_newton_matrix(module, loss, inputs, targets)
    )
