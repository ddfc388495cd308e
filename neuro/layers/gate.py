"""The gate of LT-Gate: how much of a channel's decision its fast compartment makes.

gamma is one number in [0, 1] per output channel, computed in one of three ways: from the variances
of the branches' firing (the paper's), learned with the weights, or fixed (an ablation).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

GateKind = Literal["variance", "learned", "fixed"]


class Gate(nn.Module, ABC):
    """gamma per output channel."""

    @abstractmethod
    def gamma(self) -> Tensor:
        """`[channels]`, in [0, 1]."""


class VarianceGate(Gate):
    """gamma = 1 where the fast branch has been the quieter one, else 0 (arXiv 2510.12843).

    The buffers hold exponential averages of the variance, over the batch, of a channel's mean
    spike rate; `change` gives their increments, so that the trainer applies them.
    """

    fast_variance: Tensor
    slow_variance: Tensor

    def __init__(self, channels: int, rate: float = 1e-3, start: float = 1e-4):
        super().__init__()
        self.rate = rate
        self.register_buffer("fast_variance", torch.full((channels,), start))
        self.register_buffer("slow_variance", torch.full((channels,), start))

    def gamma(self) -> Tensor:
        return (self.fast_variance <= self.slow_variance).to(self.fast_variance.dtype)

    def change(self, fast_rate: Tensor, slow_rate: Tensor) -> dict[str, Tensor]:
        """Increments of the buffers from the branches' mean rates of a batch, `[B, C, ...]`."""
        return {
            "fast_variance": self.rate * (_variance(fast_rate) - self.fast_variance),
            "slow_variance": self.rate * (_variance(slow_rate) - self.slow_variance),
        }


class LearnedGate(Gate):
    """gamma = sigmoid(g) with g trained like a weight."""

    def __init__(self, channels: int, start: float = 0.5):
        super().__init__()
        self.logit = nn.Parameter(torch.full((channels,), start).logit())

    def gamma(self) -> Tensor:
        return self.logit.sigmoid()


class FixedGate(Gate):
    """The same gamma for every channel, for good: 1 is a network without a slow branch."""

    value: Tensor

    def __init__(self, channels: int, value: float = 0.5):
        super().__init__()
        self.register_buffer("value", torch.full((channels,), value))

    def gamma(self) -> Tensor:
        return self.value


@dataclass(frozen=True)
class Gating:
    """Which gate a neuron has; `gamma` is a fixed gate's value and a learned one's start.

    `rate` is that of the running variances behind a variance gate.
    """

    kind: GateKind = "variance"
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.5
    rate: Annotated[float, Interval(gt=0, le=1)] = 1e-3

    def __post_init__(self) -> None:
        if self.kind == "learned" and self.gamma in (0, 1):
            raise ValueError("a learned gate cannot start at gamma 0 or 1; give a value between")

    def make(self, channels: int) -> Gate:
        """A gate for a layer of so many output channels."""
        match self.kind:
            case "variance":
                return VarianceGate(channels, self.rate)
            case "learned":
                return LearnedGate(channels, self.gamma)
            case "fixed":
                return FixedGate(channels, self.gamma)


DEFAULT_GATING = Gating()


def channel_rates(rate: Tensor) -> Tensor:
    """The rate `[B, C, ...]` of each sample's channels, averaged over space: `[B, C]`."""
    return rate.flatten(2).mean(2) if rate.ndim > 2 else rate


def _variance(rate: Tensor) -> Tensor:
    """Variance over the batch of each channel's rate, averaged over space first."""
    return channel_rates(rate).var(0, unbiased=False)
