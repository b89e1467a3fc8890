"""The Hessian's diagonal by second derivatives at the outputs of layers, sample by sample.

Let z be a value of f whose rows are samples, and f = sum over n of f_n(z_n). With H_n the Hessian of f_n by z_n, a
weight that enters by z = a W contributes sum over n of a_nj² (H_n)_ii to the diagonal, and through u -> z(u) the
Hessian by u is J^T H J + sum over k of (df/dz_k) d²z_k/du² (Mizutani & Dreyfus 2008, §2; Dangel, Kunstner & Hennig
2020, where it is kept as a factor). Here H_n is kept as S^T C S + diag(e), a matrix of its own size where S would have
more rows than columns; second derivatives of elementwise functions are a diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core.arguments import check_fits
from hograd_core.curvature._precision import widened
from hograd_core.curvature._samples import AFFINE, ELEMENTWISE, Link, Site
from hograd_core.curvature._separable import Plan
from hograd_core.curvature._tape import Tape, Value, aside
from hograd_core.derivatives._autograd import grad_or_zeros, leaf, refuse_once_differentiable
from hograd_core.hazards import _graph


def layer_diagonal(f: ScalarFunction, x: Tensor) -> tuple[Tensor, list[int]]:
    """The diagonal, (n,), and the elements of x that products with the whole Hessian were made for."""
    point = leaf(x)
    with aside():
        tape = Tape(point)
    try:
        with tape:
            value = f(point)
        return _from_tape(tape, value, point, x)
    finally:
        tape.close()


def _from_tape(tape: Tape, value: Tensor, point: Tensor, x: Tensor) -> tuple[Tensor, list[int]]:
    n = x.numel()
    with aside():
        root = tape.value(value)
    if root is None and not tape.lost:
        return x.new_zeros(n), []
    # What a function of the caller's own does in its backward pass is not seen.
    if root is None or tape.lost or any(map(_graph.custom_function, _graph.nodes(_graph.recorded(value)))):
        return _columns(value, point, [*range(n)]), [*range(n)]
    plan = Plan(tape, root)
    found = [part for cut, form in _forms(plan) for site in plan.of(cut).sites for part in _entries(site, cut, form)]
    diagonal = _laid_out(found, x)
    with aside():
        unknown: list[int] = (~plan.known).nonzero().reshape(-1).tolist()
        rest = torch.tensor(unknown, dtype=torch.int64, device=x.device)
    return diagonal.index_put((rest,), _columns(value, point, unknown)) if unknown else diagonal, unknown


def _columns(value: Tensor, point: Tensor, chosen: list[int]) -> Tensor:
    """Some entries, (k,), by a product each."""
    slope = grad_or_zeros(value, point, create_graph=True, retain_graph=True).reshape(-1)
    rows = (grad_or_zeros(slope[i], point, create_graph=False, retain_graph=True).reshape(-1)[i] for i in chosen)
    return torch.stack([*rows])


class Form(NamedTuple):
    """The Hessian of each sample by the elements of its row of a cut, S^T C S + diag(e).

    Attributes:
        rows: S, (N, r, d); None: the identity.
        core: C, (N, r, r); None: zero.
        extra: e, (N, d); None: zero.
    """

    rows: Tensor | None = None
    core: Tensor | None = None
    extra: Tensor | None = None

    def diagonal(self) -> Tensor | None:
        """(N, d); None: zero."""
        found = None
        if self.core is not None and self.rows is None:
            found = self.core.diagonal(dim1=1, dim2=2)
        elif self.core is not None and self.rows is not None:
            found = ((self.core @ self.rows) * self.rows).sum(1)
        return _sum(found, self.extra)

    def whole(self) -> Tensor | None:
        """(N, d, d); None: zero."""
        core = self.core
        if core is not None and self.rows is not None:
            core = self.rows.mT @ (core @ self.rows)
        return _sum(core, None if self.extra is None else torch.diag_embed(self.extra))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _flat(tensor: Tensor) -> Tensor:
    return widened(tensor.reshape(tensor.shape[0], -1))


def _gradient(
    of: Value, by: Value, along: Tensor, *, create_graph: bool = False, batched: bool = False
) -> Tensor | None:
    found: Tensor | None
    (found,) = torch.autograd.grad(
        of.edge,
        by.edge,
        along,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        is_grads_batched=batched,
    )
    return found


def _again(slope: Tensor | None, by: Value, along: Tensor, *, batched: bool = False) -> Tensor | None:
    """The derivative of a gradient; None: it is constant."""
    if slope is None or not slope.requires_grad:
        return None
    found: Tensor | None
    (found,) = torch.autograd.grad(
        slope, by.edge, along, retain_graph=True, allow_unused=True, is_grads_batched=batched
    )
    if found is None:
        refuse_once_differentiable(slope)
    return found


def _forms(plan: Plan) -> Iterator[tuple[Value, Form]]:
    """The Hessians by the cuts, the last first."""
    if not plan.cuts:
        return
    root = plan.root.tensor
    slopes: dict[Value, Tensor | None] = dict(
        zip(plan.cuts, torch.autograd.grad(
            plan.root.edge, [cut.edge for cut in plan.cuts], torch.ones_like(root), retain_graph=True, allow_unused=True
        ), strict=True)
    )  # fmt: skip
    forms: dict[Value, Form] = {}
    for cut in reversed(plan.cuts):
        after, link = plan.next(cut)
        last = after is plan.root
        slope = torch.ones_like(root) if last else slopes[after]
        form = Form() if last else forms[after]
        forms[cut] = Form() if slope is None else _before(cut, after, link, form, slope)
        yield cut, forms[cut]


def _before(cut: Value, after: Value, link: Link, form: Form, slope: Tensor) -> Form:
    """From the Hessian by a value to that by the cut before it.

    Args:
        cut: the cut.
        after: the value.
        link: how it depends on the cut.
        form: the Hessian by the value.
        slope: the gradient of f by the value.
    """
    if link.kind == ELEMENTWISE:
        scales = _gradient(after, cut, torch.ones_like(after.tensor), create_graph=link.curved)
        curvature = _again(scales, cut, slope) if link.curved else None
        extra = None if curvature is None else _flat(curvature)
        return _scaled(form, scales, extra)
    pulled = _pulled(cut, after, form)
    if not link.curved:
        return pulled
    gradient = _gradient(after, cut, slope, create_graph=True)
    if link.kind == AFFINE:
        curvature = _again(gradient, cut, torch.ones_like(cut.tensor))
        return pulled if curvature is None else pulled._replace(extra=_flat(curvature))
    curvature = _again(gradient, cut, _unit_rows(cut), batched=True)
    if curvature is None:
        return pulled
    return Form(None, _sum(pulled.whole(), _sample_first(curvature)))


def _scaled(form: Form, scales: Tensor | None, extra: Tensor | None) -> Form:
    """Through an elementwise function, whose derivatives are ``scales``."""
    if scales is None:
        return Form()
    s = _flat(scales.detach())
    rows, core = form.rows, form.core
    if rows is not None:
        rows = rows * s[:, None]
    elif core is not None:
        core = core * s[:, None] * s[:, :, None]
    return Form(rows, core, _sum(None if form.extra is None else form.extra * s.square(), extra))


def _pulled(cut: Value, after: Value, form: Form) -> Form:
    """Through any function, by its Jacobian's products with the rows."""
    rows, core = form.rows, form.core
    if form.extra is not None or (rows is not None and rows.shape[1] > rows.shape[2]):
        rows, core = None, form.whole()
    if core is None:
        return Form()
    like = after.tensor
    cotangents = _unit_rows(after) if rows is None else rows.transpose(0, 1).reshape(-1, *like.shape).to(like.dtype)
    found = _gradient(after, cut, cotangents, batched=True)
    return Form() if found is None else Form(_sample_first(found), core)


