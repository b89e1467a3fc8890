"""Training losses of small networks as functions of one flat parameter vector, and their operation counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import hograd_core
from hograd_bench.problems._contract import Draw, Instance

CLASSES = 3
TOKENS = 4
IMAGE = 6


def classification(module: nn.Module, draw: Draw, inputs: Tensor) -> Instance:
    """Mean cross-entropy of ``module`` on a batch, at its parameters.

    Args:
        module: maps inputs to logits of shape (batch, CLASSES).
        draw: the source of the labels.
        inputs: batch first.

    Returns:
        An instance whose x is the flat parameter vector, in the order of ``module.named_parameters()``, and
        whose extras are ``module``, ``loss``, ``inputs`` and ``targets``.
    """
    targets = draw.integers(CLASSES, len(inputs))
    f, x = hograd_core.from_module(module, F.cross_entropy, (inputs, targets))
    extras = {"module": module, "loss": F.cross_entropy, "inputs": inputs, "targets": targets}
    return Instance(f, x, extras=extras)


class AttentionBlock(nn.Module):
    """Single-head self-attention with a residual: X + softmax(X W_q (X W_k)ᵀ / √n) X W_v W_o.

    Source: Vaswani et al. 2017, eq. 1. Input and output have shape (batch, tokens, n).
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(n, n, bias=False) for _ in range(4))
        self.scale = 1 / math.sqrt(n)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        mixed: Tensor = self.out(self.attend(self.query(x), self.key(x), self.value(x)))
        return x + mixed

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention written out, so that every differentiation method has formulas for it."""
        scores: Tensor = (q @ k.transpose(-2, -1)) * self.scale
        return scores.softmax(-1) @ v


class FusedAttentionBlock(AttentionBlock):
    """The same function through ``F.scaled_dot_product_attention``.

    With ``math_only`` PyTorch's own decomposed backend is forced: equal in exact arithmetic, and differentiable
    at every order, which the fused kernels that PyTorch picks by default are not.
    """

    def __init__(self, n: int, *, math_only: bool) -> None:
        super().__init__(n)
        self.math_only = math_only

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention by PyTorch's kernel, with a head dimension of one."""
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        if self.math_only:
            with sdpa_kernel(SDPBackend.MATH):
                return F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return F.scaled_dot_product_attention(q, k, v).squeeze(1)


def attention_network(blocks: Sequence[AttentionBlock], n: int, draw: Draw) -> nn.Module:
    """Blocks, mean over tokens and a linear head, with drawn parameters.

    The output weights of each block are scaled by 1/sqrt(number of blocks), so that the residual stream does
    not grow with depth (Radford et al. 2019, §2.3).
    """
    module = draw.module(nn.Sequential(*blocks, MeanOverTokens(), nn.Linear(n, CLASSES)))
    for block in blocks:
        block.out.weight.data = draw.tensor(block.out.weight.detach().double() * len(blocks) ** -0.5)
    return module


class MeanOverTokens(nn.Module):
    """(batch, tokens, n) -> (batch, n)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the token dimension."""
        return x.mean(1)


class MeanOverPixels(nn.Module):
    """(batch, channels, height, width) -> (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over both image dimensions."""
        return x.mean((-2, -1))


def total(*counts: dict[str, int]) -> dict[str, int]:
    """Sum of operation counts."""
    keys = dict.fromkeys(itertools.chain.from_iterable(counts))
    return {key: sum(c.get(key, 0) for c in counts) for key in keys}


def times(factor: int, counts: dict[str, int]) -> dict[str, int]:
    """Operation counts, repeated."""
    return {key: factor * value for key, value in counts.items()}


def product_operations(rows: int, inner: int, columns: int, *, bias: bool = False) -> dict[str, int]:
    """A matrix product: inner multiplications and inner - 1 additions an entry, one more for a bias."""
    return {"mul": rows * inner * columns, "add": rows * columns * (inner - 1 + bias)}


def softmax_operations(rows: int, width: int) -> dict[str, int]:
    """Softmax of each row, shifted by its maximum."""
    return {
        "compare": rows * (width - 1),
        "add": rows * (width + width - 1),
        "transcendental": rows * width,
        "div": rows * width,
    }


def cross_entropy_operations(batch: int) -> dict[str, int]:
    """Mean cross-entropy by log-softmax: shift, exp, sum, log, shift for all classes; mean of the picked ones.

    A change of sign is not counted.
    """
    return {
        "compare": batch * (CLASSES - 1),
        "add": batch * (CLASSES + CLASSES - 1 + CLASSES) + batch - 1,
        "transcendental": batch * (CLASSES + 1),
        "div": 1,
    }
