"""Rules of the fused attention kernels, by definition: softmax(scale Q Kᵀ + mask) V (Vaswani et al. 2017, eq. 1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hograd_core.taylor import _series as s
from hograd_core.taylor._compound import _safe_softmax
from hograd_core.taylor._jet import MissingRuleError, aten, rule
from hograd_core.taylor._products import _matrices
from hograd_core.taylor._series import Operand


def _primal(u: Any) -> Tensor:
    value: Tensor = u.primal if isinstance(u, s.Series) else u
    return value


def _changed(u: Any, function: Any) -> Any:
    return u.map(function) if isinstance(u, s.Series) else function(u)


def _product(u: Any, v: Any) -> Operand:
    """u @ v over equal leading dimensions."""
    lead = _primal(u).shape[:-2]
    flat = [_changed(x, lambda c: c.reshape(-1, *c.shape[-2:])) for x in (u, v)]
    both_fixed = not any(isinstance(x, s.Series) for x in flat)
    product: Any = torch.bmm(*flat) if both_fixed else _matrices(*flat)
    result: Operand = _changed(product, lambda c: c.reshape(*lead, *c.shape[-2:]))
    return result


def _weights(q: Any, k: Any, mask: Any, causal: bool, scale: float) -> Operand:
    """softmax(scale Q Kᵀ + mask)."""
    scores = _product(_changed(q, lambda c: c * scale), _changed(k, lambda c: c.mT))
    if causal:
        rows, columns = _primal(scores).shape[-2:]
        keep = torch.ones(rows, columns, dtype=torch.bool, device=_primal(scores).device).tril()
        scores = _plus(scores, torch.where(keep, 0.0, -math.inf).to(_primal(scores).dtype))
    if mask is not None:
        if isinstance(mask, Tensor) and mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, -math.inf).to(_primal(scores).dtype)
        scores = _plus(scores, mask)
    return _safe_softmax(scores, -1) if isinstance(scores, s.Series) else torch.softmax(_primal(scores), -1)


def _scale_of(q: Any, scale: float | None) -> float:
    return float(_primal(q).shape[-1]) ** -0.5 if scale is None else scale


def _attention(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float | None) -> Operand:
    return _product(_weights(q, k, mask, causal, _scale_of(q, scale)), v)


def _plus(a: Any, b: Any) -> Any:
    return s.add(a, b) if isinstance(a, s.Series) or isinstance(b, s.Series) else a + b


def _without_dropout(operation: Any, probability: float) -> None:
    if probability > 0:
        raise MissingRuleError(operation, "dropout is random; call .eval() on the module or set dropout_p=0")


@rule(aten._scaled_dot_product_flash_attention_for_cpu)
def _for_cpu(
    q: Any, k: Any, v: Any, dropout_p: float = 0.0, is_causal: bool = False, *, attn_mask: Any = None, scale: Any = None
) -> Any:  # fmt: skip
    _without_dropout("scaled_dot_product_attention", dropout_p)
    return _attention(q, k, v, attn_mask, is_causal, scale), _primal(q).new_empty(0)


@rule(aten._scaled_dot_product_efficient_attention)
def _efficient(
    q: Any, k: Any, v: Any, attn_bias: Any, compute_log_sumexp: bool, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: Any = None,
) -> Any:  # fmt: skip
    _without_dropout("scaled_dot_product_attention", dropout_p)
    seed = torch.zeros((), dtype=torch.long)
    return _attention(q, k, v, attn_bias, is_causal, scale), _primal(q).new_empty(0), seed, seed


def _nine(result: Any, like: Tensor) -> Any:
    empty, number = like.new_empty(0), torch.zeros((), dtype=torch.long)
    length = like.shape[-2]
    return result, empty, empty, empty, length, length, number, number, empty


@rule(aten._scaled_dot_product_flash_attention)
def _flash(
    q: Any, k: Any, v: Any, dropout_p: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False,
    *, scale: Any = None,
) -> Any:  # fmt: skip
    _without_dropout("scaled_dot_product_attention", dropout_p)
    return _nine(_attention(q, k, v, None, is_causal, scale), _primal(q))


@rule(aten._scaled_dot_product_cudnn_attention)
def _cudnn(
    q: Any, k: Any, v: Any, attn_bias: Any, compute_log_sumexp: bool, dropout_p: float = 0.0, is_causal: bool = False,
    return_debug_mask: bool = False, *, scale: Any = None,
) -> Any:  # fmt: skip
    _without_dropout("scaled_dot_product_attention", dropout_p)
    return _nine(_attention(q, k, v, attn_bias, is_causal, scale), _primal(q))


def _times(a: Any, b: Any) -> Any:
    return s.multiply(a, b) if isinstance(a, s.Series) or isinstance(b, s.Series) else a * b


@rule(aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _for_cpu_backward(
    g: Any, q: Any, k: Any, v: Any, out: Any, logsumexp: Any, dropout_p: float, is_causal: bool,
    *, attn_mask: Any = None, scale: Any = None,
) -> Any:  # fmt: skip
    """P the weights, P' = G Vᵀ: ∂V = Pᵀ G, S' = P ∘ (P' − rowsum(P ∘ P')), ∂Q = scale S' K, ∂K = scale S'ᵀ Q."""
    factor = _scale_of(q, scale)
    weights = _weights(q, k, attn_mask, is_causal, factor)
    to_weights = _product(g, _changed(v, lambda c: c.mT))
    weighted = _times(weights, to_weights)
    mean = _changed(weighted, lambda c: c.sum(-1, keepdim=True))
    to_scores = _plus(weighted, _changed(_times(weights, mean), torch.neg))
    to_q = _changed(_product(to_scores, k), lambda c: c * factor)
    to_k = _changed(_product(_changed(to_scores, lambda c: c.mT), q), lambda c: c * factor)
    return to_q, to_k, _product(_changed(weights, lambda c: c.mT), g)
