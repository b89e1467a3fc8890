"""A recurrent net that predicts the next value of a series."""

import torch
from torch import nn


class Forecaster(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(1, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, series):
        states, _ = self.recurrent(series)
        return self.out(states)


def loss(predicted, wanted):
    return ((predicted - wanted) ** 2).mean()


def make(n: int = 3):
    """Width n, four series of ten steps."""
    series = torch.sin(torch.arange(11.0)[None, :, None] + torch.rand(4, 1, 1))
    return Forecaster(n), loss, series[:, :-1], series[:, 1:]
