"""Meta-gradients: closed form, finite differences, memory against K, leaks, and a MAML run that converges."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from core_fakes import left_by, mostly_slow, normal
from torch import Tensor, nn

import hograd_core
from hograd_core.applications.maml import Episode, Task, adapt, first_order, meta_gradient, recomputed, unrolled
from hograd_core.reference import reference, relative_error, tolerance

EXACT = [name for name, m in meta_gradient.methods.items() if m.exact]


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


def network(width: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1)).double()


def sets(tasks: int = 3, shots: int = 4) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    support = normal(tasks, shots, 2, seed=1), normal(tasks, shots, 1, seed=2)
    return support, (normal(tasks, shots, 2, seed=3), normal(tasks, shots, 1, seed=4))


@pytest.mark.parametrize("name", [*EXACT, "first_order"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_closed_form_on_linear_regression(name: str, steps: int) -> None:
    """With loss ‖Xw − y‖²/m the inner steps are affine: φ_K − w* = (I − αH)^K (θ − w*)."""
    model = nn.Linear(2, 1, bias=False).double()
    (xs, ys), (xq, yq) = sets()
    rate = 0.1
    theta = model.weight.detach()[0]
    value, gradient = 0.0, torch.zeros(2, dtype=torch.float64)
    for a, b, c, d in zip(xs, ys[..., 0], xq, yq[..., 0], strict=True):
        hessian = 2 * a.T @ a / len(a)
        best = torch.linalg.solve(hessian, 2 * a.T @ b / len(a))
        shrink = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - rate * hessian, steps)
        phi = best + shrink @ (theta - best)
        residual = c @ phi - d
        value += float(residual.square().mean()) / 3
        outer = 2 * c.T @ residual / len(c)
        gradient += (outer if name == "first_order" else shrink @ outer) / 3
    found = meta_gradient(model, squared, (xs, ys), (xq, yq), steps, rate, method=name)
    assert found.value.item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(found.gradient["weight"][0], gradient, rtol=1e-11, atol=1e-13)
    assert not found.value.requires_grad
    assert not found.gradient["weight"].requires_grad
    assert model.weight.grad is None


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_network_against_truth(name: str, dtype: torch.dtype) -> None:
    model = network().to(dtype).double()
    support, query = (tuple(t.to(dtype) for t in pair) for pair in sets())
    precise = [tuple(t.double() for t in pair) for pair in (support, query)]
    expected = reference("meta_gradient", model, squared, *precise, 2, 0.1)
    found = meta_gradient(model.to(dtype), squared, support, query, 2, 0.1, method=name)
    assert relative_error(found, expected) <= tolerance(meta_gradient.method(name), dtype, 2)
    model.double()


def test_truth_against_finite_differences() -> None:
    model = network()
    support, query = sets()
    expected = reference("meta_gradient", model, squared, support, query, 3, 0.1)
    weight = model[0].weight.data
    values = []
    for step in (1e-5, -2e-5):
        weight[1, 0] += step
        values.append(meta_gradient(model, squared, support, query, 3, 0.1).value.item())
    weight[1, 0] += 1e-5
    assert expected.gradient["0.weight"][1, 0].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_first_order_is_an_approximation_and_says_so() -> None:
    support, query = sets()
    exact = meta_gradient(network(), squared, support, query, 3, 0.3)
    approximate = meta_gradient(network(), squared, support, query, 3, 0.3, method="first_order")
    assert not meta_gradient.method("first_order").exact
    assert approximate.value == exact.value
    assert relative_error(approximate.gradient, exact.gradient) > 1e-2


def test_chunks_change_nothing() -> None:
    support, query = sets()
    whole = meta_gradient(network(), squared, support, query, 2, 0.1, method="vectorised")
    chunked = meta_gradient(network(), squared, support, query, 2, 0.1, method="vectorised", chunk_size=2)
    assert relative_error(chunked, whole) < 1e-13


def saved_bytes(kernel, steps: int) -> int:
    """Largest number of bytes saved for backward at one time, by distinct storage, during a call."""
    alive, peak = {}, 0

    class Handle:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal peak
            self.tensor = tensor
            self.key = tensor.untyped_storage().data_ptr()
            alive[self.key] = alive.get(self.key, 0) + 1
            sizes[self.key] = tensor.untyped_storage().nbytes()
            peak = max(peak, sum(sizes[k] for k in alive))

        def __del__(self) -> None:
            alive[self.key] -= 1
            if not alive[self.key]:
                del alive[self.key]

    sizes: dict[int, int] = {}
    support, query = sets(tasks=1, shots=64)
    episode = Episode(network(32), squared, (*support, *query), steps, 0.05)
    with torch.autograd.graph.saved_tensors_hooks(Handle, lambda handle: handle.tensor):
        kernel(episode)
    return peak


@pytest.mark.slow
def test_memory_against_inner_steps() -> None:
    """Unrolling saves a graph a step; recomputation one step's graph, whatever K; first order no graph of a graph."""
    unrolled_at = [saved_bytes(unrolled, k) for k in (1, 2, 4, 8)]
    steps = [b - a for a, b in itertools.pairwise(unrolled_at)]
    assert steps[0] > 0
    # Linear in K: 2 → 4 adds twice, 4 → 8 four times what 1 → 2 adds.
    assert steps[1] == pytest.approx(2 * steps[0], rel=0.05)
    assert steps[2] == pytest.approx(4 * steps[0], rel=0.05)
    assert saved_bytes(recomputed, 8) == saved_bytes(recomputed, 2)
    assert saved_bytes(recomputed, 8) < unrolled_at[3] / 3
    assert saved_bytes(first_order, 8) == saved_bytes(first_order, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(list(meta_gradient.methods)))
