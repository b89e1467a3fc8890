"""Negative log marginal likelihood of a Gaussian process, in the logarithms of its hyperparameters."""

import math

import torch


def negative_log_likelihood(x, inputs, targets):
    amplitude, noise, scales = x[0].exp(), x[1].exp(), x[2:].exp()
    scaled = inputs / scales
    distances = (scaled[:, None] - scaled[None]).square().sum(-1)
    kernel = amplitude * torch.exp(-distances / 2) + (noise + 1e-6) * torch.eye(len(inputs), dtype=x.dtype)
    factor = torch.linalg.cholesky(kernel)
    white = torch.linalg.solve_triangular(factor, targets[:, None], upper=False)
    return (white**2).sum() / 2 + factor.diagonal().log().sum() + len(inputs) * math.log(2 * math.pi) / 2


def make(points: int = 12, dimensions: int = 3):
    from hograd_bench.targets import Example

    inputs = torch.rand(points, dimensions, dtype=torch.float64)
    targets = torch.sin(3 * inputs.sum(dim=1)) + 0.1 * torch.randn(points, dtype=torch.float64)
    x = torch.tensor([0.0, -2.0, *[-1.0] * dimensions], dtype=torch.float64)
    return Example(negative_log_likelihood, x, args=(inputs, targets))
