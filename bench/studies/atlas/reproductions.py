"""Each fault in plain torch: name -> a program that leaves ``got`` and ``expected``, two numbers that differ.

``expected`` is a closed form, or the same function by formulas that are right. The page shows them as they are here;
facts say how each comes out, and the tests run them again.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

_SECOND = """
import torch
one = torch.ones((), dtype=torch.float64)
def second_jvp(f, t):  # forward over forward
    return torch.func.jvp(lambda s: torch.func.jvp(f, (s,), (one,))[1], (t,), (one,))[1]
"""
_REVERSE = """
import torch
def nth(f, x, n):  # reverse over reverse, n deep, along x's ones
    x = x.clone().requires_grad_()
    y = f(x)
    for _ in range(n):
        y = torch.autograd.grad(y, x, create_graph=True)[0].sum()
    return y.item()
"""

PROGRAMS: dict[str, str] = {
    "layer_norm reverse": _REVERSE
    + """
from torch.nn.functional import layer_norm
w, s = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
def by_formula(x):
    c = x - x.mean()
    return c / (c.square().mean() + 0.25).sqrt()
def f(norm):
    return lambda t: (norm(torch.cat((t, 0 * t))) * w).sum()
got, expected = nth(f(lambda x: layer_norm(x, [2], eps=0.25)), s, 3), nth(f(by_formula), s, 3)
""",
    "layer_norm forward": _SECOND
    + """
from torch.nn.functional import layer_norm
w = torch.tensor([1.0, 2.0], dtype=torch.float64)
def f(t):  # = -t / (2 sqrt(1 + t^2))
    return (layer_norm(torch.stack((t, 0 * t)), [2], eps=0.25) * w).sum()
t = 0.7
got = second_jvp(f, t * one).item()
expected = 1.5 * t / (1 + t * t) ** 2.5
""",
    "batch_norm reverse": _REVERSE
    + """
from torch.nn.functional import batch_norm
w, s = torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
def by_formula(x):
    c = x - x.mean()
    return c / (c.square().mean() + 0.25).sqrt()
def f(norm):
    return lambda t: (norm(torch.stack((t, 0 * t))) * w).sum()
got = nth(f(lambda x: batch_norm(x, None, None, training=True, eps=0.25)), s, 3)
expected = nth(f(by_formula), s, 3)
""",
    "batch_norm forward": _SECOND
    + """
from torch.nn.functional import batch_norm
w = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
def f(t):  # = -t / (2 sqrt(1 + t^2))
    return (batch_norm(torch.stack((t, 0 * t))[:, None], None, None, training=True, eps=0.25) * w).sum()
t = 0.7
got = second_jvp(f, t * one).item()
expected = 1.5 * t / (1 + t * t) ** 2.5
""",
    "weight_norm": _REVERSE
    + """
g, s = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
def f(t):  # v g/|v| of v = (t, 1): its first entry, t / sqrt(1 + t^2)
    return torch._weight_norm(torch.stack((t, t / t), 1), g, 0)[0, 0]
got, expected = nth(f, s, 2), -3 * 0.7 / (1 + 0.7**2) ** 2.5
""",
    "det": _SECOND
    + """
def f(t):  # = (t + 2)(2 t + 3) - 1
    return torch.linalg.det(torch.stack((torch.stack((t + 2, one)), torch.stack((one, 2 * t + 3)))))
got, expected = second_jvp(f, 0.7 * one).item(), 4.0
""",
    "slogdet": _SECOND
    + """
def f(t):  # = log(3 t + 5)
    return torch.linalg.slogdet(torch.stack((torch.stack((t + 2, one)), torch.stack((one, 3 * one)))))[1]
got, expected = second_jvp(f, 0.7 * one).item(), -9 / (3 * 0.7 + 5) ** 2
""",
    "solve": _SECOND
    + """
def f(t):  # = 1 / t
    return torch.linalg.solve(t.reshape(1, 1), one.reshape(1)).sum()
got, expected = second_jvp(f, 2 * one).item(), 2 / 2**3
""",
    "cholesky_inverse": _SECOND
    + """
def f(t):  # inverse of L L^T for L = [[1, 0], [t, 1]]: [[1 + t^2, -t], [-t, 1]]
    return torch.cholesky_inverse(torch.stack((torch.stack((one, 0 * t)), torch.stack((t, one)))))[0, 0]