def _unit_rows(value: Value) -> Tensor:
    """(d, *shape): in each row of a value the same unit vector."""
    like = value.tensor
    d = like[0].numel()
    check_fits("hessian_diagonal[layers]: Hessians of samples", d * like.numel() * like.dtype.itemsize, like.device)
    eye = torch.eye(d, dtype=like.dtype, device=like.device).reshape(d, 1, *like.shape[1:])
    return eye.expand(d, *like.shape)


def _sample_first(several: Tensor) -> Tensor:
    """(N, r, d) of (r, N, ...)."""
    return widened(several.reshape(*several.shape[:2], -1)).transpose(0, 1)


def _entries(site: Site, cut: Value, form: Form) -> Iterator[tuple[Tensor, Tensor]]:
    """What enters at a site: (places in x, the second derivatives by these elements)."""
    places, like = site.places, cut.tensor
    with aside():
        order = (places.mT if site.kind == "matrix" else places).reshape(-1)
    if site.kind == "kernel" or (site.kind == "shift" and places.shape != like.shape[1:]):
        found = _of_positions(site, cut, form)
    else:
        diagonal = form.diagonal()
        if diagonal is None:
            return
        if site.kind == "shift":
            found = diagonal.sum(0)
        elif site.kind == "scale":
            assert site.factor is not None
            found = (_flat(site.factor.detach()).square() * diagonal).sum(0)
        else:
            assert site.factor is not None
            # In the order of x where the weight is a transpose, as that of a linear layer is.
            found = diagonal.mT @ widened(site.factor.detach()).square()
    if found is not None:
        yield order, found.reshape(-1) * site.scale**2


