"""Learned parameters of neurons that stay within bounds by their parametrisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bounded(nn.Module):
    """One value per channel, low + (high - low) sigmoid(raw), drawn uniformly at first.

    Without `learned` the values stay as drawn. Equal bounds give a constant.
    """

    raw: Tensor

    def __init__(self, channels: int, bounds: tuple[float, float], learned: bool):
        super().__init__()
        self.low, self.high = bounds
        # sigmoid'(raw) vanishes at the bounds, where a value could hardly be learned
        raw = torch.empty(channels).uniform_(0.02, 0.98).logit()
        if learned and self.low < self.high:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def value(self) -> Tensor:
        """The values `[channels]`."""
        return self.low + (self.high - self.low) * self.raw.sigmoid()
