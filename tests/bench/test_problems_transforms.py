"""Every problem can be differentiated by torch.func and by autograd alike; the fused one refuses by name."""

from __future__ import annotations

import pytest
import torch
from hograd_bench import problems
from hograd_bench.problems import Instance, Problem, Spec
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vmap

from hograd_core._unsupported import pytorch_limit

# torch.func.jvp compiles TorchScript decompositions on first use and warns about its own doing.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
FUSED = "sdpa_attention_loss"
# Other tests may load problem files of their own into the same process.
OURS = {name: p for name, p in problems.problems().items() if p.build.__module__.startswith("hograd_bench.problems.")}
OPEN = [pytest.param(p, id=name) for name, p in OURS.items() if name != FUSED]
# PyTorch bars saved-tensor hooks, which checkpoints are made of, in torch.func's differentiating transforms.
TRANSFORMED = [p for p in OPEN if p.id != "checkpointed_chain"]
SMALL = Spec(2, 2, 2)


def rows(instance: Instance) -> Tensor:
    """The Hessian by rows of plain reverse mode, shape ``x.shape * 2``."""
    x = instance.x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(instance.f(x), x, create_graph=True)
    if not g.requires_grad:
        return torch.zeros(x.shape * 2, dtype=x.dtype)
    entries = g.reshape(-1)
    out = [torch.autograd.grad(e, x, retain_graph=True, allow_unused=True, materialize_grads=True)[0] for e in entries]
    return torch.stack(out).reshape(x.shape * 2)


@pytest.mark.slow
@pytest.mark.parametrize("problem", TRANSFORMED)
def test_torch_func_agrees_with_autograd_at_order_two(problem: Problem) -> None:
    instance = problem.instance(SMALL)
    f, x, v = instance.f, instance.x, instance.v
    assert v is not None
    truth = rows(instance)
    size = float(truth.norm())
    product = truth.reshape(x.numel(), -1) @ v.reshape(-1)
    basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    found = {
        "jacfwd of jacrev": hessian(f)(x),
        "jacrev of grad": jacrev(grad(f))(x),
        "vmap of jvp of grad": vmap(lambda u: jvp(grad(f), (x,), (u,))[1])(basis).reshape(x.shape * 2),
        "vmap of grad of jvp": vmap(lambda u: grad(lambda y: jvp(f, (y,), (u,))[1])(x))(basis).reshape(x.shape * 2),
    }
    for name, value in found.items():
        assert (value - truth).norm() <= 1e-13 * size, name
    assert (jvp(grad(f), (x,), (v,))[1].reshape(-1) - product).norm() <= 1e-13 * size * v.norm()


@pytest.mark.parametrize("problem", OPEN)
def test_nested_forward_mode_agrees_at_order_three(problem: Problem) -> None:
    instance = problem.instance(SMALL)
    f, v = instance.f, instance.v
    assert v is not None

    def slope(g):  # type: ignore[no-untyped-def]
        return lambda x: jvp(g, (x,), (v,))[1]

    third = slope(slope(slope(f)))(instance.x)
    x = instance.x.clone().requires_grad_(True)
    scalar, size = instance.f(x), 0.0
    for _ in range(3):
        if not scalar.requires_grad:
            scalar = torch.zeros((), dtype=x.dtype)
            break
        (g,) = torch.autograd.grad(scalar, x, create_graph=True, allow_unused=True, materialize_grads=True)
        scalar = (g * v).sum()
        size = float((g * v).detach().abs().sum())
    assert abs(third - scalar.detach()) <= 1e-12 * max(size, 1.0)


@pytest.mark.parametrize("problem", TRANSFORMED)
def test_vmap_over_points(problem: Problem) -> None:
    instance = problem.instance(SMALL)
    points = torch.stack([instance.x, instance.x * 0.75])
    values, gradients = vmap(instance.f)(points), vmap(grad(instance.f))(points)
    for point, value, gradient in zip(points, values, gradients, strict=True):
        torch.testing.assert_close(value, instance.f(point), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient, grad(instance.f)(point), rtol=1e-12, atol=1e-14)


def test_fused_attention_equals_the_explicit_one() -> None:
    for spec in (SMALL, Spec(5, 1, 3)):
        explicit, fused = problems.get("attention_loss").instance(spec), problems.get(FUSED).instance(spec)
        assert torch.equal(explicit.x, fused.x)
        torch.testing.assert_close(fused.f(fused.x), explicit.f(explicit.x), rtol=1e-13, atol=0)
        torch.testing.assert_close(grad(fused.f)(fused.x), grad(explicit.f)(explicit.x), rtol=1e-11, atol=1e-14)


@pytest.mark.slow
def test_fused_attention_has_a_second_order_truth() -> None:
    explicit = problems.get("attention_loss").instance(SMALL)
    precise = problems.get(FUSED).instance(SMALL, precise=True)
    torch.testing.assert_close(rows(precise), rows(explicit), rtol=1e-11, atol=1e-13)


@pytest.mark.skipif(torch.__version__.split("+")[0] != "2.13.0", reason="limits recorded for torch 2.13.0")
def test_fused_attention_is_refused_by_pytorch_beyond_the_gradient() -> None:
    instance = problems.get(FUSED).instance(SMALL)
    f, x = instance.f, instance.x
    attempts = (lambda: rows(instance), lambda: jvp(f, (x,), (x,)), lambda: hessian(f)(x), lambda: jacrev(grad(f))(x))
    for attempt in attempts:
        with pytest.raises(RuntimeError) as caught:  # NotImplementedError is one
            attempt()
        assert pytorch_limit(caught.value) is not None, caught.value
