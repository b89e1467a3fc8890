"""The true Fisher matrix of a model: F = R sum over n of E_{y ~ p(y|x_n)}[grad l_n(y) grad l_n(y)^T].

The expectation is over the model's own predictive distribution, not the data's labels (Kunstner, Hennig & Balles
2019; Martens 2020, §5); with the labels one has the empirical Fisher (:mod:`.empirical_fisher`), another matrix. The
loss names the distribution: ``nn.CrossEntropyLoss``, ``nn.MSELoss``, ``nn.BCEWithLogitsLoss`` or their functional
forms. R is the loss's own weight of an observation (1/N for a mean), so that F equals the Gauss–Newton matrix of the
same loss.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hograd_core._checks import check_chunk_size, check_positive
from hograd_core._entrance import entrance, kept, released
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.arguments import check_fits
from hograd_core.curvature._estimators import Estimate
from hograd_core.curvature._jacobian import (
    JacobianProductOperator,
    full_jacobian,
    pushed_and_pulled,
    sample_chunks,
    sample_rows,
    transformed,
)
from hograd_core.curvature._layers import squared_gradients
from hograd_core.curvature._likelihood import (
    output_fisher_factor,
    output_fisher_product,
    sampled_output_factor,
)
from hograd_core.curvature._model import Inputs, Loss, Model, check_model, check_vector
from hograd_core.curvature._precision import sampling_outcomes, widened, working_dtype
from hograd_core.curvature._probes import probe_generator


def _outputs(model: Model) -> Tensor:
    outputs: Tensor = released(model.outputs(model.point))
    return outputs


@operator(result="x * order", default="expectation", order=2)
def fisher_matrix(module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, **how: Unpack[How]) -> Tensor:
    """The true Fisher matrix, all P x P entries (see :mod:`hograd_core.curvature.fisher` for the normalisation).

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: cross-entropy, squared error or binary cross-entropy with logits, of reduction mean or sum.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first; F does not depend on their values.

    Returns:
        A detached tensor of shape (P, P), in the dtype and on the device of the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for, or the loss names no distribution.
        UnsupportedError: PyTorch has no formula or batching rule for a layer by this method.
    """
    return to_method(check_model(module, loss, inputs, targets, per_sample=True))


@method(
    fisher_matrix,
    "expectation",
    mode="reverse, an outcome at a time, vectorised over samples",
    source="Martens 2020, eq. 6; the expectation over the targets summed exactly",
    in_parts=True,
)
def matrix_expectation(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """Sum of outer products of the scores of every outcome, weighted by its probability.

    Time: K backward passes a sample for K outcomes, O(N K P²); memory: P² + chunk_size K P.
    """
    return gram_of_scores(model, chunk_size).to(model.point.dtype)


@method(
    fisher_matrix,
    "jacobian",
    mode="reverse by rows of J, vectorised; the outputs' Fisher in closed form",
    source="Martens 2020, eq. 7: F = E[J^T F_R J]; torch.func.jacrev",
    in_parts=True,
)
def matrix_jacobian(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """J^T (Lambda J) from the explicit Jacobian. Time: M backward passes for M outputs; memory: 2 M P + P²."""
    outputs, jacobian = full_jacobian(model, chunk_size)
    curved = torch.func.vmap(lambda u: output_fisher_product(model, outputs, u), in_dims=-1)(jacobian)
    return curved.flatten(1) @ jacobian.flatten(0, -2)


@method(
    fisher_matrix,
    "monte_carlo",
    mode="reverse, a drawn outcome at a time, vectorised over samples",
    source="Martens 2020, §5 (targets sampled from the model)",
    exact=False,
    tolerance=sampling_outcomes,
)
def matrix_monte_carlo(
    model: Model, *, samples: int = 1, seed: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Scores of ``samples`` drawn targets a sample. Unbiased; standard error O(1 / sqrt(N samples)) relative to F."""
    samples = check_positive(samples, "samples")
    _check_fits(model)
    factor = sampled_output_factor(model, _outputs(model), samples, probe_generator(seed, generator))
    return sum_of_grams(sample_rows(model, factor)).to(model.point.dtype)


