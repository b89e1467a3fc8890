"""What a loss says about the distribution of the targets, and how it weighs samples.

A loss is read as L = R * sum over samples of s_n, the negative log-likelihood of a sample. Recognised are those of
``nn.CrossEntropyLoss`` (categorical, logits), ``nn.MSELoss`` (Gaussian, fixed variance) and
``nn.BCEWithLogitsLoss`` (independent Bernoulli, logits), and their functional forms.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hograd_core.curvature._model import Loss, Model, scalar_loss
from hograd_core.curvature._precision import working_dtype
from hograd_core.prepare import assume

CATEGORICAL, GAUSSIAN, BERNOULLI = "categorical", "gaussian", "bernoulli"

_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: CATEGORICAL,
    nn.MSELoss: GAUSSIAN,
    nn.BCEWithLogitsLoss: BERNOULLI,
}
_FUNCTIONS: dict[Any, str] = {
    F.cross_entropy: CATEGORICAL,
    F.mse_loss: GAUSSIAN,
    F.binary_cross_entropy_with_logits: BERNOULLI,
}


def _recognise(loss: Loss) -> tuple[str, dict[str, Any]] | None:
    """Kind of likelihood and the options that the loss was built with."""
    # Exactly these classes: a subclass may compute something else.
    kind = _MODULES.get(type(loss)) if isinstance(loss, nn.Module) else None
    if kind is not None:
        options = {k: getattr(loss, k, None) for k in ("reduction", "weight", "pos_weight", "ignore_index")}
        return kind, options
    function, keywords = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, keywords = loss.func, loss.keywords
    try:
        kind = _FUNCTIONS.get(function)
    except TypeError:  # an unhashable callable is not one of ours
        return None
    return None if kind is None else (kind, {"reduction": "mean", "ignore_index": -100, **keywords})


def _plain(kind: str, options: dict[str, Any], targets: Tensor) -> bool:
    """Whether every sample weighs the same."""
    if options.get("weight") is not None or options.get("pos_weight") is not None:
        return False
    if kind != CATEGORICAL or targets.dtype.is_floating_point:
        return True
    return assume((targets != options["ignore_index"]).all())


def sample_scaling(model: Model) -> tuple[float, int]:
    """(R, T) with L = R * sum over n of s_n and s_n = T l_n.

    l_n is the loss of sample n as a batch of one, s_n the negative log-likelihood of its labels: the sum over its
    observations (positions of a cross-entropy, output elements of a squared error or a binary cross-entropy), of which
    a mean over observations divides out T a sample. R is the weight of an observation, as in :func:`likelihood`. A loss
    that is none of those above is taken for s_n itself, T = 1; whether it is the mean or the sum over samples is found
    by evaluating it sample by sample (one forward pass and N calls of the loss).

    Raises:
        ValueError: L is neither the mean nor the sum of the losses of its samples, or samples hold different numbers of
            observations.
    """
    recognised = _recognise(model.loss)
    if recognised is not None and _plain(*recognised, model.targets):
        averages = recognised[1]["reduction"] != "sum"
    else:
        averages = _averages(model)
        if recognised is not None and model.batch == 1:
            averages = recognised[1]["reduction"] != "sum"
    if not averages:
        return 1.0, 1
    observations = 1 if recognised is None else _observations(*recognised, model.targets)
    return 1.0 / (model.batch * observations), observations


def _observations(kind: str, options: dict[str, Any], targets: Tensor) -> int:
    """Observations of a sample, the same number in each."""
    if kind != CATEGORICAL:
        return targets[0].numel()
    if options.get("weight") is not None:
        raise ValueError("loss: got class weights under reduction='mean', which couple samples; use reduction='sum'")
    if targets.dtype.is_floating_point:
        return targets[0].numel() // targets.shape[1]
    if assume((targets != options["ignore_index"]).all()):
        return targets[0].numel()
    counts = (targets != options["ignore_index"]).reshape(len(targets), -1).sum(1)
    if not bool((counts == counts[0]).all()) or int(counts[0]) == 0:
        raise ValueError(
            "targets: ignored ones leave samples with different numbers of positions, or none; reduction='mean' "
            "couples samples then; use reduction='sum'"
        )
    return int(counts[0])


def _averages(model: Model) -> bool:
    """Whether L is the mean of the losses of its samples; False where it is their sum."""
    outputs = model.outputs(model.point).detach()
    whole = scalar_loss(model.loss, outputs, model.targets).detach().double()
    each = torch.stack(
        [scalar_loss(model.loss, outputs[i : i + 1], model.targets[i : i + 1]).detach() for i in range(model.batch)]
    ).double()
    scale = each.abs().sum()
    slack = 32 * model.batch * torch.finfo(outputs.dtype).eps * scale
    if bool((whole - each.mean()).abs() <= slack / model.batch):
        return True
    if bool((whole - each.sum()).abs() <= slack):
        return False
    raise ValueError(
        f"loss: got {float(whole):.6g} for the batch, expected the mean {float(each.mean()):.6g} or the sum "
        f"{float(each.sum()):.6g} of the losses of its samples; class weights, ignored targets and losses that "
        "couple samples have no per-sample form here"
    )


def likelihood(model: Model, outputs: Tensor) -> tuple[str, float]:
    """Kind of likelihood and the weight R of one observation in the loss.

    An observation is a labelled position: outputs (N, C, d1, ...) of a cross-entropy hold N*d1*... of
    them. For the Gaussian and the Bernoulli every output element counts on its own.

    Raises:
        ValueError: the loss is not recognised, weighs observations unequally, or does not fit the outputs.
    """
    recognised = _recognise(model.loss)
    if recognised is None:
        raise ValueError(
            f"loss: got {type(model.loss).__name__}, expected nn.CrossEntropyLoss, nn.MSELoss or "
            "nn.BCEWithLogitsLoss (or the functional form): the Fisher matrix needs the distribution of the targets; "
            "gauss_newton_* and empirical_fisher_* take any loss"
        )
    kind, options = recognised
    if not _plain(kind, options, model.targets):
        raise ValueError("loss: got class weights or ignored targets, expected a loss that weighs observations equally")
    if options["reduction"] == "none":
        raise ValueError("loss: got reduction='none', expected 'mean' or 'sum'")
    if outputs.dim() < (2 if kind == CATEGORICAL else 1) or outputs.shape[0] != model.batch:
        raise ValueError(
            f"module: returned shape {tuple(outputs.shape)}, expected (batch={model.batch}, outputs, ...) for this loss"
        )
    if kind != CATEGORICAL and outputs.shape != model.targets.shape:
        raise ValueError(
            f"targets: got shape {tuple(model.targets.shape)}, expected {tuple(outputs.shape)} like the module's "
            "outputs; broadcast, the loss compares every output with every target"
        )
    observations = outputs.numel() // (outputs.shape[1] if kind == CATEGORICAL else 1)
    return kind, 1.0 if options["reduction"] == "sum" else 1.0 / observations


def fisher_is_hessian(model: Model, outputs: Tensor) -> bool:
    """Whether :func:`output_fisher_product` is the loss's own Hessian by the outputs, whatever the targets."""
    recognised = _recognise(model.loss)
    if recognised is None or recognised[1]["reduction"] == "none" or not _plain(*recognised, model.targets):
        return False
    if recognised[0] == CATEGORICAL:
        # The Hessian scales with the sum of a target's probabilities, which need not be 1.
        return not model.targets.dtype.is_floating_point and outputs.dim() >= 2 and len(outputs) == model.batch
    return outputs.dim() >= 1 and outputs.shape == model.targets.shape and len(outputs) == model.batch


