"""Kronecker-factored approximate curvature (KFAC): the Fisher matrix as one Kronecker product a layer.

For a layer with weight W (out x in, bias as a last column) the block is A kron G (Martens & Grosse 2015, eq. 4; Grosse
& Martens 2016, theorem 1 for convolutions), A the mean of outer products of the layer's inputs (a 1 appended for the
bias), G the sum over samples and outcomes of those of the gradients at its outputs, with the normalisation of
:mod:`.fisher`. A layer with T positions (a convolution, a linear layer on sequences) sums A over positions and
averages G over them ("expand" in Eschenhagen et al. 2023).

When the blocks are exact (without weight sharing, T = 1): for a batch of one, and for any batch where G does not depend
on the sample, as in a deep linear network under squared error (Bernacchia, Lengyel & Hennequin 2018); with positions,
in such a network with a target at every position. The blocks between layers are always dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._checks import check_positive
from hograd_core._entrance import entrance, kept
from hograd_core._registry import method
from hograd_core._unsupported import UnsupportedError
from hograd_core.curvature._kronecker import KFAC, KroneckerBlock
from hograd_core.curvature._layers import gradients_at, input_rows, output_rows, recorder, supported, trains
from hograd_core.curvature._likelihood import output_fisher_factor, sample_scaling, sampled_output_factor
from hograd_core.curvature._model import Inputs, Loss, Model, check_model, scalar_loss
from hograd_core.curvature._precision import unbounded
from hograd_core.curvature._probes import probe_generator
from hograd_core.curvature.fisher import fisher_diagonal, fisher_matrix, fisher_vector_product
from hograd_core.derivatives._autograd import leaf

EXPECTATION, MONTE_CARLO, EMPIRICAL = "expectation", "monte_carlo", "empirical"


@entrance
def kfac(
    module: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    *,
    fisher: str = EXPECTATION,
    samples: int = 1,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> KFAC:
    """Kronecker factors of every layer from one batch.

    Cost: one forward pass and K backward passes to the layers' outputs (K outcomes for the expectation, ``samples``
    for Monte Carlo, 1 for the empirical), and the factors' products; memory: the layers' inputs and outputs, and the
    factors, out² + columns² a layer.

    Args:
        module: a network whose trainable parameters belong to nn.Linear, nn.Conv1d or nn.Conv2d layers, each used
            once a forward pass and sharing no parameter; not changed.
        loss: as for ``fisher_matrix``; for ``fisher="empirical"`` any mean or sum over samples, normalised as in
            :mod:`.empirical_fisher`.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.
        fisher: "expectation" (exact over outcomes), "monte_carlo" (outcomes drawn) or "empirical" (the labels).
        samples: outcomes drawn for each sample under Monte Carlo.
        seed: seed of the draws; None: other draws at every call, from torch's global generator.
        generator: source of randomness in place of the seed.

    Returns:
        The factors, in the dtype and on the device of the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
    """
    model = check_model(module, loss, inputs, targets, per_sample=True)
    return kfac_of_model(model, fisher=fisher, samples=samples, seed=seed, generator=generator)


def kfac_of_model(
    model: Model,
    *,
    fisher: str = EXPECTATION,
    samples: int = 1,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> KFAC:
    """The factors of a bound model; see :func:`kfac`."""
    if fisher not in (EXPECTATION, MONTE_CARLO, EMPIRICAL):
        raise ValueError(f"fisher: got {fisher!r}, expected {EXPECTATION}, {MONTE_CARLO} or {EMPIRICAL}")
    layers, dtype = _layers(model), model.point.dtype  # under the caller's autocast layers compute in another one
    if kept():
        raise UnsupportedError("kfac", "its factors cannot be differentiated further; use fisher_matrix[expectation]")
    records: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    outputs = model.outputs(leaf(model.point), hooks={name: recorder(records[name]) for name in layers})
    sites = [_single(records, name) for name in layers]
    at = [site[1] for site in sites]
    if fisher == EMPIRICAL:
        # grad s_n is, sample by sample, the gradient of L divided by R; its square enters times R.
        weight, _ = sample_scaling(model)
        value = scalar_loss(model.loss, outputs, model.targets)
        passes = [(value, None, weight**-0.5)]
    else:
        fixed = outputs.detach()
        if fisher == EXPECTATION:
            factor = output_fisher_factor(model, fixed)
        else:
            samples = check_positive(samples, "samples")
            factor = sampled_output_factor(model, fixed, samples, probe_generator(seed, generator))
        passes = [(outputs, cotangent, 1.0) for cotangent in factor]
    gathered: list[Tensor | None] = [None] * len(at)
    for k, (root, cotangent, scale) in enumerate(passes):
        keep = k + 1 < len(passes)
        gradients = gradients_at(root, at, cotangent, keep)
        for i, (layer, gradient) in enumerate(zip(layers.values(), gradients, strict=True)):
            rows = output_rows(layer, gradient.detach().to(dtype)) * scale
            positions = rows.shape[1]
            flat = rows.flatten(0, 1)
            term = flat.T @ flat / positions
            previous = gathered[i]
            gathered[i] = term if previous is None else previous + term
    blocks = []
    for (name, layer), (received, _), outer in zip(layers.items(), sites, gathered, strict=True):
        assert outer is not None
        parameters = tuple(f"{name}.{leaf}".lstrip(".") for leaf in ("weight", "bias") if trains(layer, leaf))
        columns = input_rows(layer, received.detach().to(dtype))
        parts = [columns] if trains(layer, "weight") else []
        parts += [columns.new_ones(*columns.shape[:2], 1)] if trains(layer, "bias") else []
        flat = torch.cat(parts, 2).flatten(0, 1)
        blocks.append(KroneckerBlock(name, parameters, flat.T @ flat / model.batch, outer))
    return KFAC(tuple(blocks), model.names, model.shapes)


def _layers(model: Model) -> dict[str, nn.Module]:
    """The layers that hold the trainable parameters, each known to have a Kronecker block."""
    found: dict[str, nn.Module] = {}
    covered: list[str] = []
    for name, layer in model.module.named_modules():
        own = [leaf for leaf, p in layer.named_parameters(recurse=False, remove_duplicate=False) if p.requires_grad]
        if not own:
            continue
        if type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
            raise ValueError(
                f"module: {name or 'itself'} is a {type(layer).__name__} with trainable parameters, expected "
                "nn.Linear, nn.Conv1d or nn.Conv2d; freeze it, or use fisher_diagonal or fisher_vector_product"
            )
        if not supported(layer):
            raise ValueError(
                f"module: {name or 'itself'} has groups={layer.groups}, padding_mode={layer.padding_mode!r}, "
                "expected one group and zero padding"
            )
        found[name] = layer
        covered += [f"{name}.{leaf}".lstrip(".") for leaf in own]
    if set(covered) != set(model.names) or len(covered) != len(model.names):
        tied = sorted(set(covered) - set(model.names)) or sorted(model.names)
        raise ValueError(f"module: {tied[0]} is shared between layers, for which KFAC has no block; untie or freeze it")
    return found


def _single(records: dict[str, list[tuple[Tensor, Tensor]]], name: str) -> tuple[Tensor, Tensor]:
    calls = records[name]
    if len(calls) != 1:
        raise ValueError(
            f"module: {name or 'itself'} was called {len(calls)} times in a forward pass, expected once; "
            "KFAC has no block for a layer that is reused or unused"
        )
    return calls[0]


_DECLARED: dict[str, Any] = {
    "mode": "reverse, an outcome at a time, to the layers' outputs",
    "source": "Martens & Grosse 2015, eq. 4; Grosse & Martens 2016, theorem 1",
    "exact": False,
    "tolerance": unbounded,
}


@method(fisher_matrix, "kfac", **_DECLARED)
def kfac_matrix(model: Model) -> Tensor:
    """The dense form of the Kronecker blocks, zero between layers; its distance to F is KFAC's error."""
    return kfac_of_model(model).dense()


@method(fisher_diagonal, "kfac", **_DECLARED)
def kfac_diagonal(model: Model) -> Tensor:
    """The diagonal of the Kronecker blocks, without per-sample gradients of parameters."""
    return kfac_of_model(model).diagonal()


@method(fisher_vector_product, "kfac", **_DECLARED)
def kfac_product(model: Model, v: Tensor) -> Tensor:
    """The factors built and applied once."""
    return kfac_of_model(model).matvec(v)