@operator(result="x", default="expectation", order=2)
def fisher_diagonal(module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, **how: Unpack[How]) -> Tensor:
    """The diagonal of the true Fisher matrix.

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: cross-entropy, squared error or binary cross-entropy with logits, of reduction mean or sum.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first; the diagonal does not depend on their values.

    Returns:
        A detached tensor of shape (P,), in the dtype and on the device of the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for, or the loss names no distribution.
        UnsupportedError: PyTorch has no batching rule for a layer.
    """
    return to_method(check_model(module, loss, inputs, targets, per_sample=True))


@method(
    fisher_diagonal,
    "expectation",
    mode="reverse, an outcome at a time, vectorised over samples",
    source="Martens 2020, eq. 6, entries i = j; the expectation over the targets summed exactly",
    in_parts=True,
)
def diagonal_expectation(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """Sum of squared scores of every outcome. Time: K backward passes a sample; memory: chunk_size K P."""
    factor = output_fisher_factor(model, _outputs(model))
    diagonal = torch.zeros_like(model.point)
    for part in sample_chunks(model, chunk_size):
        for rows in sample_rows(model, factor, part):
            diagonal += rows.square().sum(0)
    return diagonal


@method(
    fisher_diagonal,
    "layers",
    mode="reverse, an outcome at a time, to the layers' outputs",
    source="Martens 2020, eq. 6; Dangel, Kunstner & Hennig 2020 (BackPACK's DiagGGNExact)",
)
def diagonal_layers(model: Model, *, chunk_size: int | None = None) -> Tensor:
    """As ``expectation``, without gradients of samples where layers are linear or convolutions.

    Time: one forward pass and K backward passes of the batch; memory: inputs and output gradients of the layers.
    Parameters of other layers go by ``expectation``, ``chunk_size`` samples at a time.
    """
    check_chunk_size(chunk_size)
    if kept():  # what is recorded at layers is detached
        return diagonal_expectation(model, chunk_size=chunk_size)  # type: ignore[no-any-return]
    sums, known = squared_gradients(model, lambda _, outputs: (outputs, output_fisher_factor(model, outputs.detach())))
    if known is not None:
        torch.where(known, sums, diagonal_expectation(model, chunk_size=chunk_size), out=sums)
    return sums


@entrance
def sampled_fisher_diagonal(
    module: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    *,
    samples: int = 8,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Monte Carlo diagonal of the true Fisher matrix with its standard error.

    Args:
        module: the network, as for ``fisher_diagonal``.
        loss: as for ``fisher_diagonal``.
        inputs: as for ``fisher_diagonal``.
        targets: as for ``fisher_diagonal``.
        samples: targets drawn for each sample, >= 1.
        seed: seed of the draws; None: other draws at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The unbiased estimate, (P,), and its standard error, from the spread over the ``samples`` draws (NaN
        for one draw). ``products`` counts N * samples backward passes of one sample.
    """
    model = check_model(module, loss, inputs, targets, per_sample=True)
    return _sampled_diagonal(model, samples, probe_generator(seed, generator))


def _sampled_diagonal(model: Model, samples: int, generator: torch.Generator) -> Estimate:
    samples = check_positive(samples, "samples")
    factor = sampled_output_factor(model, _outputs(model), samples, generator)
    draws = torch.stack([rows.square().sum(0) for rows in sample_rows(model, factor)]) * samples
    spread = draws.std(0) / samples**0.5 if samples > 1 else torch.full_like(model.point, float("nan"))
    return Estimate(draws.mean(0), spread, samples * model.batch)


@method(
    fisher_diagonal,
    "monte_carlo",
    mode="reverse, a drawn outcome at a time, vectorised over samples",
    source="Martens 2020, §5 (targets sampled from the model)",
    exact=False,
    tolerance=sampling_outcomes,
)
def diagonal_monte_carlo(
    model: Model, *, samples: int = 1, seed: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Squared scores of ``samples`` drawn targets a sample; ``sampled_fisher_diagonal`` adds the standard error."""
    return _sampled_diagonal(model, samples, probe_generator(seed, generator)).value


@operator(result="x", default="jvp_vjp", order=2)
def fisher_vector_product(
    module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, v: Tensor, **how: Unpack[How]
) -> Tensor:
    """F v = J^T (Lambda (J v)) with the true Fisher matrix F, which is not formed.

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: cross-entropy, squared error or binary cross-entropy with logits, of reduction mean or sum.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first; the product does not depend on their values.
        v: vector of shape (P,), dtype and device of the parameters.

    Returns:
        A detached tensor of shape (P,).

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for, or the loss names no distribution.
        UnsupportedError: PyTorch has no formula for a layer by this method.
    """
    model = check_model(module, loss, inputs, targets)
    return to_method(model, check_vector(v, model))


@method(
    fisher_vector_product,
    "jvp_vjp",
    mode="forward, the outputs' Fisher in closed form, reverse",
    source="Martens 2020, eq. 7 and §8.1; torch.func.jvp",
)
def product_jvp_vjp(model: Model, v: Tensor) -> Tensor:
    """Two forward passes (one with tangents) and one backward pass; the loss is never differentiated."""
    return pushed_and_pulled(model, output_fisher_product, v)


@method(
    fisher_vector_product,
    "func",
    mode="forward, the outputs' Fisher in closed form, reverse",
    source="Martens 2020, eq. 7 and §8.1; torch.func.jvp and .vjp alone",
    functorch=True,
)
def product_func(model: Model, v: Tensor) -> Tensor:
    """Two forward passes (one with tangents) and one backward pass; several v at once by ``in_dims``."""
    return transformed(model, output_fisher_product, v)


@method(
    fisher_vector_product,
    "double_vjp",
    mode="forward emulated by two reverse sweeps, the outputs' Fisher in closed form, reverse",
    source="Townsend 2017 (the double-vjp trick); Martens 2020, eq. 7",
)
def product_double_vjp(model: Model, v: Tensor) -> Tensor:
    """One forward pass and three backward passes; no forward-mode formulas needed."""
    with JacobianProductOperator(model, output_fisher_product) as fisher:
        return fisher.matvec(v)


def _check_fits(model: Model) -> None:
    point = model.point
    check_fits("the Fisher matrix", point.numel() ** 2 * working_dtype(point.dtype).itemsize, point.device)


def sum_of_grams(parts: Iterable[Tensor]) -> Tensor:
    """Sum of A^T A over blocks A of rows, in the working dtype."""
    result: Tensor | None = None
    for rows in map(widened, parts):
        result = rows.T @ rows if result is None else result.addmm_(rows.T, rows)
    assert result is not None
    return result


def gram_of_scores(model: Model, chunk_size: int | None = None) -> Tensor:
    """F, (P, P), in the working dtype: rounded to half precision it need not be positive semi-definite any more.

    Raises:
        MemoryBudgetError: it is larger than what is free; said before the scores are made, which may take as much.
    """
    _check_fits(model)
    factor = output_fisher_factor(model, _outputs(model))
    return sum_of_grams(r for part in sample_chunks(model, chunk_size) for r in sample_rows(model, factor, part))


def square_root_rows(model: Model, chunk_size: int | None = None) -> Tensor:
    """Rows A, shape (K N, P), with F = A^T A."""
    factor = output_fisher_factor(model, _outputs(model))
    return torch.cat([r for part in sample_chunks(model, chunk_size) for r in sample_rows(model, factor, part)])