def output_fisher_product(model: Model, outputs: Tensor, u: Tensor) -> Tensor:
    """Lambda u, where Lambda = R E_y[grad_z l grad_z l^T] over y ~ p(y | outputs z); shaped like ``outputs``.

    Categorical: R (diag p - p p^T) (Martens 2020, eq. 18 ff.); Gaussian: 2 R I (the loss is a squared
    error without the factor 1/2); Bernoulli: R diag(p (1 - p)).
    """
    kind, weight = likelihood(model, outputs)
    if kind == GAUSSIAN:
        return 2.0 * weight * u
    if kind == BERNOULLI:
        p = outputs.sigmoid()
        return weight * p * (1 - p) * u
    p = outputs.softmax(1)
    pu = p * u
    return weight * (pu - p * pu.sum(1, keepdim=True))


def output_fisher_factor(model: Model, outputs: Tensor) -> Tensor:
    """S of shape (K, *outputs.shape) with Lambda = sum over k of S_k S_k^T, sample by sample.

    The expectation over the targets, term by term: categorical, S_c = sqrt(R p_c) (p - e_c), one a class
    (for d positions: one a class and position); Gaussian and Bernoulli: one a output element.
    """
    kind, weight = likelihood(model, outputs)
    per_sample = outputs[0].numel()
    if kind != CATEGORICAL:
        scale = outputs.new_full(outputs.shape, math.sqrt(2.0 * weight))
        if kind == BERNOULLI:
            p = outputs.sigmoid()
            scale = (weight * p * (1 - p)).sqrt()
        eye = torch.eye(per_sample, dtype=outputs.dtype, device=outputs.device)
        return (eye[:, None, :] * scale.reshape(1, outputs.shape[0], per_sample)).reshape(per_sample, *outputs.shape)
    classes = outputs.shape[1]
    positions = per_sample // classes
    p = outputs.softmax(1).reshape(outputs.shape[0], classes, positions)
    eye = torch.eye(classes, dtype=p.dtype, device=p.device)
    # (K=class, N, C, positions): sqrt(R p_k) (p - e_k) at each position
    factor = (weight * p).sqrt().permute(1, 0, 2)[:, :, None, :] * (p[None] - eye[:, None, :, None])
    if positions > 1:
        # Observations are independent: one factor a position, or their cross terms would enter.
        spread = torch.eye(positions, dtype=p.dtype, device=p.device)
        factor = (factor[:, None] * spread[None, :, None, None, :]).flatten(0, 1)
    return factor.reshape(-1, *outputs.shape)


