"""Cases that PyTorch's operator database lacks: name -> a function of its inputs, their values, whether it is random.

One entry each, by :func:`own`; a module's inputs are its parameters and the tensors it is called with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Own = tuple[Callable[[list[Tensor]], Any], tuple[Tensor, ...], bool]
OWN: dict[str, Callable[[], Own]] = {}


def draw(*shape: int) -> Tensor:
    """Normal numbers in float64, from the seed of the case."""
    return torch.randn(shape, dtype=torch.float64)


def own(name: str, *inputs: tuple[int, ...] | Tensor, seeded: bool = False) -> Callable[[Callable[..., Any]], None]:
    """Declare a function of tensors of these shapes, or of these tensors."""

    def values() -> tuple[Tensor, ...]:
        return tuple(x.double() if isinstance(x, Tensor) else draw(*x) for x in inputs)

    def declare(function: Callable[..., Any]) -> None:
        OWN[f"own.{name}"] = lambda: (lambda xs: function(*xs), values(), seeded)

    return lambda function: declare(function)


def module(name: str, make: Callable[[], nn.Module], *shapes: tuple[int, ...], integers: bool = False) -> None:
    """Declare a module called with tensors of these shapes, or with whole numbers below 4."""

    def case() -> Own:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = make().double()
        names = [n for n, _ in net.named_parameters()]
        values = tuple(p.detach().clone() + 0.1 * draw(*p.shape) for p in net.parameters())
        given = tuple(torch.randint(4, s) if integers else draw(*s) for s in shapes)
        moved = values if integers else values + given

        def function(xs: list[Tensor]) -> Any:
            state = dict(zip(names, xs, strict=False))
            inputs = given if integers else tuple(xs[len(names) :])
            return functional_call(net, state, inputs)

        return function, moved, False

    OWN[f"own.nn.{name}"] = case


module("LayerNorm net", lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)), (5, 3))
module("RMSNorm net", lambda: nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Tanh(), nn.Linear(4, 2)), (5, 3))
module("GroupNorm net", lambda: nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Tanh()), (5, 3))
module("BatchNorm1d training", lambda: nn.BatchNorm1d(3, track_running_stats=False), (5, 3))
module("BatchNorm1d training (N,C,L)", lambda: nn.BatchNorm1d(3, track_running_stats=False), (4, 3, 2))
module("BatchNorm2d training", lambda: nn.BatchNorm2d(2, track_running_stats=False), (3, 2, 2, 2))
module("BatchNorm1d eval", lambda: nn.BatchNorm1d(3).eval(), (5, 3))
module("InstanceNorm1d", lambda: nn.InstanceNorm1d(2, affine=True), (3, 2, 4))
module("InstanceNorm2d", lambda: nn.InstanceNorm2d(2), (2, 2, 2, 3))
module("Embedding", lambda: nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2)), (5,), integers=True)
module("EmbeddingBag", lambda: nn.EmbeddingBag(4, 3, mode="mean"), (5, 2), integers=True)
module("LSTM", lambda: nn.LSTM(2, 3, num_layers=2), (3, 2, 2))
module("GRU", lambda: nn.GRU(2, 3), (3, 2, 2))
module("RNN", lambda: nn.RNN(2, 3), (3, 2, 2))
module("LSTMCell", lambda: nn.LSTMCell(2, 3), (4, 2))
module("GRUCell", lambda: nn.GRUCell(2, 3), (4, 2))
module("MultiheadAttention", lambda: nn.MultiheadAttention(4, 2), (3, 2, 4), (3, 2, 4), (3, 2, 4))
module("TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0), (3, 2, 4))
module("TransformerDecoderLayer", lambda: nn.TransformerDecoderLayer(4, 2, 5, dropout=0.0), (3, 2, 4), (3, 2, 4))
module("PReLU", lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)), (5, 3))
module("PReLU one", lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)), (5, 3))
module("Bilinear", lambda: nn.Bilinear(2, 3, 4), (5, 2), (5, 3))
module("Conv1d", lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh()), (2, 2, 5))
module("Conv2d", lambda: nn.Sequential(nn.Conv2d(2, 2, 2, padding=1, groups=2), nn.Softplus()), (2, 2, 3, 3))
module("ConvTranspose2d", lambda: nn.ConvTranspose2d(2, 2, 2, stride=2), (1, 2, 2, 2))
module("SELU net", lambda: nn.Sequential(nn.Linear(3, 4), nn.SELU(), nn.Linear(4, 2)), (5, 3))
module("weight_norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), (5, 3))
module("weight_norm dim=1", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4), dim=1), (5, 3))
module("orthogonal householder", lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="householder"), (5, 4))  # fmt: skip # noqa: E501
module("orthogonal matrix_exp", lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="matrix_exp"), (5, 3))  # fmt: skip # noqa: E501
module("orthogonal cayley", lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="cayley"), (5, 3))  # fmt: skip # noqa: E501
module("spectral_norm eval", lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)).eval(), (5, 3))


@own("checkpoint", (4,), (4,))
def _checkpoint(x: Tensor, y: Tensor) -> Tensor:
    result: Tensor = checkpoint(lambda a, b: torch.sin(a * b).cumsum(0), x, y, use_reentrant=False)
    return result


@own("checkpoint reentrant", (4,), (4,))
def _reentrant(x: Tensor, y: Tensor) -> Tensor:
    result: Tensor = checkpoint(lambda a, b: torch.sin(a * b).cumsum(0), x, y, use_reentrant=True)
    return result


class _OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = g * 3 * x**2
        return result


class _SetupContext(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    backward = _OldStyle.backward


class _Batched(_SetupContext):
    generate_vmap_rule = True


class _WithJvp(_SetupContext):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = 3 * x**2 * t
        return result


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    setup_context = _SetupContext.setup_context

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _OldStyle.backward(ctx, g)


own("Function", (4,))(_OldStyle.apply)
own("Function setup_context", (4,))(_SetupContext.apply)
own("Function generate_vmap_rule", (4,))(_Batched.apply)
own("Function jvp", (4,))(_WithJvp.apply)
own("Function once_differentiable", (4,))(_Once.apply)


def _inner(x: Tensor) -> Tensor:
    return (torch.sin(x) * x.cumsum(0)).sum()


@own("func.grad inside f", (4,))
def _grad_inside(x: Tensor) -> Any:
    return torch.func.grad(_inner)(x)


@own("func.hessian inside f", (3,))
def _hessian_inside(x: Tensor) -> Any:
    return torch.func.hessian(_inner)(x)


@own("func.jvp inside f", (4,))
def _jvp_inside(x: Tensor) -> Tensor:
    tangent: Tensor = torch.func.jvp(_inner, (x,), (torch.cos(x),))[1]
    return tangent


@own("func.vmap inside f", (3, 4))
def _vmap_inside(x: Tensor) -> Tensor:
    return torch.func.vmap(_inner)(x)


@own("autograd.grad inside f", (4,))
def _autograd_inside(x: Tensor) -> Tensor:
    inner: Tensor = torch.autograd.grad(_inner(x), x, create_graph=True)[0]
    return inner


def _with_backend(name: str, backend: SDPBackend, **keywords: Any) -> None:
    @own(f"scaled_dot_product_attention {name}", (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4))
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, **keywords)


_with_backend("math", SDPBackend.MATH)
_with_backend("flash", SDPBackend.FLASH_ATTENTION)
_with_backend("flash causal", SDPBackend.FLASH_ATTENTION, is_causal=True)
own("cdist near", (3, 2), (4, 2))(lambda x, y: torch.cdist(x, y))
own("cdist p=1.5", (3, 2), (4, 2))(lambda x, y: torch.cdist(x, y, p=1.5))
own("cdist by mm", (30, 2), (4, 2))(lambda x, y: torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist"))
own("pdist", (4, 3))(F.pdist)
own("pdist p=3", (4, 3))(lambda x: F.pdist(x, 3.0))
own("masked_select broadcast mask", (2, 5))(
    lambda x: torch.masked_select(x, torch.tensor([True, False, True, True, False]))
)
own("masked_select broadcast input", (5,))(lambda x: torch.masked_select(x, (torch.arange(10) % 3 > 0).view(2, 5)))
own("masked_select as many as inputs", (2,))(
    lambda x: torch.masked_select(x, torch.tensor([[True, False], [True, True]]))
)
# Only one triangle counts; the other one moves as well.
own("triangular_solve whole matrix", (3, 3), (3, 1))(lambda a, b: torch.triangular_solve(b, a + 3 * torch.eye(3))[0])
own("solve_triangular whole matrix", (3, 3), (3, 1))(
    lambda a, b: torch.linalg.solve_triangular(a + 3 * torch.eye(3), b, upper=True)
)
own("cholesky_solve whole matrix", (3, 3), (3, 1))(lambda a, b: torch.cholesky_solve(b, a + 3 * torch.eye(3)))
own("cholesky_inverse whole matrix", (3, 3))(lambda a: torch.cholesky_inverse(a + 3 * torch.eye(3)))
own("prod with a zero", torch.tensor([2.0, 0.0, 3.0]))(lambda x: torch.prod(x))
own("prod with two zeros", torch.tensor([2.0, 0.0, 3.0, 0.0]))(lambda x: torch.prod(x))
own("cumprod with a zero", torch.tensor([2.0, 0.0, 3.0]))(lambda x: torch.cumprod(x, 0))
own("logcumsumexp", (5,))(lambda x: torch.logcumsumexp(x, 0))
own("logdet", (3, 3))(lambda m: torch.logdet(m @ m.mT + torch.eye(3, dtype=m.dtype)))
own("slogdet of complex", (3, 3), (3, 3))(lambda a, b: torch.linalg.slogdet(torch.complex(a, b))[1])
own("solve of complex", (2, 2), (2, 2), (2,))(lambda a, b, c: torch.linalg.solve(torch.complex(a, b), c.cdouble()))
own("eigvals", (3, 3))(lambda m: torch.linalg.eigvals(m).abs())
own("abs of complex", (4,), (4,))(lambda a, b: torch.complex(a, b).abs())
own("fft of complex", (4,), (4,))(lambda a, b: torch.fft.fft(torch.complex(a, b)))
own("binary cross entropy", (4,))(lambda x: F.binary_cross_entropy(x.sigmoid(), torch.full_like(x, 0.3)))
own("weight_norm", (4, 3), (4, 1))(lambda v, g: torch._weight_norm(v, g, 0))
own("dropout", (4, 3), seeded=True)(lambda x: F.dropout(x.sin(), 0.5))
own("index_put accumulate", (3,), (4,))(
    lambda x, y: x.sin().index_put((torch.tensor([0, 0, 2, 1]),), y * y, accumulate=True)
)
if hasattr(nn, "LinearCrossEntropyOptions"):

    @own("linear_cross_entropy", (4, 3), (5, 3))
    def _linear_cross_entropy(x: Tensor, w: Tensor) -> Any:
        return F.linear_cross_entropy(x, w, torch.tensor([0, 4, 2, 1]))

    @own("linear_cross_entropy chunked", (4, 3), (5, 3))
    def _chunked(x: Tensor, w: Tensor) -> Any:
        return F.linear_cross_entropy(x, w, torch.tensor([0, 4, 2, 1]), options=nn.LinearCrossEntropyOptions())
