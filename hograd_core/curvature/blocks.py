"""Blocks of curvature matrices: by parameter, by layer or by groups of one's own, at the cost of the block.

Everything outside a block is a constant: nothing is recorded for it, and products, traces and eigenvalues of a block
never touch the rest of the matrix. A block on the diagonal is a symmetric operator like any other of
:mod:`hograd_core.curvature`; one beside it is part of the block of both groups together, and costs what that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._entrance import entrance
from hograd_core.arguments import _tree, changed, check_fits, packing, trainable_of
from hograd_core.curvature._dense import unit_vector
from hograd_core.curvature._model import Inputs, Loss
from hograd_core.curvature.fisher import fisher_vector_product
from hograd_core.curvature.gauss_newton import gauss_newton_vector_product
from hograd_core.curvature.linear_operator import MatrixOperator
from hograd_core.derivatives.derivative_vector_product import hvp

Groups = str | Mapping[str, Iterable[str]]
Pairs = str | Sequence[tuple[str, str]]

_MATRICES = {"gauss_newton": gauss_newton_vector_product, "fisher": fisher_vector_product}


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one group and the columns of another.

    Attributes:
        rows, columns: names of the groups.
        shape: (numbers of elements in the rows, in the columns).
        diagonal: of a block on the diagonal the operator, which goes wherever one does: ``extreme_eigenpairs``,
            ``hutchinson_trace``, ``conjugate_gradient``, …; else None.
    """

    rows: str
    columns: str
    shape: tuple[int, int]
    diagonal: MatrixOperator | None
    _union: MatrixOperator = field(repr=False)

    @entrance
    def matvec(self, v: Tensor) -> Tensor:
        """B v for v of as many elements as there are columns: one product of both groups together."""
        if self.diagonal is not None:
            return self.diagonal.matvec(v)
        return self._union.matvec(torch.cat([v.new_zeros(self.shape[0]), v]))[: self.shape[0]]

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.matvec(v)

    def matrix(self) -> Tensor:
        """All entries, by as many products as the shorter side is long.

        Raises:
            MemoryBudgetError: they are larger than what is free.
        """
        height, width = self.shape
        where = f"the block of {self.rows} and {self.columns}"
        check_fits(where, height * width * self._union.dtype.itemsize, self._union.device)
        union, shift = self._union, 0 if self.diagonal is not None else height
        if width <= height:
            columns = [union.matvec(unit_vector(union, shift + j))[:height] for j in range(width)]
            return torch.stack(columns, 1)
        # By symmetry the products with the rows' unit vectors hold the block transposed.
        return torch.stack([union.matvec(unit_vector(union, i))[shift:] for i in range(height)])

    def trace(self) -> Tensor:
        """The exact trace of a block on the diagonal, by n products and the memory of one.

        Raises:
            ValueError: it is not on the diagonal.
        """
        operator = self._on_diagonal("trace")
        return torch.stack([operator.matvec(unit_vector(operator, i))[i] for i in range(operator.n)]).sum()

    def eigenvalues(self) -> Tensor:
        """All eigenvalues of a block on the diagonal, ascending: n products and O(n³); few of many by
        ``extreme_eigenpairs(block.diagonal)``.

        Raises:
            ValueError: it is not on the diagonal.
        """
        self._on_diagonal("eigenvalues")
        values: Tensor = torch.linalg.eigvalsh(self.matrix())
        return values

    def _on_diagonal(self, what: str) -> MatrixOperator:
        if self.diagonal is None:
            raise ValueError(f"{what}: got the block of {self.rows} and {self.columns}, expected one on the diagonal")
        return self.diagonal


def groups_of(names: Sequence[str], by: Groups) -> dict[str, tuple[str, ...]]:
    """The names of a structure's leaves in groups, in their order.

    Args:
        names: dotted, as ``module.named_parameters()`` has them.
        by: "parameter", each alone; "layer", those that differ in the last part of the name; or groups of names.

    Raises:
        ValueError: there is no such way, or a group names what is not there, or one name is in two groups.
    """
    if isinstance(by, str):
        if by not in ("parameter", "layer"):
            raise ValueError(f"by: got {by!r}, expected 'parameter', 'layer' or a mapping of groups to names")
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            group = name if by == "parameter" else name.rpartition(".")[0] or name
            found[group] = (*found.get(group, ()), name)
        return found
    chosen = {group: tuple([members] if isinstance(members, str) else members) for group, members in by.items()}
    seen = [name for members in chosen.values() for name in members]
    unknown = sorted(set(seen) - set(names))
    if unknown or not seen:
        raise ValueError(f"by: got {unknown or 'no'} names, expected some of {', '.join(names)}")
    if len(set(seen)) < len(seen):
        raise ValueError(f"by: got {sorted({n for n in seen if seen.count(n) > 1})} in two groups, expected one each")
    return chosen