got, expected = second_jvp(f, 0.7 * one).item(), 2.0
""",
    "triangular_solve": """
import torch
one = torch.ones((), dtype=torch.float64)
def f(t):  # = 1 / t: upper=True, so that what stands below the diagonal does not count
    a = torch.stack((torch.stack((t, 0 * t)), torch.stack((t, one))))
    return torch.triangular_solve(torch.ones(2, 1, dtype=torch.float64), a, upper=True).solution.sum()
got, expected = torch.func.jvp(f, (2 * one,), (one,))[1].item(), -0.25
""",
    "householder_product": _SECOND
    + """
def f(t):  # first column of I - tau v v^T for v = (1, t), tau = 2 / (1 + t^2): sums to 1 - 2 (1 + t) / (1 + t^2)
    a = torch.stack((one, t)).reshape(2, 1)
    return torch.linalg.householder_product(a, (2 / (1 + t * t)).reshape(1)).sum()
def closed(t):
    return 1 - 2 * (1 + t) / (1 + t * t)
t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
slope = torch.autograd.grad(closed(t), t, create_graph=True)[0]
got, expected = second_jvp(f, 0.7 * one).item(), torch.autograd.grad(slope, t)[0].item()
""",
    "cumprod": _SECOND
    + """
def f(t):  # = t (t - 1) at t = 1
    return torch.cumprod(torch.stack((t, t - 1)), 0)[1]
got, expected = second_jvp(f, one).item(), 2.0
""",
    "scatter_reduce": _SECOND
    + """
def f(t):  # = t^3
    into, index = torch.ones(1, dtype=t.dtype), torch.zeros(3, dtype=torch.int64)
    return into.scatter_reduce(0, index, t.expand(3), "prod").sum()
got, expected = second_jvp(f, 2 * one).item(), 12.0
""",
    "linear_cross_entropy": _REVERSE
    + """
from torch.nn.functional import cross_entropy, linear_cross_entropy
w, target = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), torch.tensor([1])
s, chunked = torch.full((1, 1), 0.3, dtype=torch.float64), torch.nn.LinearCrossEntropyOptions()
got = nth(lambda x: linear_cross_entropy(x, w, target, options=chunked) + x.pow(2).sum(), s, 2)
expected = nth(lambda x: cross_entropy(x @ w.mT, target) + x.pow(2).sum(), s, 2)
""",
    "custom jvp": _SECOND
    + """
class Cube(torch.autograd.Function):
    generate_vmap_rule = True
    @staticmethod
    def forward(x):
        return x**3
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(inputs[0])
    @staticmethod
    def jvp(ctx, t):
        return 3 * ctx.saved_tensors[0] ** 2 * t
got, expected = second_jvp(Cube.apply, 2 * one).item(), 12.0
""",
    "once_differentiable": """
import torch
class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g
x, v = torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
got = torch.autograd.functional.hvp(Cube.apply, x, v)[1].item()  # an error would be right
expected = 12.0
""",
    "cdist": """
import torch
x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
y = torch.tensor([[1.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
got = torch.func.jacrev(torch.func.grad(lambda x: torch.cdist(x, y).sum()))(x).sum().item()
expected = torch.func.hessian(lambda x: (x - y).square().sum(1).sqrt().sum())(x).sum().item()
""",
    "logcumsumexp": """
import torch
x, u = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.zeros(2, dtype=torch.float64, requires_grad=True)
leaf = x.clone().requires_grad_()
pulled = torch.autograd.grad(torch.logcumsumexp(leaf, 0), leaf, u, create_graph=True)[0]  # linear in u, at u = 0
got = torch.autograd.grad(pulled.sum(), u)[0][0].item()  # d/ds logcumsumexp(x + s)[0]
expected = 1.0
""",
    "masked_select": """
import torch
x, mask = torch.arange(1.0, 3, dtype=torch.float64), torch.tensor([[True, False], [True, True]])
def f(x):  # = 2 x_0^3 + x_1^3
    return torch.masked_select(x, mask).pow(3).sum()
got = torch.func.jacrev(torch.func.grad(f))(x)[0, 0].item()
expected = 12.0
""",
}


def outcome(name: str) -> str:
    """How a program comes out here: wrong, right, or refused (it raises)."""
    space: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(PROGRAMS[name], name, "exec"), space)
        except Exception:
            return "refused"
    return "right" if math.isclose(space["got"], space["expected"], rel_tol=1e-3) else "wrong"
