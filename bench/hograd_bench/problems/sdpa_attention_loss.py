"""The same attention loss through PyTorch's fused kernel: what PyTorch itself refuses to differentiate twice."""

from __future__ import annotations

from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import (
    TOKENS,
    FusedAttentionBlock,
    attention_network,
    classification,
)


@problem(
    "sdpa_attention_loss",
    formula="attention_loss, with F.scaled_dot_product_attention on the backend that PyTorch picks",
    source="Vaswani et al. 2017, eq. 1; fused kernel: Dao et al. 2022; limits: pytorch/pytorch#116350, #128971",
    family="network",
    sizes={"n": "model dimension", "depth": "attention blocks", "batch": "sequences of 4 tokens"},
    provides=("module", "loss", "inputs", "targets"),
    # operations: a fused kernel orders and rescales as it likes; nobody has counted it.
)
def sdpa_attention_loss(spec: Spec, draw: Draw) -> Instance:
    """Same numbers as ``attention_loss``; only the precise instance (the truth) is held to the math backend."""
    inputs = draw.normal(spec.batch, TOKENS, spec.n)
    blocks = [FusedAttentionBlock(spec.n, math_only=draw.precise) for _ in range(spec.depth)]
    return classification(attention_network(blocks, spec.n, draw), draw, inputs)
