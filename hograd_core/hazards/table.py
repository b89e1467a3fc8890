"""What PyTorch differentiates wrongly, as the atlas found it: the data of the guard.

Each entry is proved by the atlas in both directions: what it lists is wrong there, and what is wrong there is listed
(tests/studies). The lowest wrong order counts for all higher ones. NaN where the derivative is finite counts as wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hograd_core.hazards import _graph
from hograd_core.hazards._hazard import Hazard

TESTED = ("2.13.0", "2.14.1")
"""Versions of torch that the atlas has run on; another one counts as the nearest of these."""

# The methods by what they do to f, innermost mode last.
_REVERSE_TWICE = (
    "functional", "functional_vectorized", "rows", "batched_rows", "jacrev_of_grad", "double_backward",
    "functional_hvp", "functional_vhp", "vjp_of_grad", "double_vjp", "nested_grad", "nested_backward",
)  # fmt: skip
_FORWARD_OVER_REVERSE = ("func_hessian", "vmap_hvp", "jvp_of_grad")
_REVERSE_OVER_FORWARD = ("grad_of_jvp",)
_FORWARD_TWICE = ("nested_jvp",)
_TAPE_WITHIN_TAPE = ("functional_hvp", "double_vjp")  # which sweep the first backward pass twice

RIGHT = (
    "double_backward", "jvp_of_grad", "rows", "func_hessian", "nested_grad", "taylor", "reverse_over_taylor",
    "taylor_over_reverse", "grad_of_jvp", "finite_difference",
)  # fmt: skip
"""Methods to recommend where they are right, best first."""


def _from(order: int, *groups: tuple[str, ...]) -> dict[str, int]:
    return {method: order for group in groups for method in group}


_STATISTICS = "the backward pass takes the saved mean and rstd for constants"
_LU = "the forward formula takes the saved LU factors for constants"
_NORMS = {
    **_from(3, _REVERSE_TWICE, _FORWARD_OVER_REVERSE),
    **_from(2, _REVERSE_OVER_FORWARD, _FORWARD_TWICE),
}
_FACTORED = {**_from(3, _FORWARD_OVER_REVERSE), **_from(2, _REVERSE_OVER_FORWARD, _FORWARD_TWICE)}


def _training(node: Any) -> bool:
    return bool(node._saved_training)


def _by_product(node: Any) -> bool:
    return bool(node._saved_reduce == "prod")


def _with_zeros(node: Any) -> bool:
    return bool((_graph.plain(node._saved_self) == 0).any())


def _near_zero(root: int) -> Callable[[Any], bool]:
    """Whether entries are so near 0 that a quotient by their square, or their third power, is nothing but rounding."""

    def holds(node: Any) -> bool:
        x = _graph.plain(node._saved_self)
        return bool((x.abs() < 10 * torch.finfo(x.dtype).eps ** (1 / root)).any())

    return holds


def _mask_is_broadcast(node: Any) -> bool:
    return bool(node._saved_mask.shape != node._saved_self.shape)


def _once_differentiable(node: Any) -> bool:
    function = _graph.custom_function(node)
    code = getattr(getattr(function, "backward", None), "__code__", None)
    return code is not None and code.co_name == "wrapper" and code.co_filename == torch.autograd.function.__file__


def _with_jvp(node: Any) -> bool:
    function = _graph.custom_function(node)
    return function is not None and function.jvp is not torch.autograd.Function.jvp


_VIEWS = {
    "Alias", "AsStrided", "Diagonal", "Expand", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "Squeeze", "T",
    "Transpose", "Unbind", "Unfold", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip


def _addresses_a_part(node: Any) -> bool:
    """Whether a node counts an offset from the start of memory, and its tensor lies somewhere in that of another."""
    if node._saved_storage_offset is None:
        return False
    node = node.next_functions[0][0]
    while node is not None and node.name().partition("Backward")[0] in _VIEWS:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SplitWithSizesBackward")


HAZARDS: tuple[Hazard, ...] = (
    Hazard("layer_norm", ("NativeLayerNormBackward0",), _NORMS, _STATISTICS, TESTED),
    Hazard(
        "batch_norm in training mode, instance_norm",
        ("NativeBatchNormBackward0", "NativeBatchNormLegitBackward0", "NativeBatchNormLegitBackward1"),
        _NORMS,
        _STATISTICS,
        TESTED,
        when=_training,
    ),
    Hazard("batch_norm in training mode", ("BatchNormWithUpdateBackward0",), _NORMS, _STATISTICS, TESTED),
    Hazard(
        "weight_norm",
        ("WeightNormInterfaceBackward0",),
        _from(2, _REVERSE_TWICE),
        "_weight_norm_differentiable_backward takes the saved norms for constants",
        TESTED,
    ),
    Hazard(
        "linalg.det",
        ("LinalgDetBackward0",),
        {**_FACTORED, **_from(3, ("jacrev_of_grad", "vjp_of_grad"))},
        f"{_LU}; at a singular matrix also the third derivative in reverse mode",
        TESTED,
    ),
    Hazard("slogdet, logdet", ("LinalgSlogdetBackward0",), _FACTORED, _LU, TESTED),
    Hazard("linalg.solve, tensorsolve", ("LinalgSolveExBackward0",), _FACTORED, _LU, TESTED),
    Hazard(
        "linalg.householder_product",
        ("LinalgHouseholderProductBackward0",),
        _FACTORED,
        "householder_product_jvp is not differentiable as it is written",
        TESTED,
    ),
    Hazard(
        "cholesky_inverse",
        ("CholeskyInverseBackward0",),
        {**_from(2, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD), **_from(1, _FORWARD_TWICE)},
        "cholesky_inverse_jvp has its last two factors in the wrong order",
        TESTED,
    ),
    Hazard(
        "triangular_solve",
        ("TriangularSolveBackward0",),
        {**_from(2, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD), **_from(1, _FORWARD_TWICE)},
        "triangular_solve_jvp lets the other triangle in",
        TESTED,
    ),
    Hazard(
        "scatter_reduce with prod",
        ("ScatterReduceBackward0",),
        _from(2, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD, _FORWARD_TWICE),
        "scatter_reduce_jvp takes the product for a constant",
        TESTED,
        when=_by_product,
        substitute=False,
    ),
    Hazard(
        "linalg.eig, eigvals",
        ("LinalgEigBackward0",),
        _from(3, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD, _FORWARD_TWICE),
        "linalg_eig_jvp is not differentiable as it is written",
        TESTED,
        substitute=False,
    ),
    Hazard(
        "cumprod",
        ("CumprodBackward0",),
        {**_from(2, _REVERSE_OVER_FORWARD, _FORWARD_TWICE), **_from(3, _FORWARD_OVER_REVERSE)},
        "cumprod_jvp treats zeros as a case of its own, which is right once",
        TESTED,
        when=_with_zeros,
    ),
    Hazard(
        "prod",
        ("ProdBackward0", "ProdBackward1"),
        _from(3, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD, _FORWARD_TWICE),
        "its backward goes through cumprod where zeros are",
        TESTED,
        when=_with_zeros,
    ),
    Hazard(
        "cdist",
        ("CdistBackward0",),
        _from(2, ("jacrev_of_grad",)),
        "the batching rule of its double backward mixes axes",
        ("2.14.1",),
    ),
    *(
        Hazard(
            operator,
            ("SincBackward0",),
            _from(order, _REVERSE_TWICE, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD, _FORWARD_TWICE),
            "its backward is 0 at 0, a quotient by the square of the input elsewhere, and is differentiated as it is",
            TESTED,
            when=_near_zero(order),
        )
        for operator, order in (("sinc at 0", 2), ("sinc near 0", 3))
    ),
    Hazard(
        "logcumsumexp",
        ("LogcumsumexpBackward0",),
        {**_from(3, _REVERSE_TWICE), **_from(2, _TAPE_WITHIN_TAPE)},
        "its backward pass takes logarithms of the gradient, of which a zero one makes NaN",
        TESTED,
    ),
    Hazard(
        "linear_cross_entropy in chunks",
        (
            "GeneratedBackwardFor_torch_nn__linear_cross_entropy_batch_chunked_defaultBackward",
            "GeneratedBackwardFor_torch_nn__linear_cross_entropy_batch_chunked_no_reduction_defaultBackward",
        ),
        _from(2, tuple(m for m in _REVERSE_TWICE if m not in ("jacrev_of_grad", "vjp_of_grad")), _FORWARD_TWICE),
        "its gradient, computed in the forward pass, is a constant to the second one",
        TESTED,
    ),
    Hazard(
        "group_norm",
        ("NativeGroupNormBackward0",),
        _from(2, ("functional_vectorized", "batched_rows")),
        "the batching rule of its double backward mixes axes",
        ("2.13.0",),
    ),
    Hazard(
        "masked_select with a broadcast mask",
        ("MaskedSelectBackward0",),
        _from(2, ("jacrev_of_grad",)),
        "the batching rule of its backward scatters into the mask's shape",
        TESTED,
        when=_mask_is_broadcast,
    ),
    Hazard(
        "a torch.autograd.Function with @once_differentiable",
        (_graph.CUSTOM,),
        # On the tape PyTorch says so only where what comes into its backward requires grad; from a sum nothing does.
        _from(2, _REVERSE_TWICE, _FORWARD_OVER_REVERSE),
        "its backward is taken for a constant",
        TESTED,
        when=_once_differentiable,
        substitute=False,
    ),
    Hazard(
        "a torch.autograd.Function with its own jvp",
        (_graph.CUSTOM,),
        {**_from(2, _FORWARD_TWICE), **_from(3, _FORWARD_OVER_REVERSE, _REVERSE_OVER_FORWARD)},
        "forward mode over its jvp takes what it saved for constants",
        TESTED,
        when=_with_jvp,
        substitute=False,
    ),
)

OWN = (
    Hazard(
        "as_strided with a storage offset, of a leaf of a structure",
        ("AsStridedBackward0", "AsStridedBackward0_copy", "AsStridedScatterBackward0"),
        {"*": 1},
        "leaves are parts of one flat tensor, from whose start the offset counts; have f clone the leaf before",
        TESTED,
        when=_addresses_a_part,
        substitute=False,
    ),
)
"""What would be wrong by the way in which structures are handed to f here, not by PyTorch's fault."""
