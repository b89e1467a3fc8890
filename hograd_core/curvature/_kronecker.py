"""Block-diagonal matrices whose blocks are Kronecker products, and their damped inverses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hograd_core._entrance import entrance
from hograd_core.curvature._model import check_damping
from hograd_core.curvature._precision import widened


@dataclass(frozen=True)
class KroneckerBlock:
    """One layer's block: in matrix form, V -> G V A.

    Attributes:
        layer: the layer's name in its module.
        parameters: its trainable parameters' names, weight before bias.
        inputs: A, symmetric, (columns, columns); columns = in features, and one more for a bias.
        outputs: G, symmetric, (out, out).
    """

    layer: str
    parameters: tuple[str, ...]
    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class KroneckerInverse:
    """The damped inverse, ready for many vectors; made by :meth:`KFAC.inverse`."""

    _kfac: KFAC
    _apply: tuple[Callable[[Tensor], Tensor], ...]

    @entrance
    def matvec(self, v: Tensor) -> Tensor:
        """(K + damping)^-1 v for v of shape (P,)."""
        return self._kfac.map_blocks(v, self._apply)


@dataclass(frozen=True)
class KFAC:
    """A block-diagonal approximation K of the Fisher matrix, a Kronecker product a layer.

    Attributes:
        blocks: the layers' blocks, in the order of the layers in the module.
        model_names, model_shapes: the parameters' names and shapes in the order of the flat vector.
    """

    blocks: tuple[KroneckerBlock, ...]
    model_names: tuple[str, ...]
    model_shapes: tuple[torch.Size, ...]

    @property
    def _slices(self) -> dict[str, slice]:
        found, start = {}, 0
        for name, shape in zip(self.model_names, self.model_shapes, strict=True):
            found[name] = slice(start, start + shape.numel())
            start += shape.numel()
        return found

    def map_blocks(self, v: Tensor, maps: tuple[Callable[[Tensor], Tensor], ...]) -> Tensor:
        """Apply a linear map (out, columns) -> (out, columns) to each block of a flat vector."""
        result, slices = torch.empty_like(v), self._slices
        for block, apply in zip(self.blocks, maps, strict=True):
            rows = block.outputs.shape[0]
            matrix = torch.cat([v[slices[name]].reshape(rows, -1) for name in block.parameters], 1)
            mapped, start = apply(matrix), 0
            for name in block.parameters:
                width = (slices[name].stop - slices[name].start) // rows
                result[slices[name]] = mapped[:, start : start + width].reshape(-1)
                start += width
        return result

    @entrance
    def matvec(self, v: Tensor) -> Tensor:
        """K v for v of shape (P,). Cost of a layer: out² columns + out columns² multiplications."""
        return self.map_blocks(v, tuple(lambda m, b=b: b.outputs @ m @ b.inputs for b in self.blocks))  # type: ignore[misc]

    @entrance
    def dense(self) -> Tensor:
        """K itself, (P, P), zero between layers."""
        size = sum(shape.numel() for shape in self.model_shapes)
        first = self.blocks[0].inputs
        eye = torch.eye(size, dtype=first.dtype, device=first.device)
        return torch.stack([self.matvec(column) for column in eye.unbind(1)], 1)

    @entrance
    def diagonal(self) -> Tensor:
        """The diagonal of K, (P,), without forming it."""
        size = sum(shape.numel() for shape in self.model_shapes)
        ones = torch.ones(size, dtype=self.blocks[0].inputs.dtype, device=self.blocks[0].inputs.device)
        return self.map_blocks(
            ones,
            tuple(lambda m, b=b: torch.outer(b.outputs.diagonal(), b.inputs.diagonal()) for b in self.blocks),  # type: ignore[misc]
        )

    @entrance
    def inverse(self, damping: float, form: str = "exact") -> KroneckerInverse:
        """The damped inverse for many products.

        Args:
            damping: lambda > 0.
            form: "exact" is (A kron G + lambda I)^-1 by the factors' eigenvectors (Grosse & Martens 2016, §4.2);
                "factored" is (A + pi sqrt(lambda) I)^-1 kron (G + sqrt(lambda)/pi I)^-1 with
                pi² = (tr A / dim A) / (tr G / dim G) (Martens & Grosse 2015, §6.3), by Cholesky factors: cheaper to
                build, but another matrix.

        Returns:
            The inverse. Building costs O(out³ + columns³) a layer, a product as much as one with K.

        Raises:
            ValueError: unknown form, or a damping that is not positive.
            FloatingPointError: a factor holds a value that is not finite.
        """
        damping = check_damping(damping, positive=True)
        forms = {"exact": _exact_inverse, "factored": _factored_inverse}
        if form not in forms:
            raise ValueError(f"form: got {form!r}, expected one of {', '.join(forms)}")
        for block in self.blocks:
            if not bool(block.inputs.isfinite().all() and block.outputs.isfinite().all()):
                raise FloatingPointError(f"module: the Kronecker factors of {block.layer or 'itself'} are not finite")
        return KroneckerInverse(self, tuple(forms[form](block, damping) for block in self.blocks))


def _exact_inverse(block: KroneckerBlock, damping: float) -> Callable[[Tensor], Tensor]:
    a, left = torch.linalg.eigh(widened(block.inputs))
    g, right = torch.linalg.eigh(widened(block.outputs))
    # Both factors are positive semi-definite; rounding must not turn the damping around.
    scale = torch.outer(g.clamp_min(0), a.clamp_min(0)) + damping
    return lambda m: (right @ ((right.T @ widened(m) @ left) / scale) @ left.T).to(m.dtype)


def _factored_inverse(block: KroneckerBlock, damping: float) -> Callable[[Tensor], Tensor]:
    mean_a = float(block.inputs.diagonal().mean())
    mean_g = float(block.outputs.diagonal().mean())
    # A factor that vanishes leaves the split free.
    pi = math.sqrt(mean_a / mean_g) if mean_a > 0 and mean_g > 0 else 1.0
    root = math.sqrt(damping)
    a = torch.linalg.cholesky(_shifted(block.inputs, pi * root))
    g = torch.linalg.cholesky(_shifted(block.outputs, root / pi))
    return lambda m: torch.cholesky_solve(torch.cholesky_solve(widened(m), g).T, a).T.to(m.dtype)


def _shifted(matrix: Tensor, shift: float) -> Tensor:
    shifted = widened(matrix).clone()
    shifted.diagonal().add_(shift)
    return shifted