def sampled_output_factor(model: Model, outputs: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Monte Carlo S of shape (samples, *outputs.shape) with E[sum_k S_k S_k^T] = Lambda sample by sample.

    S_k = sqrt(R / samples) grad_z l(z, y_k), y_k ~ p(y | z) drawn from ``generator``.
    """
    kind, weight = likelihood(model, outputs)
    shape = (samples, *outputs.shape)
    scale = math.sqrt(weight / samples)
    # Drawn in at least float32: the tails of a half-precision uniform are too coarse.
    dtype, device = working_dtype(outputs.dtype), generator.device
    if kind == GAUSSIAN:
        # l = |z - y|^2 is Gaussian of variance 1/2; its gradient 2 (z - y) is sqrt(2) times a normal.
        noise = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        return noise.to(outputs.device, outputs.dtype) * (scale * math.sqrt(2.0))
    if kind == BERNOULLI:
        p = outputs.sigmoid()
        uniform = torch.rand(shape, generator=generator, dtype=dtype, device=device).to(outputs.device)
        result: Tensor = (p - (uniform < p).to(p.dtype)) * scale
        return result
    p = outputs.softmax(1)
    # Gumbel-max: argmax(z + gumbel) ~ softmax(z).
    uniform = torch.rand(shape, generator=generator, dtype=dtype, device=device).to(outputs.device)
    tiny = torch.finfo(dtype).tiny
    gumbel = -(-(uniform.clamp_min(tiny)).log()).clamp_min(tiny).log()
    labels = (outputs + gumbel).argmax(2)
    one_hot = F.one_hot(labels, outputs.shape[1]).movedim(-1, 2).to(p.dtype)
    return (p - one_hot) * scale