def _of_positions(site: Site, cut: Value, form: Form) -> Tensor | None:
    """A weight that enters at several positions of a sample: a kernel, or what is added along channels."""
    like, call = cut.tensor, site.step.call
    n, channels = like.shape[:2]
    positions = like[0, 0].numel()
    if site.factor is None:
        columns = like.new_ones(n, 1, positions)
    else:
        given = site.factor.detach()
        sizes: list[Any] = [list(call.argument(name)) for name in ("dilation", "padding", "stride")]
        kernel: Any = list(site.places.shape[2:])
        if given.dim() == 3:
            given, kernel = given.unsqueeze(2), [1, *kernel]
            sizes = [[fill, *size] for fill, size in zip((1, 0, 1), sizes, strict=True)]
        columns = F.unfold(given, kernel, *sizes)
    columns = widened(columns)
    found = None
    if form.extra is not None:
        found = torch.einsum("nip,njp->ij", form.extra.reshape(n, channels, positions), columns.square())
    if form.core is not None and form.rows is not None:
        rows = torch.einsum("nrip,njp->nrij", form.rows.reshape(n, -1, channels, positions), columns).flatten(2)
        found = _sum(found, ((form.core @ rows) * rows).sum((0, 1)).reshape(channels, -1))
    elif form.core is not None:
        blocks = form.core.reshape(n, channels, positions, channels, positions).diagonal(dim1=1, dim2=3)
        found = _sum(found, torch.einsum("npqi,njp,njq->ij", blocks, columns, columns))
    return found


def _laid_out(found: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Parts as one vector, zero where there is none: without indices where they are runs of x that make it up."""
    with aside():
        ordered = sorted((int(places[0]), i) for i, (places, _) in enumerate(found))
        places = torch.cat([found[i][0] for _, i in ordered]) if found else torch.zeros(0, dtype=torch.int64)
        whole = len(places) == x.numel() and bool((places.diff() == 1).all())
        places = places.to(x.device)
    if not found:
        return x.new_zeros(x.numel())
    entries = torch.cat([found[i][1] for _, i in ordered]).to(x.dtype)
    return entries if whole else x.new_zeros(x.numel()).index_put((places,), entries)
