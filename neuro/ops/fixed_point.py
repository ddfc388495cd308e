"""Integer arithmetic that training and hardware export share: how real numbers become integers.

`quantise` rounds a tensor to a few bits in the ordinary, symmetric way: signed integers of b bits,
the largest magnitude at 2^(b-1) - 1, zero at zero.

The rest is the scaling of a spiking layer for Loihi 2 (arithmetic: `hardware/loihi2/integer.py`).
A weight w becomes a multiple of the layer's `step`, an input x the integer x * unit (unit = 1 for
spikes), and the membrane v the integer v * 64 * unit / step. A neuron fires where that integer is
above 64 * vth, so the smallest value that fires is 64 * vth + 1, and `layer_scale` picks the step
that makes this the float threshold exactly: neither threshold nor reset has a rounding error, and
"v >= theta" in float is the chip's strict "v > vth". The price is a step that is larger than needed
by less than one part in vth.

Loihi stores a synapse's weights with b bits, of which matrices of mixed signs spend one on the
sign: their integers are then multiples of 2^(9-b), even at the full 8 bits, within +-254; weights
of one sign alone are multiples of 2^(8-b) up to 255 (Lava's `truncate_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

# Registers of a Loihi neuron (lava-nc 0.10, `AbstractPyLifModelFixed`); `integer_lif.py` and
# `hardware/loihi2/integer.py` say what they do.
DECAY_BITS = 12  # of du and dv
DECAY_UNITY = 1 << DECAY_BITS
MEMORYLESS = DECAY_UNITY - 1  # du for which u keeps nothing from step to step
STATE_BITS = 24  # of u and v, signed
STATE_LIMIT = 1 << (STATE_BITS - 1)
ACTIVATION_SHIFT = 6  # synaptic sums and thresholds are aligned with v by this
THRESHOLD_BITS = 17  # of vth, unsigned
BIAS_MANTISSA_BITS = 13  # signed
BIAS_EXPONENT_BITS = 3
GAMMA_BITS = 8  # gamma is 0 .. 256
GAMMA_UNITY = 1 << GAMMA_BITS
WEIGHT_BITS = 8  # the most that a synapse stores
#: largest threshold used: a sixteenth of the membrane's range, so that it seldom saturates
VTH_LIMIT = (1 << 23) // 64 // 16 - 1


def quantisation_scale(weight: Tensor, bits: int) -> Tensor:
    """Size of one integer step for a tensor: max |w| / (2^(bits-1) - 1), a scalar."""
    return weight.abs().amax().clamp_min(torch.finfo(weight.dtype).tiny) / (2 ** (bits - 1) - 1)


def quantise(weight: Tensor, bits: int) -> Tensor:
    """The nearest representable values, in float."""
    scale = quantisation_scale(weight, bits)
    return (weight / scale).round() * scale


def quantisation_error(weight: Tensor, bits: int) -> float:
    """||w - quantised w|| / ||w||, 0 for a tensor of zeros."""
    norm = weight.norm()
    return float((weight - quantise(weight, bits)).norm() / norm) if norm > 0 else 0.0


@dataclass(frozen=True)
class FixedPoint:
    """Widths that a network gets on the chip: of its weights, and of its graded inputs with sign.

    An input of 1.0 becomes the integer `input_unit`; what lies beyond +-2 is clipped.
    """

    weight_bits: Annotated[int, Interval(ge=2, le=WEIGHT_BITS)] = 8
    input_bits: Annotated[int, Interval(ge=3, le=12)] = 6

    @property
    def input_unit(self) -> int:
        """The integer that stands for an input of 1.0."""
        return 1 << (self.input_bits - 2)


class LayerScale(NamedTuple):
    """Scalars: the real value of weight 1 (float64) and the threshold register (int64)."""

    step: Tensor
    vth: Tensor


def layer_scale(
    weights: Sequence[Tensor], threshold: Tensor, *, bits: int, unit: int = 1
) -> LayerScale:
    """The scale that a layer's synapses share, for its firing threshold (a positive scalar).

    `unit` is the integer of an input of 1.0. Where the threshold is smaller than one step, vth is
    1 and the largest weights are clipped.
    """
    smallest = torch.stack([synapse_step(weight, bits) for weight in weights]).amax()
    theta = 64 * unit * threshold.to(smallest)  # in membrane integers times the step
    vth = ((theta / smallest - 1) / 64).floor().clamp(1, VTH_LIMIT)
    return LayerScale(theta / (64 * vth + 1), vth.long())


def synapse_step(weight: Tensor, bits: int) -> Tensor:
    """The smallest step, a float64 scalar, at which no weight of a synapse is clipped."""
    _, largest = _grid(weight, bits)
    return weight.detach().abs().amax().double() / largest


def weight_integers(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """The integers that a synapse stores for its weights, as float64."""
    spacing, largest = _grid(weight, bits)
    scaled = weight.detach().double() / step.clamp_min(torch.finfo(torch.float64).tiny)
    return ((scaled / spacing).round() * spacing).clamp(-largest, largest)


def clipped_weights(weight: Tensor, step: Tensor, bits: int) -> int:
    """How many weights lie beyond the largest integer by more than rounding."""
    if synapse_step(weight, bits) <= step:
        return 0
    limit = weight_integers(weight, step, bits).abs().amax() + 0.5
    return int(((weight.detach().double() / step).abs() > limit).sum())


def _grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Distance of a synapse's integers, and the largest (on the weights' device, unread)."""
    mixed = ((weight < 0).any() & (weight > 0).any()).double()
    spacing = 2 ** (WEIGHT_BITS - bits + mixed)
    return spacing, spacing * (2 ** (bits - mixed) - 1)


def input_integers(frames: Tensor, fixed: FixedPoint) -> Tensor:
    """Frames as the integers that enter the chip, in their own dtype."""
    limit = 1 << (fixed.input_bits - 1)
    return (frames * fixed.input_unit).round().clamp(-limit, limit - 1)


def decay_register(tau_ms: float, dt_ms: float) -> int:
    """dv, the share of the membrane lost in a step in units of 1/4096: 12 bits, unsigned."""
    return min(round(DECAY_UNITY * -math.expm1(-dt_ms / tau_ms)), DECAY_UNITY - 1)


def gamma_register(gamma: Tensor) -> Tensor:
    """Gates in [0, 1] as integers 0 .. 256 (int64)."""
    return (gamma.detach().double() * GAMMA_UNITY).round().long()
