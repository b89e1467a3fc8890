"""Meta-learning: the gradient through K steps of an inner optimiser, in the point it starts from.

MAML (Finn, Abbeel & Levine 2017): a task adapts θ by φ_0 = θ, φ_{k+1} = φ_k − α ∇L_s(φ_k) on its support set, and is
judged on its query set. The meta-gradient of mean_tasks L_q(φ_K) is

    dL_q(φ_K)/dθ = (I − α H_0) (I − α H_1) ⋯ (I − α H_{K−1}) ∇L_q(φ_K),    H_k = ∇²L_s(φ_k),

a chain of Hessian-vector products, taken from the last step to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hograd_core._checks import check_number, check_order
from hograd_core._entrance import kept, released
from hograd_core._functional import Functional
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core._unsupported import UnsupportedError, refused_under_vmap
from hograd_core.applications._calls import watched_call
from hograd_core.applications._modules import Parameters, check_module, detached, gradient_of, trainable
from hograd_core.curvature._model import check_dtype, scalar_loss
from hograd_core.curvature._precision import unbounded
from hograd_core.derivatives._autograd import leaf
from hograd_core.module import check_modes

__all__ = ["MetaGradient", "Task", "adapt", "meta_gradient"]

Loss = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Parameters], Tensor]


class MetaGradient(NamedTuple):
    """The mean query loss after adaptation and its gradient in the initial parameters.

    Both are detached, unless they are part of a larger derivative.

    Attributes:
        value: 0-dimensional.
        gradient: by parameter name; zeros where the loss does not depend on a parameter.
    """

    value: Tensor
    gradient: Parameters


class Task(NamedTuple):
    """Losses of one task as functions of the parameters."""

    support: Objective
    query: Objective


class Episode:
    """A batch of tasks on one model: what every method receives.

    Attributes:
        model, loss: the model and (prediction, target) -> 0-dimensional tensor.
        data: support inputs, support targets, query inputs, query targets, each with the tasks first.
        steps: K, the number of inner steps.
        rate: α, the inner learning rate.
    """

    def __init__(self, model: nn.Module, loss: Loss, data: tuple[Tensor, ...], steps: int, rate: float) -> None:
        self.model = model
        self.function = Functional(model, loss)
        self.loss = loss
        self.data = data
        self.steps = steps
        self.rate = rate

    def objective(self, inputs: Tensor, targets: Tensor) -> Objective:
        """The loss of the model on one set, as a function of its parameters."""

        def body(model: nn.Module, loss: Loss) -> Tensor:
            return scalar_loss(loss, watched_call(model)(inputs), targets)

        def value(parameters: Parameters) -> Tensor:
            found: Tensor = self.function.evaluate(parameters, body, inputs)
            return found

        return value

    def tasks(self) -> Iterator[Task]:
        """The tasks, one after another."""
        for xs, ys, xq, yq in zip(*self.data, strict=True):
            yield Task(self.objective(xs, ys), self.objective(xq, yq))


def adapt(task: Task, parameters: Parameters, steps: int, rate: float, *, create_graph: bool) -> Parameters:
    """φ_K: the parameters after K plain gradient steps on the support loss.

    Args:
        task: the task.
        parameters: θ, tensors that require grad.
        steps: K >= 0.
        rate: α.
        create_graph: keep the graph through all steps, so that φ_K can be differentiated in θ.

    Returns:
        φ_K by parameter name.
    """
    for _ in range(steps):
        with torch.enable_grad():
            gradient = gradient_of(task.support(parameters), parameters, create_graph=create_graph)
            parameters = {name: p - rate * gradient[name] for name, p in parameters.items()}
        if not create_graph:
            parameters = _leaves(parameters)
    return parameters


def _leaves(parameters: Parameters) -> Parameters:
    return {name: p.detach().requires_grad_(True) for name, p in parameters.items()}


def _check_sets(support: Any, query: Any) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    for name, pair in (("support", support), ("query", query)):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(t, Tensor) for t in pair):
            raise TypeError(f"{name}: got {type(pair).__name__}, expected a pair (inputs, targets) of tensors")
        tensors += [t.clone() if t.is_inference() else t if kept() else t.detach() for t in pair]
    counts = {t.shape[0] if t.dim() else 0 for t in tensors}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"support, query: got leading dimensions {[tuple(t.shape) for t in tensors]}, expected the same number of "
            "tasks first in all four"
        )
    return tuple(tensors)


@operator(result="value, parameter gradient", default="unrolled", order=2)
def meta_gradient(
    model: nn.Module, loss: Loss, support: Any, query: Any, inner_steps: int, inner_rate: float, **how: Unpack[How]
) -> MetaGradient:
    """The mean query loss after K inner gradient steps on each task, and its gradient in the initial parameters.

    Args:
        model: its parameters are θ; they and their ``.grad`` are left alone.
        loss: (prediction, target) -> 0-dimensional tensor.
        support: (inputs, targets), each (tasks, shots, ...).
        query: (inputs, targets), each (tasks, shots, ...).
        inner_steps: K >= 0; 0 is the plain gradient of the query loss.
        inner_rate: α, the learning rate of the inner steps.

    Returns:
        A :class:`MetaGradient`; mean over tasks.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: the sets do not hold the same number of tasks, there is nothing to train, the rate is not finite, a
            layer in training mode is random, or (at the first evaluation) the loss is not 0-dimensional.
        UnsupportedError: PyTorch has no second derivative of a step of the model by this method.
    """
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a callable of (prediction, target)")
    try:
        check_order(inner_steps, minimum=0)
    except (TypeError, ValueError) as error:
        raise type(error)(f"inner_steps: {error}") from None
    module, data = check_module(model, "model"), _check_sets(support, query)
    check_modes(module, per_sample=False, argument="model")
    for name, inputs in (("support", data[0]), ("query", data[2])):
        check_dtype(inputs, module, name, "model")
    return to_method(Episode(module, loss, data, inner_steps, check_number(inner_rate, "inner_rate")))


def _refuse_inside() -> None:
    if kept():
        raise UnsupportedError(
            "meta_gradient", "the result of this method cannot be differentiated further; use method='unrolled'"
        )


Contribution = Callable[[Task], tuple[Tensor, Parameters]]


def _mean_over_tasks(episode: Episode, contribution: Contribution) -> MetaGradient:
    """One task at a time, so that the memory is that of one task."""
    value: Tensor | None = None
    gradient: Parameters = {}
    for task in episode.tasks():
        v, g = contribution(task)
        value = v if value is None else value + v
        gradient = {name: gradient[name] + d if gradient else d for name, d in g.items()}
    count = episode.data[0].shape[0]
    assert value is not None
    return MetaGradient(value / count, {name: d / count for name, d in gradient.items()})


@method(
    meta_gradient,
    "unrolled",
    mode="reverse over K recorded reverse sweeps",
    amounts_to=(("double_backward", 2),),
    source="Finn, Abbeel & Levine 2017, algorithm 1; torch.autograd.grad(create_graph=True)",
)
def unrolled(episode: Episode) -> MetaGradient:
    """Differentiate through all inner steps at once. Memory grows by one gradient's graph an inner step."""

    def contribution(task: Task) -> tuple[Tensor, Parameters]:
        start = {name: leaf(p) for name, p in trainable(episode.model).items()}
        adapted = adapt(task, start, episode.steps, episode.rate, create_graph=True)
        with torch.enable_grad():
            value = task.query(adapted)
        return released(value), gradient_of(value, start, create_graph=kept())

    return _mean_over_tasks(episode, contribution)


