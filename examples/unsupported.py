"""A loss with an operation of one's own whose backward is differentiable once only."""

import torch
from torch.autograd.function import once_differentiable


class Huber(torch.autograd.Function):
    """A faster smooth absolute value, as found in many code bases."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sqrt(1 + x**2) - 1

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x / torch.sqrt(1 + x**2)


def f(x):
    return Huber.apply(x**2 - 1).sum()
