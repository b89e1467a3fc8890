"""A physics-informed net: the residual of u'' = -sin x and its boundary values, in the weights of the net."""

import torch


def net(weights, t):
    hidden = torch.tanh(t[:, None] * weights["in"] + weights["bias"])
    return hidden @ weights["out"]


def loss(weights, points):
    def u(t):
        return net(weights, t[None])[0]

    second = torch.func.vmap(torch.func.grad(torch.func.grad(u)))(points)
    inside = ((second + torch.sin(points)) ** 2).mean()
    ends = net(weights, torch.tensor([0.0, torch.pi]))
    return inside + (ends**2).sum()


def make(n: int = 4):
    """n hidden units, sixteen points."""
    from hograd_bench.targets import Example

    weights = {"in": torch.randn(n), "bias": torch.randn(n), "out": torch.randn(n) / n**0.5}
    return Example(loss, weights, args=(torch.linspace(0.1, 3.0, 16),))