@method(
    meta_gradient,
    "recomputed",
    mode="K Hessian-vector products by reverse over reverse",
    amounts_to=(("double_backward", 2),),
    source="Griewank & Walther 2008, §12 (checkpointing); the chain rule of Finn, Abbeel & Levine 2017",
)
def recomputed(episode: Episode) -> MetaGradient:
    """Keep the iterates φ_k alone and go back by one Hessian-vector product a step: λ ← λ − α H_k λ.

    The same numbers as ``unrolled``. Memory: K copies of the parameters and one step's graph, whatever K. Time: one
    more gradient an inner step.
    """
    _refuse_inside()

    def contribution(task: Task) -> tuple[Tensor, Parameters]:
        iterates = [_leaves(trainable(episode.model))]
        for _ in range(episode.steps):
            iterates.append(adapt(task, iterates[-1], 1, episode.rate, create_graph=False))
        last = iterates.pop()
        with torch.enable_grad():
            value = task.query(last)
        adjoint = gradient_of(value, last)
        while iterates:
            point = iterates.pop()
            with torch.enable_grad():
                inner = gradient_of(task.support(point), point, create_graph=True)
                slope = sum((inner[name] * adjoint[name]).sum() for name in point)
            assert isinstance(slope, Tensor)
            product = gradient_of(slope, point)
            adjoint = {name: adjoint[name] - episode.rate * product[name] for name in point}
        return value.detach(), adjoint

    return _mean_over_tasks(episode, contribution)


@method(
    meta_gradient,
    "vectorised",
    mode="reverse over K reverse sweeps, vectorised over the tasks",
    amounts_to=(("jacrev_of_grad", 2),),
    source="torch.func.vmap of torch.func.grad",
    functorch=True,
)
def vectorised(episode: Episode, *, chunk_size: int | None = None) -> MetaGradient:
    """All tasks in one batch by torch.func. Memory: ``unrolled`` times the number of tasks in a chunk."""
    start = detached(trainable(episode.model))

    def value(parameters: Parameters, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        inner = torch.func.grad(episode.objective(xs, ys))
        for _ in range(episode.steps):
            gradient = inner(parameters)
            parameters = {name: p - episode.rate * gradient[name] for name, p in parameters.items()}
        return episode.objective(xq, yq)(parameters)

    each = torch.func.grad_and_value(value)
    in_dims = (None, 0, 0, 0, 0)
    first = next(episode.tasks())
    with refused_under_vmap("meta_gradient[vectorised]", "use method='unrolled'", lambda: first.support(start)):
        gradient, values = torch.func.vmap(each, in_dims=in_dims, chunk_size=chunk_size)(start, *episode.data)
    return MetaGradient(released(values.mean()), {name: released(g.mean(0)) for name, g in gradient.items()})


@method(
    meta_gradient,
    "first_order",
    mode="reverse",
    source="Finn, Abbeel & Levine 2017, §5.2 (first-order MAML: every H_k taken for 0)",
    exact=False,
    tolerance=unbounded,
)
def first_order(episode: Episode) -> MetaGradient:
    """∇L_q at φ_K, as if φ_K did not depend on θ but by the identity: the named baseline, with error O(α K ‖H‖)."""
    _refuse_inside()

    def contribution(task: Task) -> tuple[Tensor, Parameters]:
        adapted = adapt(task, _leaves(trainable(episode.model)), episode.steps, episode.rate, create_graph=False)
        with torch.enable_grad():
            value = task.query(adapted)
        return value.detach(), gradient_of(value, adapted)

    return _mean_over_tasks(episode, contribution)