def hessian_blocks(
    f: Callable[..., Tensor],
    x: Any,
    *,
    args: tuple[Any, ...] = (),
    by: Groups = "parameter",
    pairs: Pairs = "diagonal",
    method: str | None = None,
) -> dict[tuple[str, str], Block]:
    """Blocks of the Hessian of f at a structure x.

    Args:
        f: function of x and ``args``, returning a 0-dimensional tensor.
        x: a structure of tensors of one dtype on one device; leaves have dotted names ("layers.0.weight").
        args: what f takes after x, not differentiated.
        by: how leaves are grouped; see :func:`groups_of`.
        pairs: "diagonal", "all", or pairs of groups.
        method: of ``derivative_vector_product``.

    Returns:
        (rows, columns) -> block; a block of groups of n elements costs products of n elements.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
    """
    leaves, structure = _tree.flatten(x)
    packing(x).refuse_mixed("hessian_blocks")
    names = _tree.names(x)

    def union(members: tuple[str, ...]) -> MatrixOperator:
        chosen = [names.index(name) for name in members]

        def restricted(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def of_some(some: list[Tensor], *further: Any) -> Tensor:
                values = [leaf.detach() for leaf in leaves]
                for i, leaf in zip(chosen, some, strict=True):
                    values[i] = leaf
                return f(_tree.unflatten(values, structure), *further)

            return of_some

        point = [leaves[i] for i in chosen]
        packed = packing(point)

        def product(v: Tensor) -> Tensor:
            found: Tensor = hvp(changed(f, restricted), point, packed.unpack(v), args=args, method=method, flat=True)
            return found

        return MatrixOperator(product, sum(packed.sizes), packed.dtype, packed.device)

    return _blocks(names, by, pairs, union)


def model_blocks(
    module: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    *,
    matrix: str = "gauss_newton",
    by: Groups = "parameter",
    pairs: Pairs = "diagonal",
    method: str | None = None,
) -> dict[tuple[str, str], Block]:
    """Blocks of the Gauss-Newton or the Fisher matrix of a model, as :func:`hessian_blocks` has them.

    Args:
        module: as ``gauss_newton_vector_product`` takes it.
        loss: likewise.
        inputs: likewise.
        targets: likewise.
        matrix: "gauss_newton", or "fisher" for the true one.
        by: how the trainable parameters are grouped; see :func:`groups_of`.
        pairs: "diagonal", "all", or pairs of groups.
        method: of ``gauss_newton_vector_product``, or of ``fisher_vector_product``.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    if matrix not in _MATRICES:
        raise ValueError(
            f"matrix: got {matrix!r}, expected one of {', '.join(_MATRICES)}; of a function: hessian_blocks"
        )
    parameters, operator = trainable_of(module), _MATRICES[matrix]

    def union(members: tuple[str, ...]) -> MatrixOperator:
        # In the order of the groups, which need not be the module's.
        packed = packing({name: parameters[name] for name in members})

        def product(v: Tensor) -> Tensor:
            by_name: Any = packed.unpack(v)
            return packed.pack(operator(module, loss, inputs, targets, by_name, method=method, parameters=members), "v")

        return MatrixOperator(product, sum(packed.sizes), packed.dtype, packed.device)

    return _blocks(tuple(parameters), by, pairs, union)


def _blocks(
    names: Sequence[str], by: Groups, pairs: Pairs, union: Callable[[tuple[str, ...]], MatrixOperator]
) -> dict[tuple[str, str], Block]:
    groups = groups_of(names, by)
    alone = {group: union(members) for group, members in groups.items()}
    if isinstance(pairs, str):
        if pairs not in ("diagonal", "all"):
            raise ValueError(f"pairs: got {pairs!r}, expected 'diagonal', 'all' or pairs of groups")
        pairs = [(a, b) for a in groups for b in groups if pairs == "all" or a == b]
    found = {}
    for pair in pairs:
        rows, columns = pair
        if rows not in groups or columns not in groups:
            raise ValueError(f"pairs: got {pair}, expected groups of {', '.join(groups)}")
        shape = alone[rows].n, alone[columns].n
        diagonal = alone[rows] if rows == columns else None
        both = alone[rows] if rows == columns else union(groups[rows] + groups[columns])
        found[rows, columns] = Block(rows, columns, shape, diagonal, both)
    return found
