"""Gates of dual-timescale neurons: the weight gamma of the fast compartment in the spike decision.

gamma is one number in [0, 1] per output channel, computed in one of three ways: from the variances
of the branches' firing rates (as in the LT-Gate paper), learned with the weights, or fixed (for
ablations).
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
    """A weight gamma of the fast compartment for each output channel."""

    @abstractmethod
    def gamma(self) -> Tensor:
        """gamma `[channels]`, in [0, 1]."""


class VarianceGate(Gate):
    """gamma = 1 where the fast branch has the smaller rate variance, else 0 (arXiv 2510.12843).

    The buffers are exponential averages, with weight `rate`, of the variance over the batch of each
    channel's mean spike rate; both start at `start`. They are updated by the trainer, with the
    increments that `change` computes.
    """

    fast_variance: Tensor
    slow_variance: Tensor

    def __init__(self, channels: int, rate: float = 1e-3, start: float = 1e-4):
        super().__init__()
        self.rate = rate
        self.register_buffer("fast_variance", torch.full((channels,), start))
        self.register_buffer("slow_variance", torch.full((channels,), start))

    def gamma(self) -> Tensor:
        # "<=": with equal initial variances all channels start with the fast compartment
        return (self.fast_variance <= self.slow_variance).to(self.fast_variance.dtype)

    def change(self, fast_rate: Tensor, slow_rate: Tensor) -> dict[str, Tensor]:
        """Increments of the buffers for the mean branch rates `[B, C, ...]` of a batch."""
        return {
            "fast_variance": self.rate * (_variance(fast_rate) - self.fast_variance),
            "slow_variance": self.rate * (_variance(slow_rate) - self.slow_variance),
        }


class LearnedGate(Gate):
    """gamma = sigmoid(logit), with the logit trained like a weight; gamma starts at `start`."""

    def __init__(self, channels: int, start: float = 0.5):
        super().__init__()
        self.logit = nn.Parameter(torch.full((channels,), start).logit())

    def gamma(self) -> Tensor:
        return self.logit.sigmoid()


class FixedGate(Gate):
    """A constant gamma for all channels; 1 ignores the slow compartment, 0 the fast one."""

    value: Tensor

    def __init__(self, channels: int, value: float = 0.5):
        super().__init__()
        self.register_buffer("value", torch.full((channels,), value))

    def gamma(self) -> Tensor:
        return self.value


@dataclass(frozen=True)
class Gating:
    """The parameters of a gate.

    `gamma` is the value of a fixed gate and the initial value of a learned one; `rate` the weight
    of a batch in the running variances of a variance gate.
    """

    kind: GateKind = "variance"
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.5
    rate: Annotated[float, Interval(gt=0, le=1)] = 1e-3

    def __post_init__(self) -> None:
        if self.kind == "learned" and self.gamma in (0, 1):
            raise ValueError("a learned gate cannot start at gamma 0 or 1; give a value between")

    def make(self, channels: int) -> Gate:
        """Create the gate of a layer with `channels` output channels."""
        match self.kind:
            case "variance":
                return VarianceGate(channels, self.rate)
            case "learned":
                return LearnedGate(channels, self.gamma)
            case "fixed":
                return FixedGate(channels, self.gamma)


DEFAULT_GATING = Gating()


def channel_rates(rate: Tensor) -> Tensor:
    """Rates `[B, C, ...]` averaged over space: `[B, C]`."""
    return rate.flatten(2).mean(2) if rate.ndim > 2 else rate


def _variance(rate: Tensor) -> Tensor:
    """Variance over the batch of each channel's rate, which is averaged over space: `[C]`."""
    return channel_rates(rate).var(0, unbiased=False)
