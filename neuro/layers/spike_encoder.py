"""Spiking encoder of continuous inputs, and conversion of its spikes to continuous values.

    h[t] = dropout(LIF(W_1 x[t])),   s[t] = LIF(W_2 h[t])    2 S and S neurons (`ops/lif.py`)

Conversions, all causal:

    rate        mean of the spikes of the last `window` steps (no spikes before the first step)
    temporal    (1 - d) sum_k d^k s[t-k],   d = exp(-1 / tau_steps)
    potential   membrane potential of the output neurons before their reset
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from neuro.config.types import STRICT
from neuro.ops import exponential_trace, lif
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate

ConversionKind = Literal["rate", "temporal", "potential"]


@dataclass(frozen=True)
class Conversion:
    """How spikes become values; `window` in steps for rate, `tau_steps` for temporal."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    kind: ConversionKind = "temporal"
    window: Annotated[int, Ge(1)] = 10
    tau_steps: Annotated[float, Gt(0)] = 20.0


DEFAULT_CONVERSION = Conversion()
#: standard deviation of initial currents, for inputs of unit variance
INITIAL_CURRENT = 2.0


class EncoderState(NamedTuple):
    """Membrane potentials of both layers, `[B, 2 S]` and `[B, S]`, and of the conversion.

    The last is the trace `[B, S]` for temporal, the last spikes `[B, window - 1, S]` for rate, and
    None for potential.
    """

    v_hidden: Tensor
    v: Tensor
    memory: Tensor | None


class EncoderOutput(NamedTuple):
    """Spikes and their conversion, `[T, B, S]` both, the next state, and the hidden spikes."""

    spikes: Tensor
    values: Tensor
    state: EncoderState
    hidden_spikes: Tensor


class SpikeEncoder(nn.Module):
    """Map `[T, B, inputs]` to spikes of `units` neurons and their converted values.

    decay: factor of the membrane potential per step. threshold: firing threshold of all neurons.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        conversion: Conversion = DEFAULT_CONVERSION,
        decay: Annotated[float, Interval(ge=0, le=1)] = 0.95,
        threshold: Annotated[float, Gt(0)] = 1.0,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.2,
        surrogate: Surrogate = DEFAULT_SURROGATE,
    ):
        super().__init__()
        self.units = units
        self.conversion = conversion
        self.decay = decay
        self.threshold = threshold
        self.dropout = dropout
        self.surrogate = surrogate
        self.hidden = nn.Linear(inputs, 2 * units)
        self.out = nn.Linear(2 * units, units)
        # with the smaller weights of torch's default, currents of normalised inputs stay below the
        # threshold, and spikes depend on sums over many steps rather than on the present one
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.weight, std=INITIAL_CURRENT / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)

    def initial_state(self, batch_size: int) -> EncoderState:
        """Zeros: membrane potentials at rest, no spikes before the first step."""
        zeros, units = self.out.weight.new_zeros, self.units
        memory: Tensor | None = None
        if self.conversion.kind == "rate":
            memory = zeros(batch_size, self.conversion.window - 1, units)
        elif self.conversion.kind == "temporal":
            memory = zeros(batch_size, units)
        return EncoderState(zeros(batch_size, 2 * units), zeros(batch_size, units), memory)

    def forward(self, x_TBF: Tensor, state: EncoderState | None = None) -> EncoderOutput:
        if state is None:
            state = self.initial_state(x_TBF.shape[1])
        neuron = partial(lif, decay=self.decay, threshold=self.threshold, surrogate=self.surrogate)
        hidden = neuron(self.hidden(x_TBF), state.v_hidden)
        current = self.out(F.dropout(hidden.spikes_TBN, self.dropout, self.training))
        potential = self.conversion.kind == "potential"
        spikes, v, membrane, _ = neuron(current, state.v, record_membrane=potential)
        values, memory = self._converted(spikes, membrane, state.memory)
        state = EncoderState(hidden.v_BN, v, memory)
        return EncoderOutput(spikes, values, state, hidden.spikes_TBN)

    def _converted(
        self, spikes: Tensor, membrane: Tensor | None, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Converted values, and the memory of the conversion after the last step."""
        if membrane is not None:
            return membrane.to(spikes), None
        assert memory is not None
        if self.conversion.kind == "rate":
            return _trailing_mean(spikes, memory, self.conversion.window)
        decay = math.exp(-1 / self.conversion.tau_steps)
        trace = exponential_trace(spikes, memory, decay=decay)
        return (1 - decay) * trace, trace[-1].to(memory)


def _trailing_mean(spikes: Tensor, before: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Mean over the last `window` steps, and the spikes that the next steps need."""
    all_spikes = torch.cat((before.transpose(0, 1).to(spikes), spikes))
    # counts of spikes are exact in float32
    counts = F.pad(all_spikes.float().cumsum(0), (0, 0, 0, 0, 1, 0))
    mean = (counts[window:] - counts[:-window]) / window
    kept = all_spikes[len(all_spikes) - before.shape[1] :].transpose(0, 1).to(before)
    return mean.to(spikes), kept
