"""A mixture of Gaussians fitted to data: negative log-likelihood in a dict of parameters."""

import torch

DATA = torch.cat([torch.randn(40, generator=torch.Generator().manual_seed(1)) * s + m for m, s in ((-2, 0.5), (1, 1))])


def negative_log_likelihood(parameters):
    weights = torch.log_softmax(parameters["logits"], dim=0)
    scales = torch.nn.functional.softplus(parameters["scales"])
    densities = -(((DATA[:, None] - parameters["means"]) / scales) ** 2) / 2 - scales.log()
    return -torch.logsumexp(weights + densities, dim=1).mean()


def make(n: int = 3):
    """n components."""
    return negative_log_likelihood, {
        "logits": torch.zeros(n),
        "means": torch.linspace(-2, 2, n),
        "scales": torch.ones(n),
    }
