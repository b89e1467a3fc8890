"""A module and a batch as one function of a flat parameter vector.

The order of the flat vector is that of ``module.named_parameters()`` (a tied parameter appears once),
each parameter row-major; parameters with ``requires_grad=False`` are constants.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._checks import check_number
from hograd_core._entrance import callback, kept
from hograd_core._functional import Functional
from hograd_core.arguments import Part, constants_of, trainable_of
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.module import check_modes

Loss = Callable[[Tensor, Tensor], Tensor]
Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Model:
    """What the kernels of this package receive from their guards.

    Attributes:
        module: the network; its own parameters and buffers are never written.
        names, shapes: the trainable parameters, in the order of the flat vector.
        point: their values, a detached vector of P elements.
        function: network and loss as functions of the network's tensors; frozen parameters stay its own, buffers enter
            as clones.
        inputs: arguments of the module, batch first. keywords: their names, where they are given by name.
        targets: the second argument of the loss, batch first.
        loss: (outputs, targets) -> 0-dimensional tensor.
        held: trainable parameters that are constants of this call.
    """

    module: nn.Module
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    point: Tensor
    function: Functional
    inputs: tuple[Tensor, ...]
    targets: Tensor
    loss: Loss
    keywords: tuple[str, ...] = ()
    held: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each parameter."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def batch(self) -> int:
        """Number of samples N."""
        return self.inputs[0].shape[0]

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameter name -> view of ``flat``, (P,)."""
        parts = flat.split_with_sizes(self.sizes)
        return {name: part.view(shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}

    def outputs(
        self,
        flat: Tensor,
        inputs: tuple[Tensor, ...] | None = None,
        hooks: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Tensor:
        """The module's outputs at parameters ``flat``, for the batch or for other inputs.

        Args:
            flat: parameters, (P,).
            inputs: positional arguments; None: the batch.
            hooks: forward hooks for this evaluation, by the name of the submodule.

        Raises:
            TypeError: the module does not return one real floating tensor.
            ValueError: it computes with its own parameters.
        """
        given = self.inputs if inputs is None else inputs
        found: Tensor = self.function.evaluate(
            {**self.held, **self.unflatten(flat)}, lambda module, _: self._outputs_of(module, given), given, hooks
        )
        return found

    def _outputs_of(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        result = callback(_evaluate)(module, inputs, self.keywords)
        if not isinstance(result, Tensor) or not result.dtype.is_floating_point:
            got = result.dtype if isinstance(result, Tensor) else type(result).__name__
            raise TypeError(f"module: returned {got}, expected one real floating tensor; wrap it to return its outputs")
        # Under the caller's autocast they come in a lower precision than what is computed from them needs.
        return result.to(torch.promote_types(result.dtype, self.point.dtype))

    def in_float64(self) -> Model:
        """The same in float64, where module and loss take that; else itself."""

        def wide(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.dtype.is_floating_point else tensor

        model = dataclasses.replace(
            self,
            function=self.function.in_float64(),
            point=self.point.double(),
            inputs=tuple(map(wide, self.inputs)),
            targets=wide(self.targets),
            held={name: wide(tensor) for name, tensor in self.held.items()},
        )
        try:
            return model if model.value(model.point).dtype == torch.float64 else self
        except (RuntimeError, TypeError):
            return self

    def value(self, flat: Tensor) -> Tensor:
        """The loss of the batch at parameters ``flat``."""
        return self._value(flat, self.inputs, self.targets)

    def _value(self, flat: Tensor, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        def body(module: nn.Module, loss: Loss) -> Tensor:
            return scalar_loss(loss, self._outputs_of(module, inputs), targets)

        found: Tensor = self.function.evaluate({**self.held, **self.unflatten(flat)}, body, inputs, what="loss")
        return found

    def sample_value(self, flat: Tensor, target: Tensor, *sample: Tensor) -> Tensor:
        """The loss of one sample (no batch axis) as a batch of one; for ``torch.func.vmap``."""
        return self._value(flat, tuple(part.unsqueeze(0) for part in sample), target.unsqueeze(0))

    def gradient(self) -> Tensor:
        """Gradient of the batch loss, (P,)."""
        flat = leaf(self.point)
        return grad_or_zeros(self.value(flat), flat, create_graph=False)


def _evaluate(module: nn.Module, inputs: tuple[Tensor, ...], keywords: tuple[str, ...]) -> Any:
    return module(**dict(zip(keywords, inputs, strict=True))) if keywords else module(*inputs)


def scalar_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """``loss(outputs, targets)``, checked to be a 0-dimensional tensor.

    Raises:
        TypeError: the loss returns no tensor.
        ValueError: it is not 0-dimensional, or a squared error would broadcast the targets.
    """
    if _is_squared_error(loss) and outputs.shape != targets.shape:
        raise ValueError(
            f"targets: got shape {tuple(targets.shape)}, expected {tuple(outputs.shape)} like the module's outputs; "
            "broadcast, a squared error compares every output with every target"
        )
    value = callback(loss)(outputs, targets)
    if not isinstance(value, Tensor):
        raise TypeError(f"loss: returned {type(value).__name__}, expected a 0-dimensional tensor")
    if value.dim() != 0:
        raise ValueError(
            f"loss: returned shape {tuple(value.shape)}, expected a 0-dimensional tensor; use reduction='mean' or 'sum'"
        )
    return value


def _is_squared_error(loss: Any) -> bool:
    function = loss.func if isinstance(loss, functools.partial) else loss
    return type(loss) is nn.MSELoss or function is nn.functional.mse_loss


def check_model(module: Any, loss: Any, inputs: Any, targets: Any, *, per_sample: bool = False) -> Model:
    """Check the arguments that all model operators share and bind them.

    Args:
        module: an ``nn.Module`` with at least one trainable parameter, or a part of one.
        loss: callable (outputs, targets) -> scalar.
        inputs: a tensor, a tuple of tensors passed positionally, or a mapping of tensors passed by name; batch first.
        targets: a tensor, batch first.
        per_sample: the operator takes samples one by one, so that nothing may couple them.

    Returns:
        The bound model, parameters detached.

    Raises:
        TypeError: wrong kind of argument, or parameters of several dtypes.
        ValueError: no trainable parameter, several devices, batch sizes that differ, an empty batch, or a
            layer in training mode that is random or couples samples.
    """
    chosen = None
    if isinstance(module, Part):
        module, chosen = module.module, module.chosen
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a callable (outputs, targets) -> scalar tensor")
    keywords = tuple(inputs) if isinstance(inputs, Mapping) else ()
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs.values()) if keywords else inputs
    if not isinstance(arguments, tuple) or not arguments or not all(isinstance(part, Tensor) for part in arguments):
        raise TypeError(
            f"inputs: got {type(inputs).__name__}, expected a tensor or a non-empty tuple or mapping of tensors"
        )
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets: got {type(targets).__name__}, expected a torch.Tensor")
    batches = {part.shape[0] if part.dim() else 0 for part in (*arguments, targets)}
    if len(batches) != 1 or batches == {0}:
        raise ValueError(
            f"inputs, targets: got first axes {sorted(batches)}, expected one common batch size >= 1; "
            "the first axis of every input and of the targets is the batch"
        )
    check_modes(module, per_sample=per_sample)
    trainable = trainable_of(module) if chosen is None else chosen
    function = Functional(module, loss)
    dtypes = {p.dtype for p in trainable.values()}
    devices = {p.device for p in trainable.values()}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating_point:
        raise TypeError(
            f"module: got parameters of dtypes {sorted(map(str, dtypes))}, expected one real floating dtype"
        )
    if len(devices) != 1:
        raise ValueError(f"module: got parameters on {sorted(map(str, devices))}, expected one device")
    for part in arguments:
        check_dtype(part, module, "inputs", "module")
    return Model(
        module,
        tuple(trainable),
        tuple(p.shape for p in trainable.values()),
        torch.cat([p.detach().reshape(-1) for p in trainable.values()]),
        function,
        tuple(_held(part) for part in arguments),
        _held(targets),
        loss,
        keywords,
        constants_of(module, trainable),
    )


def _held(tensor: Tensor) -> Tensor:
    """A constant: detached, unless part of a larger derivative; copied where made in inference mode."""
    if tensor.is_inference():
        return tensor.clone()
    return tensor if kept() else tensor.detach()


def check_dtype(tensor: Tensor, module: nn.Module, name: str, argument: str) -> None:
    """Refuse a floating tensor in a dtype that the module has nothing of: its first product would fail.

    Raises:
        TypeError: the message names the argument and both dtypes.
    """
    own = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.dtype.is_floating_point]
    if tensor.dtype.is_floating_point and own and tensor.dtype not in own:
        raise TypeError(
            f"{name}: got dtype {tensor.dtype}, expected {own[0]} like the parameters of {argument}; "
            f"convert with .to({own[0]})"
        )


def check_vector(v: Any, model: Model, name: str = "v") -> Tensor:
    """Return ``v`` detached after checking that it is a vector over the model's parameters.

    Raises:
        TypeError: not a tensor, or another dtype than the parameters'.
        ValueError: another shape or device.
    """
    if not isinstance(v, Tensor):
        raise TypeError(f"{name}: got {type(v).__name__}, expected a torch.Tensor of shape {tuple(model.point.shape)}")
    if v.shape != model.point.shape:
        raise ValueError(
            f"{name}: got shape {tuple(v.shape)}, expected {tuple(model.point.shape)}: one entry per trainable "
            "parameter element, in the order of module.named_parameters()"
        )
    if v.dtype != model.point.dtype:
        raise TypeError(f"{name}: got dtype {v.dtype}, expected {model.point.dtype} like the parameters")
    if v.device != model.point.device:
        raise ValueError(f"{name}: got device {v.device}, expected {model.point.device} like the parameters")
    return _held(v)


def check_damping(damping: Any, *, positive: bool = False) -> float:
    """Return ``damping`` as a float after checking that it is a finite number >= 0 (or > 0).

    Raises:
        TypeError: not a real number.
        ValueError: negative, not finite, or zero where it must be positive.
    """
    return check_number(damping, "damping", positive=positive, minimum=0.0)
