"""Wrong operators that share a formula at fault, as PyTorch's sources name it.

A family is found by the nodes that an operator puts on the tape, so that everything composed of a faulty operator
belongs to it. Formulas: ``tools/autograd/derivatives.yaml`` and ``torch/csrc/autograd/FunctionsManual.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TAYLOR = frozenset({"taylor", "reverse_over_taylor", "taylor_over_reverse"})
"""Methods that run hograd's own rules: their faults are its own, not PyTorch's."""


@dataclass(frozen=True)
class Family:
    """Operators with one fault.

    Attributes:
        name: heading.
        nodes: nodes of autograd's tape that belong to it.
        fault: the formula at fault and why, for who mends it.
        programs: names of reproductions.
        issues: numbers of PyTorch's issues on it.
        supposed: whether the fault is inferred from what is wrong, and not read in the source or said in an issue.
        nonfinite: whether the results are not finite instead of wrong.
    """

    name: str
    nodes: frozenset[str]
    fault: str
    programs: tuple[str, ...]
    issues: tuple[int, ...] = ()
    supposed: bool = False
    nonfinite: bool = False


def _family(
    name: str, nodes: Sequence[str], fault: str, programs: Sequence[str], issues: Sequence[int] = (), **marks: bool
) -> Family:
    full = (node if node.endswith("Backward") else f"{node}Backward0" for node in nodes)
    return Family(name, frozenset(full), fault, tuple(programs), tuple(issues), **marks)


FAMILIES = (
    _family(
        "Layer norm",
        ["NativeLayerNorm"],
        "`layer_norm_double_backward` and `layer_norm_jvp` take the saved `mean` and `rstd` for constants: they are "
        "outputs without history (`output_differentiability`), so what either formula is differentiated by next "
        "misses their dependence on the input. Recomputing them from the input mends both.",
        ["layer_norm reverse", "layer_norm forward"],
        [175754, 196700],
    ),
    _family(
        "Batch norm in training, instance norm",
        ["NativeBatchNorm", "NativeBatchNormLegit", "NativeBatchNormLegitNoStats", "BatchNormWithUpdate"],
        "`batchnorm_double_backward` and `batch_norm_jvp` take `save_mean` and `save_invstd` for constants, as layer "
        "norm does.",
        ["batch_norm reverse", "batch_norm forward"],
        [186256, 196699],
    ),
    _family(
        "Weight norm",
        ["WeightNormInterface"],
        "`_weight_norm_differentiable_backward` (aten/src/ATen/native/WeightNorm.cpp) computes with the saved norm, "
        "an output of the forward kernel without history, and takes it for a constant.",
        ["weight_norm"],
    ),
    _family(
        "Determinants",
        ["LinalgDet", "LinalgSlogdet"],
        "`linalg_det_jvp` and `slogdet_jvp` solve with the saved `LU` and `pivots`, which have no history: a second "
        "derivative of either misses the derivative of the inverse. Under torch.func, `linalg_det_backward` also "
        "takes the formula for singular matrices by SVD for every matrix.",
        ["det", "slogdet"],
        [192540, 192521, 196696, 196697],
    ),
    _family(
        "Linear solves",
        ["LinalgSolveEx", "LinalgEig"],
        "`linalg_solve_jvp` solves with the saved `LU` and `pivots`, which have no history: a second derivative misses "
        "the derivative of the inverse. `linalg_eig_backward` and `linalg_eig_jvp` call `linalg_solve`, and so inherit "
        "it one order later.",
        ["solve"],
        [192540, 196695],
    ),
    _family(
        "Inverse from a Cholesky factor",
        ["CholeskyInverse"],
        "`cholesky_inverse_jvp` has its last two factors in the wrong order: X·dL·X·Lᴴ for X·dL·Lᴴ·X, so that forward "
        "mode is wrong from order 1 on.",
        ["cholesky_inverse"],
        [198017],
    ),
    _family(
        "Triangular solve",
        ["TriangularSolve"],
        "`triangular_solve_jvp` multiplies with the whole tangent of the matrix, where only one triangle counts: "
        "forward mode is wrong from order 1 on where the other triangle moves.",
        ["triangular_solve"],
        supposed=True,
    ),
    _family(
        "Householder product",
        ["LinalgHouseholderProduct"],
        "`householder_product_jvp` is right once; differentiated again, in either mode, it misses terms.",
        ["householder_product"],
        [196698],
        supposed=True,
    ),
    _family(
        "cumprod at a zero, prod at two",
        ["Cumprod", "Prod"],
        "`cumprod_jvp` divides by the input and treats zeros as a case of its own, which is right once and drops terms "
        "where it is differentiated again. `prod_backward` goes through `cumprod` where zeros are, and inherits it.",
        ["cumprod"],
        [198017],
        supposed=True,
    ),
    _family(
        "scatter_reduce by product",
        ["ScatterReduce"],
        "`scatter_reduce_jvp` and the branch of `scatter_reduce_backward` for `prod` lose part of their dependence on "
        "the input when they are differentiated in forward mode.",
        ["scatter_reduce"],
        supposed=True,
    ),
    _family(
        "masked_select under vmap",
        ["MaskedSelect"],
        "`masked_select_backward` scatters a batched cotangent into an input that is not batched, by `masked_scatter`, "
        "whose batching rule does not broadcast input and mask: entries of one cotangent land in another.",
        ["masked_select"],
        supposed=True,
    ),
    _family(
        "cdist under vmap",
        ["Cdist"],
        "`_cdist_backward` is differentiable from 2.14 on, by a formula that is wrong where its cotangent is batched.",
        ["cdist"],
        supposed=True,
    ),
    _family(
        "Chunked linear cross entropy",
        [
            "GeneratedBackwardFor_torch_nn__linear_cross_entropy_batch_chunked_defaultBackward",
            "GeneratedBackwardFor_torch_nn__linear_cross_entropy_batch_chunked_no_reduction_defaultBackward",
        ],
        "With `options`, `torch.nn._linear_cross_entropy_batch_chunked` computes the gradient in forward, and its "
        "backward multiplies with that constant: every second derivative in the inputs is zero, without an error.",
        ["linear_cross_entropy"],
    ),
    _family(
        "autograd.Function with a jvp of its own",
        ["_WithJvpBackward"],
        "Where forward mode is nested, the outer level takes what the Function's `jvp` returns for a constant: its "
        "derivative is zero, without an error.",
        ["custom jvp"],
        supposed=True,
    ),
    _family(
        "autograd.Function marked once_differentiable",
        ["_OnceBackward"],
        "`once_differentiable` cuts the tape by an error node, which `torch.autograd.grad` with inputs and "
        "`allow_unused=True` never runs: it answers None, which `torch.autograd.functional` and `torch.func` "
        "make zero.",
        ["once_differentiable"],
    ),
    _family(
        "logcumsumexp",
        ["Logcumsumexp"],
        "`logcumsumexp_backward` computes with `grad.abs().log()`: where an entry of the cotangent is 0 its derivative "
        "is NaN, though the function is linear in it.",
        ["logcumsumexp"],
        nonfinite=True,
    ),
)


def of(nodes: Sequence[str]) -> list[Family]:
    """The families that an operator belongs to, by its nodes."""
    return [family for family in FAMILIES if family.nodes & set(nodes)]
