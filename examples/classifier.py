"""A classifier and one batch of its DataLoader."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(nn.Module):
    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, classes)

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.hidden(x))))


def loader(batch: int) -> DataLoader:
    inputs = torch.randn(256, 6)
    labels = (inputs.sum(dim=1) > 0).long() + (inputs[:, 0] > 1).long()
    return DataLoader(TensorDataset(inputs, labels), batch_size=batch)


def make(n: int = 4):
    """Width n; what is differentiated is the loss of a batch in the weights."""
    inputs, targets = next(iter(loader(batch=16)))
    return Classifier(6, n, 3), nn.functional.cross_entropy, inputs, targets