def test_nothing_is_kept_after_a_hundred_steps(name: str) -> None:
    model = network()
    support, query = sets(tasks=1, shots=2)
    assert left_by(lambda: meta_gradient(model, squared, support, query, 2, 0.1, method=name)) <= 0


@pytest.mark.slow
def test_frozen_parameters_and_buffers_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    model[2].bias.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    support, query = sets()
    for name in ("unrolled", "recomputed", "first_order"):
        found = meta_gradient(model, squared, support, query, 2, 0.1, method=name)
        assert "2.bias" not in found.gradient
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_errors_name_the_argument() -> None:
    model, (support, query) = network(), sets()
    with pytest.raises(TypeError, match="model: got function"):
        meta_gradient(squared, squared, support, query, 1, 0.1)
    with pytest.raises(TypeError, match="loss: got int"):
        meta_gradient(model, 3, support, query, 1, 0.1)
    with pytest.raises(TypeError, match="support: got Tensor"):
        meta_gradient(model, squared, support[0], query, 1, 0.1)
    with pytest.raises(ValueError, match="same number of tasks"):
        meta_gradient(model, squared, support, tuple(t[:2] for t in query), 1, 0.1)
    with pytest.raises(ValueError, match="inner_steps"):
        meta_gradient(model, squared, support, query, -1, 0.1)
    with pytest.raises(TypeError, match="inner_steps"):
        meta_gradient(model, squared, support, query, 1.5, 0.1)
    for rate, error in (("a", TypeError), (None, TypeError), (True, TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match="inner_rate: got"):
            meta_gradient(model, squared, support, query, 1, rate)
    with pytest.raises(TypeError, match=r"support: got dtype torch.float32, expected torch.float64"):
        meta_gradient(model, squared, tuple(t.float() for t in support), query, 1, 0.1)


@pytest.mark.parametrize("name", list(meta_gradient.methods))
def test_what_has_no_meta_gradient_is_refused_by_every_method(name: str) -> None:
    support, query = sets()
    with pytest.raises(ValueError, match=r"loss: returned shape"):
        meta_gradient(network(), lambda a, b: (a - b) ** 2, support, query, 1, 0.1, method=name)
    # Steps that are computed twice would drop other units the second time.
    random = nn.Sequential(network(), nn.Dropout(0.5)).train()
    with pytest.raises(ValueError, match="model: 1 is dropout"):
        meta_gradient(random, squared, support, query, 1, 0.1, method=name)


def sine_tasks(count: int, generator: torch.Generator) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Sinusoids of random amplitude and phase (Finn, Abbeel & Levine 2017, §5.1)."""
    amplitude = torch.rand((count, 1, 1), generator=generator) * 1.5 + 0.5
    phase = torch.rand((count, 1, 1), generator=generator) * math.pi
    x = torch.rand((count, 20, 1), generator=generator) * 6 - 3
    y = amplitude * torch.sin(x + phase)
    return (x[:, :10], y[:, :10]), (x[:, 10:], y[:, 10:])


@pytest.mark.slow
def test_a_maml_run_converges() -> None:
    """After meta-training, five inner steps on ten points fit a new sinusoid far better than from the first start."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    test_support, test_query = sine_tasks(50, torch.Generator().manual_seed(1))

    def adapted_loss() -> float:
        return float(meta_gradient(model, squared, test_support, test_query, 5, 0.05, method="vectorised").value)

    before = adapted_loss()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(250):
        found = meta_gradient(model, squared, *sine_tasks(16, generator), 2, 0.05, method="vectorised")
        for name, p in model.named_parameters():
            p.grad = found.gradient[name]
        optimiser.step()
    after = adapted_loss()
    assert after < 0.25 * before
    assert after < 0.15


def test_adaptation_lowers_the_support_loss() -> None:
    model = network()
    (xs, ys), (xq, yq) = sets()
    episode = Episode(model, squared, (xs, ys, xq, yq), 10, 0.05)
    task: Task = next(episode.tasks())
    start = {name: p.detach().requires_grad_(True) for name, p in model.named_parameters()}
    assert task.support(adapt(task, start, 10, 0.05, create_graph=False)) < task.support(start)
    assert hograd_core.operators()["meta_gradient"] is meta_gradient
