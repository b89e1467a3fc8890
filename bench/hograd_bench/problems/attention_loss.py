"""Training loss of self-attention, written out in matrix products and softmax, over its flat parameters."""

from __future__ import annotations

from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import (
    CLASSES,
    TOKENS,
    AttentionBlock,
    attention_network,
    classification,
    cross_entropy_operations,
    product_operations,
    softmax_operations,
    times,
    total,
)


def _operations(s: Spec) -> dict[str, int]:
    tokens = s.batch * TOKENS
    block = total(
        times(4, product_operations(tokens, s.n, s.n)),
        product_operations(tokens, s.n, TOKENS),
        {"mul": tokens * TOKENS},
        softmax_operations(tokens, TOKENS),
        product_operations(tokens, TOKENS, s.n),
        {"add": tokens * s.n},
    )
    pool = {"add": s.batch * s.n * (TOKENS - 1), "div": s.batch * s.n}
    head = product_operations(s.batch, s.n, CLASSES, bias=True)
    return total(times(s.depth, block), pool, head, cross_entropy_operations(s.batch))


@problem(
    "attention_loss",
    formula="f(θ) = mean_b CE(W mean_tokens(h_b) + c, y_b), h = X + softmax(X W_q (X W_k)ᵀ/√n) X W_v W_o, θ flat",
    source="Vaswani et al. 2017, eq. 1 and §3.1 (residual), single head, no normalisation",
    family="network",
    sizes={"n": "model dimension", "depth": "attention blocks", "batch": "sequences of 4 tokens"},
    provides=("module", "loss", "inputs", "targets"),
    operations=_operations,
)
def attention_loss(spec: Spec, draw: Draw) -> Instance:
    """Tokens normal, labels uniform over 3 classes; every differentiation method has formulas for it."""
    inputs = draw.normal(spec.batch, TOKENS, spec.n)
    blocks = [AttentionBlock(spec.n) for _ in range(spec.depth)]
    return classification(attention_network(blocks, spec.n, draw), draw, inputs)
