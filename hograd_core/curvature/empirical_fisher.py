"""The empirical Fisher matrix: E = R sum over n of grad s_n grad s_n^T, at the labels of the data.

s_n is the negative log-likelihood of sample n, the sum over its positions or output elements, and R the weight of one
of them in the loss: with T a sample, 1/(N T) under ``reduction="mean"`` and 1 under ``"sum"``, as for the true
Fisher matrix. So E is the Fisher matrix in expectation over labels drawn from the model; at the data's labels it is no
estimate of it, and agrees only where the model's distribution is the data's (Kunstner, Hennig & Balles 2019, §3). With
l_n the loss of sample n as a batch of one, s_n = T l_n under a mean, so that E = (T/N) sum of grad l_n grad l_n^T. A
loss other than those that :mod:`.fisher` knows names no observations within a sample: s_n is l_n, T = 1.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from hograd_core._checks import check_chunk_size
from hograd_core._entrance import kept, released
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.curvature._jacobian import over_samples, sample_chunks
from hograd_core.curvature._layers import squared_gradients
from hograd_core.curvature._likelihood import sample_scaling
from hograd_core.curvature._model import Inputs, Loss, Model, check_model
from hograd_core.curvature._precision import unbounded
from hograd_core.curvature.fisher import fisher_diagonal, fisher_matrix
from hograd_core.derivatives._autograd import grad_or_zeros, leaf


def per_sample_gradients(model: Model, part: slice = slice(None)) -> Tensor:
    """grad l_n for the samples of ``part``, shape (n, P), by one vectorised backward pass."""
    inputs = tuple(each[part] for each in model.inputs)
    gradient = functools.partial(torch.func.grad(model.sample_value), model.point)
    rows: Tensor = released(over_samples(gradient, model.targets[part], *inputs))
    return rows


def _weight(model: Model) -> float:
    """W in E = W * sum over n of grad l_n grad l_n^T."""
    weight, observations = sample_scaling(model)
    return weight * observations**2


def _gradient_of_sample(model: Model, i: int) -> Tensor:
    point = leaf(model.point)
    value = model.sample_value(point, model.targets[i], *(part[i] for part in model.inputs))
    return grad_or_zeros(value, point, create_graph=False)


@operator(result="x * order", default="per_sample_vmap", order=2)
def empirical_fisher_matrix(
    module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, **how: Unpack[How]
) -> Tensor:
    """The empirical Fisher matrix, all P x P entries (see :mod:`hograd_core.curvature.empirical_fisher`).

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: callable (outputs, targets) -> 0-dimensional tensor, the mean or the sum over samples.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.

    Returns:
        A detached tensor of shape (P, P), in the dtype and on the device of the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for, or the loss couples samples.
        UnsupportedError: PyTorch has no batching rule for a layer by this method.
    """
    return to_method(check_model(module, loss, inputs, targets, per_sample=True))


@method(
    empirical_fisher_matrix,
    "per_sample_vmap",
    mode="reverse, vectorised over samples",
    source="Kunstner, Hennig & Balles 2019, eq. 3; torch.func.vmap of torch.func.grad",
    in_parts=True,
)
def matrix_vmap(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """Outer products of per-sample gradients. Time: one vectorised backward pass, O(N P²); memory: P² + chunk P."""
    result = torch.zeros(model.point.numel(), model.point.numel(), dtype=model.point.dtype, device=model.point.device)
    for part in sample_chunks(model, chunk_size):
        rows = per_sample_gradients(model, part)
        result.addmm_(rows.T, rows)
    return result.mul_(_weight(model))


@method(
    empirical_fisher_matrix,
    "per_sample_loop",
    mode="reverse, sample by sample",
    source="Kunstner, Hennig & Balles 2019, eq. 3",
)
def matrix_loop(model: Model) -> Tensor:
    """The same by N backward passes of one sample; works where layers have no batching rule. Memory: P² + 2 P."""
    result = torch.zeros(model.point.numel(), model.point.numel(), dtype=model.point.dtype, device=model.point.device)
    for i in range(model.batch):
        row = _gradient_of_sample(model, i)
        result.addr_(row, row)
    return result.mul_(_weight(model))


@operator(result="x", default="per_sample_vmap", order=2)
def empirical_fisher_diagonal(
    module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, **how: Unpack[How]
) -> Tensor:
    """The diagonal of the empirical Fisher matrix (see :mod:`hograd_core.curvature.empirical_fisher`).

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: callable (outputs, targets) -> 0-dimensional tensor, the mean or the sum over samples.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.

    Returns:
        A detached tensor of shape (P,), in the dtype and on the device of the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for, or the loss couples samples.
        UnsupportedError: PyTorch has no batching rule for a layer by this method.
    """
    return to_method(check_model(module, loss, inputs, targets, per_sample=True))


@method(
    empirical_fisher_diagonal,
    "per_sample_vmap",
    mode="reverse, vectorised over samples",
    source="Kunstner, Hennig & Balles 2019, eq. 3, entries i = j; torch.func.vmap of torch.func.grad",
    in_parts=True,
)
def diagonal_vmap(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """Weighted sum of squares of per-sample gradients. Time: one vectorised backward pass; memory: chunk_size P."""
    diagonal = torch.zeros_like(model.point)
    for part in sample_chunks(model, chunk_size):
        diagonal += per_sample_gradients(model, part).square().sum(0)
    return diagonal.mul_(_weight(model))


@method(
    empirical_fisher_diagonal,
    "per_sample_loop",
    mode="reverse, sample by sample",
    source="Kunstner, Hennig & Balles 2019, eq. 3, entries i = j",
)
def diagonal_loop(model: Model) -> Tensor:
    """The same by N backward passes of one sample; works where layers have no batching rule. Memory: 2 P."""
    diagonal = torch.zeros_like(model.point)
    for i in range(model.batch):
        diagonal += _gradient_of_sample(model, i).square()
    return diagonal.mul_(_weight(model))


@method(
    empirical_fisher_diagonal,
    "layers",
    mode="reverse, to the layers' outputs",
    source="Goodfellow 2015, §5 (squares of g aᵀ are products of squares); Dangel, Kunstner & Hennig 2020",
)
def diagonal_layers(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """Squares of per-sample gradients without these gradients, where layers are linear or convolutions.

    Time: one backward pass, and a product of squares a layer; memory: inputs and output gradients of the layers. A
    layer with several positions forms its samples' gradients, some at a time. Parameters of other layers, and of those
    that are called more than once, go by ``per_sample_vmap``, ``chunk_size`` samples at a time.
    """
    check_chunk_size(chunk_size)
    if kept():  # what is recorded at layers is detached
        return diagonal_vmap(model, chunk_size=chunk_size)  # type: ignore[no-any-return]
    # grad s_n is, sample by sample, that of L divided by R; its square enters times R.
    sums, known = squared_gradients(model, lambda value, _: (value, None))
    diagonal = sums.div_(sample_scaling(model)[0])
    if known is not None:
        torch.where(known, diagonal, diagonal_vmap(model, chunk_size=chunk_size), out=diagonal)
    return diagonal


@method(
    empirical_fisher_diagonal,
    "squared_mean_gradient",
    mode="reverse, once",
    source="a named baseline, not the Fisher: the square of the batch mean's gradient, as often found in tutorials",
    exact=False,
    tolerance=lambda eps, order: 1.0 + 64 * eps,
)
def squared_mean_gradient(model: Model) -> Tensor:
    """(grad L)² / (R N), which for a mean loss is T (grad L)²: wrong by the variance of the gradients.

    With g = grad s_n, E[g²] - E[g]² = Var g >= 0, so this is never larger than the empirical Fisher's diagonal, and
    it vanishes at a minimum where the Fisher does not. Kept to measure that difference.
    """
    return model.gradient().square() / (sample_scaling(model)[0] * model.batch)


@method(
    fisher_matrix,
    "empirical",
    mode="reverse, vectorised over samples",
    source="Kunstner, Hennig & Balles 2019: the data's labels in place of the expectation",
    exact=False,
    tolerance=unbounded,
)
def empirical_as_fisher(model: Model) -> Tensor:
    """The empirical Fisher in the true one's place: its error is the point."""
    matrix: Tensor = matrix_vmap(model)
    return matrix


@method(
    fisher_diagonal,
    "empirical",
    mode="reverse, vectorised over samples",
    source="Kunstner, Hennig & Balles 2019: the data's labels in place of the expectation",
    exact=False,
    tolerance=unbounded,
)
def empirical_as_fisher_diagonal(model: Model) -> Tensor:
    """The empirical Fisher's diagonal in the true one's place: its error is the point."""
    diagonal: Tensor = diagonal_vmap(model)
    return diagonal
