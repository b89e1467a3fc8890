"""A torch.nn.Module with a loss and data as a scalar function of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from hograd_core._functional import Functional
from hograd_core.arguments import Term, WeightedSum, _tree, constants_of, packing, trainable_of

Loss = Callable[[Any, Any], Tensor]


def from_module(
    module: nn.Module,
    loss: Loss,
    batch: Any = None,
    *,
    batches: Iterable[Any] | None = None,
    parameters: str | Sequence[str] | None = None,
    flat: bool = True,
    reduction: str | None = None,
) -> tuple[Callable[[Any], Tensor], Any]:
    """The loss of a module on data, as f of its trainable parameters, and the point they are at.

    ``f(x)`` evaluates ``loss(module(inputs), targets)`` with x in the place of the parameters, in the order of
    ``module.named_parameters()`` (a tied parameter once). Parameters with ``requires_grad=False``, those not chosen and
    buffers are constants, not in x. f calls a copy of the module that shares all else with it (``_functional``), and
    the loss refers to that copy wherever it refers to the module (a closure over it for weight decay, one of its
    methods): f is pure and may be called from several threads, what forward writes (batch statistics, a counter) is
    dropped, and checkpoints (``use_reentrant=False``) recompute with x. Training or evaluation mode is the module's at
    the time of the call.

    Args:
        module: any module; neither its parameters nor their ``.grad``, its buffers or other attributes are changed.
        loss: (output, targets) -> 0-dimensional tensor; ``torch.nn.functional.mse_loss`` has no forward-over-reverse
            derivative in PyTorch 2.13 (pytorch/pytorch#123996), ``((a - b) ** 2).mean()`` has.
        batch: what a DataLoader yields: a pair (inputs, targets), whose inputs are the module's argument, a tuple or
            list of its positional arguments, or a mapping of its keyword arguments; or one mapping, of which the
            module is called with the keys that its forward names and the loss with all. A DataLoader is ``batches``.
        batches: several of them, iterated over at each evaluation: a list, a DataLoader, an object with ``__iter__``,
            no iterator. f is then the mean over all samples; derivatives take the memory of one batch.
        parameters: which of the trainable ones x holds: names or patterns of names ("layers.3.*"); None: all.
        flat: x is one vector of n = Σ numel elements; False: a dict by name, whose tensors may differ in dtype and
            device.
        reduction: what ``loss`` does over the samples of a batch, "mean" or "sum", by which batches are combined; None:
            as its attribute ``reduction`` says, else "mean".

    Returns:
        ``(f, x)``: x detached copies of the parameters.

    Raises:
        TypeError: ``module`` is not a module, ``loss`` is not callable, or a trainable parameter is not a real
            floating tensor; the module is scripted, spread over devices or lazy; the data are none.
        ValueError: there is no trainable parameter, or they differ in dtype or device; a pattern names none; a layer in
            training mode is random, or, over batches, couples samples; a DataLoader leaves out samples at random;
            later, when f is called: module or loss use the module's own parameters through a global variable, which a
            copy cannot follow.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a callable of (output, targets)")
    if isinstance(batch, DataLoader):
        batch, batches = None, batch
    if (batch is None) == (batches is None):
        raise TypeError("batch: expected one of batch, as a DataLoader yields it, and batches, several of them")
    if isinstance(batches, Iterator):
        raise TypeError("batches: got an iterator, which is used up after one pass; give a list or a DataLoader")
    if isinstance(batches, DataLoader) and _leaves_out_at_random(batches):
        raise ValueError(
            "batches: a DataLoader that draws other samples in each pass, so the loss is random; "
            "give one with drop_last=False, and without replacement (shuffling alone changes nothing)"
        )
    check_modes(module, per_sample=batches is not None)
    chosen = trainable_of(module, parameters)
    kinds = {(p.dtype, p.device) for p in chosen.values()}
    if flat and len(kinds) > 1:
        raise ValueError(
            f"module: got trainable parameters of {len(kinds)} kinds ({sorted(map(str, kinds))}), expected one dtype "
            "on one device; convert with module.to(...), or ask for flat=False"
        )
    for dtype, _ in kinds:
        if not dtype.is_floating_point:
            raise TypeError(f"module: got parameters of dtype {dtype}, expected a real floating dtype")
    function = Functional(module, loss)
    held = constants_of(module, chosen)

    def of_batch(data: Any) -> Callable[[dict[str, Tensor]], Tensor]:
        with torch.inference_mode(False):  # so that autograd may save them
            arguments, keywords, wanted = (_tree.ordinary(part) for part in _taken_apart(data, module))

        def f(values: dict[str, Tensor]) -> Tensor:
            def body(module: nn.Module, loss: Loss) -> Tensor:
                return loss(module(*arguments, **keywords), wanted)

            value: Tensor = function.evaluate({**held, **values}, body, (arguments, keywords, held))
            return value

        return f

    with torch.inference_mode(False):
        point = {name: p.detach().clone() for name, p in chosen.items()}
        packed = packing(point)
        x: Any = packed.pack(point, "x") if flat else point

    def made(data: Any) -> Callable[[Any], Tensor]:
        return packed.function(of_batch(data)) if flat else of_batch(data)

    if batches is None:
        return made(batch), x
    mean = reduction or getattr(loss, "reduction", "mean")
    if mean not in ("mean", "sum"):
        raise ValueError(f"reduction: got {mean!r}, expected 'mean' or 'sum', by which batches can be combined")

    def terms() -> Iterator[Term]:
        for data in batches:
            yield (float(_samples(data)) if mean == "mean" else 1.0), made(data)

    return WeightedSum(terms, mean == "mean"), x


def _taken_apart(data: Any, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """What the module is called with, by position and by name, and what the loss gets beside its output."""
    if isinstance(data, Mapping):
        named = inspect.signature(module.forward).parameters
        every = any(p.kind is p.VAR_KEYWORD for p in named.values())
        return (), {name: value for name, value in data.items() if every or name in named}, data
    if not isinstance(data, tuple | list) or len(data) != 2:
        got = f"{len(data)} parts" if isinstance(data, tuple | list) else type(data).__name__
        raise TypeError(f"batch: got {got}, expected a pair (inputs, targets), or a mapping of keyword arguments")
    inputs, targets = data
    if isinstance(inputs, Mapping):
        return (), dict(inputs), targets
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, targets


def _samples(data: Any) -> int:
    """How many samples a batch holds: the first axis of its first tensor that has one."""
    sizes = [t.shape[0] for t in _tree.leaves(dict(data) if isinstance(data, Mapping) else data) if _has_axis(t)]
    if not sizes:
        raise ValueError("batches: got one without a tensor whose first axis counts samples; use reduction='sum'")
    return int(sizes[0])


def _leaves_out_at_random(loader: DataLoader[Any]) -> bool:
    """Whether passes over a data set differ in which samples they hold, and not in their order alone."""
    sampler = loader.sampler
    if isinstance(sampler, WeightedRandomSampler):
        return True
    if not isinstance(sampler, RandomSampler | SubsetRandomSampler):
        return False
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples % len(sampler.data_source)):
        return True
    return loader.drop_last and bool(loader.batch_size) and len(sampler) % (loader.batch_size or 1) > 0


def _has_axis(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def check_modes(module: nn.Module, *, per_sample: bool, argument: str = "module") -> None:
    """Refuse layers whose outputs are random, and, per sample, those that read the whole batch.

    A random layer is another function at every call: methods that call it more often would differentiate a mixture.

    Raises:
        ValueError: there is such a layer in training mode; the message names it.
    """
    for name, layer in module.named_modules():
        if not layer.training:
            continue
        where = f"{argument}: {name or 'itself'}"
        if _is_random(layer):
            kind = "dropout" if isinstance(layer, nn.modules.dropout._DropoutNd) else f"a random {type(layer).__name__}"
            raise ValueError(f"{where} is {kind} in training mode, so the loss is random; call {argument}.eval()")
        if per_sample and isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{where} is batch normalisation in training mode, which couples the samples, so that per-sample "
                f"gradients do not exist; call {argument}.eval() or use a Gauss-Newton operator"
            )


def _is_random(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
        return layer.dropout > 0
    return isinstance(layer, nn.RReLU)
