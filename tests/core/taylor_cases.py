"""Every operation with a rule, as a function of one tensor: name -> (function, point)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

from hograd_core.taylor import derivatives_along


def nested(f, x: Tensor, v: Tensor, order: int) -> list[Tensor]:
    """d^k/dt^k f(x + t v) at 0 for a scalar f, by differentiating k times."""
    t = torch.zeros((), dtype=x.dtype, requires_grad=True)
    y = f(x + t * v)
    out = [y.detach()]
    for _ in range(order):
        (y,) = torch.autograd.grad(y, t, create_graph=True, allow_unused=True, materialize_grads=True)
        out.append(y.detach())
        y = y if y.requires_grad else y + 0 * t
    return out


ORDER = 6


def agree(f, x: Tensor, order: int = ORDER, tolerance: float = 1e-10) -> None:
    v = rand(*x.shape, seed=99)
    weights: dict[torch.Size, Tensor] = {}

    def scalar(x: Tensor) -> Tensor:
        # Random weights, so that no error can cancel in the sum.
        y = f(x)
        if y.dim() == 0:
            return y
        return (y * weights.setdefault(y.shape, rand(*y.shape, seed=7))).sum()

    truth = nested(scalar, x, v, order)
    found = derivatives_along(scalar, x, v, order)
    for k, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert a.shape == b.shape
        assert torch.isfinite(b), f"order {k}: truth is {b}"
        assert abs(a - b) <= tolerance * max(1.0, abs(b)), f"order {k}: {a} against {b}"


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = rand(3, 4, seed=1)
P = X.abs() + 0.5  # positive
U = torch.tanh(X) * 0.9  # inside (-1, 1)
A = rand(4, 4, seed=2)
B = rand(3, 4, seed=3)
T = rand(2, 3, 4, seed=4)
IMAGE = rand(2, 2, 5, 5, seed=5)
KERNEL = rand(3, 2, 3, 3, seed=6)
INDEX = torch.tensor([[0, 2, 1, 0], [1, 1, 0, 2], [2, 0, 2, 1]])
SPD = A @ A.T + 4 * torch.eye(4, dtype=torch.float64)

ELEMENTWISE = {
    "neg": (torch.neg, X),
    "square": (torch.square, X),
    "exp": (torch.exp, X),
    "exp2": (torch.exp2, X),
    "expm1": (torch.expm1, X),
    "log": (torch.log, P),
    "log2": (torch.log2, P),
    "log10": (torch.log10, P),
    "log1p": (torch.log1p, P),
    "sqrt": (torch.sqrt, P),
    "rsqrt": (torch.rsqrt, P),
    "sin": (torch.sin, X),
    "cos": (torch.cos, X),
    "tan": (torch.tan, U),
    "sinh": (torch.sinh, X),
    "cosh": (torch.cosh, X),
    "tanh": (torch.tanh, X),
    "sigmoid": (torch.sigmoid, X),
    "silu": (F.silu, X),
    "asin": (torch.asin, U),
    "acos": (torch.acos, U),
    "atan": (torch.atan, X),
    "asinh": (torch.asinh, X),
    "acosh": (torch.acosh, P + 1),
    "atanh": (torch.atanh, U),
    "erf": (torch.erf, X),
    "erfc": (torch.erfc, X),
    "logsigmoid": (F.logsigmoid, X),
    "reciprocal": (torch.reciprocal, P),
    "gelu": (F.gelu, X),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), X),
    "softplus": (F.softplus, X),
    "softplus_beta": (lambda x: F.softplus(x, beta=2.0, threshold=1.5), X),
    "mish": (F.mish, X),
    "elu": (F.elu, X),
    "celu": (F.celu, X),
    "selu": (F.selu, X),
    "lgamma": (torch.lgamma, P),
    "digamma": (torch.digamma, P),
    "sinc": (torch.sinc, P),
    "logit": (torch.logit, U.abs() * 0.8 + 0.1),
    "hardswish": (F.hardswish, X),
    "softsign": (F.softsign, X),
    "tanhshrink": (F.tanhshrink, X),
    "pow_0": (lambda x: x**0 * x, X),
    "pow_1": (lambda x: x**1, X),
    "pow_2": (lambda x: x**2, X),
    "pow_3": (lambda x: x**3, X),
    "pow_7": (lambda x: x**7, X),
    "pow_float_int": (lambda x: x**4.0, X),
    "pow_negative": (lambda x: x**-2, P),
    "pow_half": (lambda x: x**0.5, P),
    "pow_real": (lambda x: x**2.3, P),
    "pow_tensor": (lambda x: x**B, P),
    "pow_0dim": (lambda x: x ** torch.tensor(3.0, dtype=torch.float64), X),
    "pow_base": (lambda x: 2.5**x, X),
    "pow_base_tensor": (lambda x: P**x, X),
    "pow_both": (lambda x: (x * x + 1) ** x, X),
    "relu": (lambda x: F.relu(x) * x.sin(), X),
    "abs": (lambda x: x.abs() * x.cos(), X),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1) * x, X),
    "hardtanh": (lambda x: F.hardtanh(x) * x.exp(), X),
    "relu6": (lambda x: F.relu6(x * 3) * x, X),
    "threshold": (lambda x: F.threshold(x, 0.3, 2.0) * x.exp(), X),
    "remainder": (lambda x: (x % 0.7) * x.exp(), X),
    "clamp": (lambda x: x.clamp(-0.5, 0.5) * x.exp(), X),
    "clamp_min": (lambda x: x.clamp_min(0.1) * x.exp(), X),
    "clamp_tensor": (lambda x: torch.clamp(x, max=B) * x.exp(), X),
    "floor": (lambda x: x.floor() * x.exp(), X),
}

BINARY = {
    "add": (lambda x: x.sin() + x.cos(), X),
    "add_number": (lambda x: (x + 2) ** 3, X),
    "add_alpha": (lambda x: torch.add(x.sin(), x.cos(), alpha=3), X),
    "sub": (lambda x: (x.sin() - x.cos()) ** 2, X),
    "sub_alpha": (lambda x: torch.sub(B, x.sin(), alpha=2), X),
    "rsub": (lambda x: (2 - x) ** 3, X),
    "rsub_function": (lambda x: torch.rsub(x.sin(), B, alpha=2), X),
    "mul": (lambda x: x.sin() * x.cos(), X),
    "mul_number": (lambda x: 3 * x.sin(), X),
    "mul_tensor": (lambda x: B * x.sin(), X),
    "mul_broadcast": (lambda x: T * x.sin(), X),
    "div": (lambda x: x.sin() / (2 + x.cos()), X),
    "div_number": (lambda x: x.sin() / 3, X),
    "div_into": (lambda x: 1.5 / (2 + x.cos()), X),
    "div_tensor": (lambda x: B / (2 + x.cos()), X),
    "addcmul": (lambda x: torch.addcmul(x, x.sin(), x.cos(), value=0.3), X),
    "addcmul_fixed": (lambda x: torch.addcmul(x.sin(), B, B, value=0.3), X),
    "addcdiv": (lambda x: torch.addcdiv(x, x.sin(), 2 + x.cos(), value=0.3), X),
    "lerp": (lambda x: torch.lerp(x.sin(), x.cos(), x), X),
    "lerp_number": (lambda x: torch.lerp(x.sin(), x.cos(), 0.3), X),
    "atan2": (lambda x: torch.atan2(x.sin(), 2 + x.cos()), X),
    "atan2_fixed": (lambda x: torch.atan2(x, B), X),
    "hypot": (lambda x: torch.hypot(x, 1 + x * x), X),
    "logaddexp": (lambda x: torch.logaddexp(x, x.sin()), X),
    "xlogy": (lambda x: torch.xlogy(x.sin(), x), P),
    "maximum": (lambda x: torch.maximum(x.sin(), x.cos()) * x, X),
    "minimum": (lambda x: torch.minimum(x.sin(), B) * x, X),
    "where": (lambda x: torch.where(x > 0, x.sin(), x.exp()), X),
    "where_number": (lambda x: torch.where(x > 0, x.sin(), 1.0), X),
    "masked_fill": (lambda x: x.sin().masked_fill(x > 0, 2.0), X),
    "broadcast_up": (lambda x: x[0].sin() + x[:, :1].cos(), X),
    "dtype": (lambda x: x.sin().float().double() * 0 + x.exp(), X),
    "mixed_dtype": (lambda x: x.sin() * B.float() + B.float(), X),
}

STRUCTURE = {
    "view": lambda x: x.view(12),
    "reshape": lambda x: x.t().reshape(2, 6),
    "flatten": lambda x: x.flatten(),
    "expand": lambda x: x[:, None].expand(3, 2, 4),
    "permute": lambda x: x.permute(1, 0),
    "transpose": lambda x: x.mT,
    "t": lambda x: x.t(),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "select": lambda x: x[1],
    "slice": lambda x: x[:, 1:3],
    "index": lambda x: x[[0, 2, 0]],
    "mask": lambda x: x[B > 0],
    "index_two": lambda x: x[[0, 1], [2, 3]],
    "gather": lambda x: x.gather(0, INDEX),
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 0])),
    "take": lambda x: x.take(torch.tensor([3, 7])),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 1),
    "diagonal": lambda x: x.diagonal(),
    "repeat": lambda x: x.repeat(2, 1),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(),
    "diag_embed": lambda x: torch.diag_embed(x),
    "clone": lambda x: x.clone(),
    "trace": lambda x: (x @ x.mT).trace(),
    "sum": lambda x: x.sum(),
    "sum_dim": lambda x: x.sum(1, keepdim=True),
    "mean": lambda x: x.mean(),
    "mean_dim": lambda x: x.mean(0),
    "cumsum": lambda x: x.cumsum(1),
    "split": lambda x: x.split(2, 1)[1],
    "split_sizes": lambda x: x.split([1, 3], 1)[1],
    "unbind": lambda x: x.unbind(0)[2],
    "chunk": lambda x: x.chunk(2, 1)[0],
    "cat": lambda x: torch.cat([x, B, x * x]),
    "stack": lambda x: torch.stack([x, B, x * x], 1),
    "pad": lambda x: F.pad(x, (1, 2), value=3.0),
    "scatter_add": lambda x: torch.zeros(3, 4, dtype=x.dtype).scatter_add(0, INDEX, x),
    "scatter": lambda x: x.scatter(0, INDEX[:1], 2.0),
    "index_add": lambda x: B.index_add(0, torch.tensor([2, 0, 2]), x),
    "index_put": lambda x: x.index_put((torch.tensor([0]),), x[1]),
    "to": lambda x: x.to(torch.float64),
    "tensor_split": lambda x: torch.tensor_split(x, 3, dim=1)[1],
    "movedim": lambda x: T.mul(x).movedim(0, 2),
    "swap": lambda x: x.swapaxes(0, 1),
    "hstack": lambda x: torch.hstack([x, x]),
    "tile": lambda x: x.tile(2),
    "contiguous": lambda x: x.t().contiguous(),
    "ravel": lambda x: x.t().ravel(),
    "rot90": lambda x: torch.rot90(x),
    "diff": lambda x: x.diff(dim=1),
    "kron": lambda x: torch.kron(x, x[:2, :2]),
    "outer": lambda x: torch.outer(x[0], x[1]),
}

PRODUCTS = {
    "mm_left": lambda x: x @ A,
    "mm_right": lambda x: A @ x.mT,
    "mm_both": lambda x: x @ x.mT,
    "mv": lambda x: A @ x[0],
    "mv_matrix": lambda x: x @ A[0],
    "mv_both": lambda x: x @ x[0],
    "vm": lambda x: x[0] @ A,
    "dot": lambda x: x[0] @ A[0],
    "dot_both": lambda x: x[0] @ x[1],
    "bmm_left": lambda x: torch.bmm(T * x, rand(2, 4, 3)),
    "batch_matmul": lambda x: T @ x.mT,
    "bmm_right": lambda x: torch.bmm(rand(2, 4, 3), T * x),
    "bmm_both": lambda x: torch.bmm(T * x, (T * x).mT),
    "addmm": lambda x: torch.addmm(B, x, A, beta=0.5, alpha=2),
    "addmm_all": lambda x: torch.addmm(x, x, A * x.sum()),
    "addmm_bias": lambda x: torch.addmm(x, B, A, beta=0.5, alpha=2),
    "addmv": lambda x: torch.addmv(x[0], A, x[1], alpha=2, beta=3),
    "addmm_beta0": lambda x: torch.addmm(B, x, A, beta=0),
    "baddbmm": lambda x: torch.baddbmm(T[:, :, :3], T * x, rand(2, 4, 3), alpha=2),
    "baddbmm_bias": lambda x: torch.baddbmm(x[:, :3], T, rand(2, 4, 3), alpha=2, beta=0.3),
    "addmv_bias": lambda x: torch.addmv(x[0], A, A[0], alpha=2, beta=3),
    "linear": lambda x: F.linear(x, A, A[0]),
    "linear_3d": lambda x: F.linear(T * x, A),
    "linear_weight": lambda x: F.linear(B, x, x[:, 0]),
    "linear_bias": lambda x: F.linear(B, A, x[0]),
    "einsum": lambda x: torch.einsum("ij,kj,kl->il", x, B, x),
    "einsum_quadratic": lambda x: torch.einsum("bi,ij,bj->b", x, A, x),
    "bilinear": lambda x: F.bilinear(x, x, rand(2, 4, 4)),
    "matrix_power": lambda x: torch.linalg.matrix_power(A + x[0], 3),
    "multi_dot": lambda x: torch.linalg.multi_dot([x, A, x.mT]),
    "tensordot": lambda x: torch.tensordot(x, T, dims=([0, 1], [1, 2])),
    "cdist": lambda x: ((x[:, None] - B[None]) ** 2).sum(-1).sqrt(),
}

CONVOLUTIONS = {
    "conv2d": lambda x: F.conv2d(x, KERNEL, rand(3), padding=1),
    "conv2d_stride": lambda x: F.conv2d(x, KERNEL, stride=2),
    "conv2d_weight": lambda x: F.conv2d(IMAGE, x[:, :, :3, :3], x[:, 0, 0, 0]),
    "conv2d_both": lambda x: F.conv2d(x, x[:, :, :2, :2]),
    "conv2d_bias": lambda x: F.conv2d(IMAGE, KERNEL[:2], x[0, 0, 0, :2]),
    "conv_transpose": lambda x: F.conv_transpose2d(x, KERNEL.mT.transpose(0, 1)),
    "conv2d_groups": lambda x: F.conv2d(x, KERNEL[:2, :1], groups=2),
    "conv1d": lambda x: F.conv1d(x[:, :, 0], KERNEL[:, :, 0], padding=1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2) ** 2,
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2) ** 2,
    "global": lambda x: F.adaptive_avg_pool2d(x, 1) ** 2,
    "max_pool2d": lambda x: F.max_pool2d(x, 2) ** 2,
    "interpolate": lambda x: F.interpolate(x, scale_factor=2) ** 2,
    "bilinear": lambda x: F.interpolate(x, size=(7, 7), mode="bilinear") ** 2,
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect") ** 2,
    "fold": lambda x: F.unfold(x, 2) ** 2,
    "shuffle": lambda x: F.pixel_unshuffle(x[:, :, :4, :4], 2) ** 2,
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate") ** 2,
    "avg_pool1d": lambda x: F.avg_pool1d(x[0], 2) ** 2,
}

RUNNING = (rand(2, seed=8) * 0.1, rand(2, seed=9).abs() + 0.5)

COMPOUND = {
    "softmax": (lambda x: x.softmax(1), X),
    "log_softmax": (lambda x: x.log_softmax(0), X),
    "logsumexp": (lambda x: x.logsumexp((0, 1)), X),
    "logsumexp_keep": (lambda x: x.logsumexp(1, keepdim=True), X * 200),
    "norm": (lambda x: x.norm(), X),
    "norm_dim": (lambda x: x.norm(dim=1), X),
    "norm_1": (lambda x: x.norm(1, dim=0) ** 2, X),
    "norm_3": (lambda x: x.norm(3), X),
    "norm_inf": (lambda x: x.norm(math.inf) ** 2, X),
    "var": (lambda x: x.var(), X),
    "var_dim": (lambda x: x.var(1, correction=0), X),
    "std": (lambda x: x.std(0), X),
    "var_mean": (lambda x: torch.cat(torch.var_mean(x, 1)), X),
    "mse": (lambda x: F.mse_loss(x.sin(), B), X),
    "mse_sum": (lambda x: F.mse_loss(B, x.sin(), reduction="sum"), X),
    "mse_none": (lambda x: F.mse_loss(B, x.sin(), reduction="none"), X),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([1, 0, 3])), X),
    "cross_entropy_all": (
        lambda x: F.cross_entropy(x, torch.tensor([1, -100, 3]), weight=P[0], label_smoothing=0.1),
        X,
    ),
    "cross_entropy_soft": (lambda x: F.cross_entropy(x, B.softmax(1)), X),
    "nll_none": (lambda x: F.nll_loss(x.sin(), torch.tensor([1, 0, 3]), reduction="none"), X),
    "bce": (lambda x: F.binary_cross_entropy(x.sigmoid(), U.abs()), X),
    "bce_logits": (lambda x: F.binary_cross_entropy_with_logits(x, U.abs()), X),
    "kl": (lambda x: F.kl_div(x.log_softmax(1), B.softmax(1), reduction="batchmean"), X),
    "huber": (lambda x: F.huber_loss(x.sin(), B), X),
    "smooth_l1": (lambda x: F.smooth_l1_loss(x.sin(), B), X),
    "cosine": (lambda x: F.cosine_similarity(x, B), X),
    "normalize": (lambda x: F.normalize(x), X),
    "prod": (lambda x: x.prod(), X),
    "prod_dim": (lambda x: x.prod(1), X),
    "prod_zero": (lambda x: (x * (B > 0)).prod(0), X),
    "max": (lambda x: x.max() ** 2, X),
    "max_dim": (lambda x: x.max(1).values ** 2, X),
    "min_dim": (lambda x: x.min(0, keepdim=True)[0] ** 2, X),
    "amax": (lambda x: x.amax(0) ** 2, X),
    "amin": (lambda x: x.amin((0, 1)) ** 2, X),
    "sort": (lambda x: x.sort(0).values ** 2, X),
    "topk": (lambda x: x.topk(2).values ** 2, X),
    "median": (lambda x: x.median() ** 2, X),
    "kthvalue": (lambda x: x.kthvalue(2).values ** 2, X),
    "inv": (lambda x: torch.linalg.inv(SPD + 0.1 * x[:1]), X),
    "solve": (lambda x: torch.linalg.solve(SPD + 0.1 * x[:1], x.mT), X),
    "solve_vector": (lambda x: torch.linalg.solve(SPD + 0.1 * x[:1], x[0]), X),
    "solve_right": (lambda x: torch.linalg.solve(SPD + 0.1 * x[:1], x, left=False), X),
    "solve_fixed": (lambda x: torch.linalg.solve(SPD, x[0]) ** 2, X),
    "slogdet": (lambda x: torch.linalg.slogdet(SPD + 0.1 * x[:1])[1], X),
    "logdet": (lambda x: torch.logdet(SPD + 0.1 * x[:1]), X),
    "det": (lambda x: torch.linalg.det(SPD + 0.1 * x[:1]), X),
    "cholesky": (lambda x: torch.linalg.cholesky(SPD + 0.1 * x.mT @ x), X),
    "cholesky_upper": (lambda x: torch.linalg.cholesky(SPD + x.mT @ x, upper=True), X),
    "fft": (lambda x: torch.view_as_real(torch.fft.fft(x)) ** 2, X),
    "rfft_abs": (lambda x: torch.fft.rfft(x).abs(), X),
    "batch_norm_eval": (lambda x: F.batch_norm(x, *RUNNING, rand(2), rand(2)) ** 2, IMAGE),
}
