"""Quantization: the conversion of real numbers to integers, shared by training and hardware export.

`quantize` is uniform symmetric quantization to signed integers of b bits: the largest magnitude
maps to 2^(b-1) - 1, zero to zero.

The rest is the scaling of a spiking layer for Loihi 2 (arithmetic: `hardware/loihi2/integer.py`).
A weight w becomes an integer multiple of the layer's `step`, an input x the integer x * unit (unit
is 1 for spikes), and the membrane potential v the integer v * 64 * unit / step. A neuron fires if
that integer exceeds 64 * vth, so the smallest integer that fires is 64 * vth + 1. `layer_scale`
selects the step for which this integer stands for the float threshold exactly: threshold and reset
have no rounding error, and "v >= theta" in float is equivalent to the chip's strict "v > vth". The
step is then larger than the smallest possible one by less than one part in vth.

Loihi stores the weights of a synapse with b bits, one of them for the sign if signs are mixed.
Integers of mixed signs are multiples of 2^(9-b) within +-254 (even numbers at 8 bits); those of one
sign are multiples of 2^(8-b) up to 255 (Lava's `truncate_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

# Registers of a Loihi neuron (lava-nc 0.10, `AbstractPyLifModelFixed`), described in
# `integer_lif.py` and `hardware/loihi2/integer.py`. du and dv are Lava's names for the decay
# registers of current and membrane potential.
DECAY_BITS = 12  # of du and dv
DECAY_UNITY = 1 << DECAY_BITS
MEMORYLESS = DECAY_UNITY - 1  # du for which the current is that of the present step alone
STATE_BITS = 24  # of current and membrane potential, signed
STATE_LIMIT = 1 << (STATE_BITS - 1)
ACTIVATION_SHIFT = 6  # left shift that aligns synaptic sums and vth with the membrane potential
THRESHOLD_BITS = 17  # of vth, unsigned
BIAS_MANTISSA_BITS = 13  # signed
BIAS_EXPONENT_BITS = 3
GAMMA_BITS = 8  # gamma is 0 .. 256
GAMMA_UNITY = 1 << GAMMA_BITS
WEIGHT_BITS = 8  # largest width of a stored weight
#: largest vth in use: a sixteenth of the membrane's range, so that membranes seldom saturate
VTH_LIMIT = (1 << 23) // 64 // 16 - 1


def quantization_scale(weight: Tensor, bits: int) -> Tensor:
    """Real value of integer 1 for a tensor: max |w| / (2^(bits-1) - 1), a scalar."""
    return weight.abs().amax().clamp_min(torch.finfo(weight.dtype).tiny) / (2 ** (bits - 1) - 1)


def quantize(weight: Tensor, bits: int) -> Tensor:
    """The nearest representable values, in the dtype of the weights."""
    scale = quantization_scale(weight, bits)
    return (weight / scale).round() * scale


def quantization_error(weight: Tensor, bits: int) -> float:
    """Relative error ||w - quantize(w)|| / ||w||; 0 for a tensor of zeros."""
    norm = weight.norm()
    return float((weight - quantize(weight, bits)).norm() / norm) if norm > 0 else 0.0


@dataclass(frozen=True)
class FixedPoint:
    """Bit widths of a network on the chip: of its weights, and of its graded inputs with sign.

    An input of 1.0 becomes the integer `input_unit`; inputs beyond +-2 are clipped.
    """

    weight_bits: Annotated[int, Interval(ge=2, le=WEIGHT_BITS)] = 8
    input_bits: Annotated[int, Interval(ge=3, le=12)] = 6

    @property
    def input_unit(self) -> int:
        """The integer that stands for an input of 1.0."""
        return 1 << (self.input_bits - 2)


class LayerScale(NamedTuple):
    """Scale of a layer: the real value of weight 1 (float64), and vth (int64); both scalars."""

    step: Tensor
    vth: Tensor


def layer_scale(
    weights: Sequence[Tensor], threshold: Tensor, *, bits: int, unit: int = 1
) -> LayerScale:
    """Scale shared by all synapses of a layer, for which its firing threshold is exact.

    weights: of the synapses, any shapes. threshold: a positive scalar. unit: the integer of an
    input of 1.0. If the threshold is smaller than one step, vth is 1 and large weights are clipped.
    """
    smallest = torch.stack([synapse_step(weight, bits) for weight in weights]).amax()
    theta = 64 * unit * threshold.to(smallest)  # in membrane integers times the step
    vth = ((theta / smallest - 1) / 64).floor().clamp(1, VTH_LIMIT)
    return LayerScale(theta / (64 * vth + 1), vth.long())


def synapse_step(weight: Tensor, bits: int) -> Tensor:
    """The smallest step at which no weight of a synapse is clipped, a float64 scalar."""
    _, largest = _grid(weight, bits)
    return weight.detach().abs().amax().double() / largest


def weight_integers(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """The integers that the chip stores for the weights of a synapse, as float64."""
    spacing, largest = _grid(weight, bits)
    # in float64, so that training and export round the same weights to the same integers
    scaled = weight.detach().double() / step.clamp_min(torch.finfo(torch.float64).tiny)
    return ((scaled / spacing).round() * spacing).clamp(-largest, largest)


def clipped_weights(weight: Tensor, step: Tensor, bits: int) -> int:
    """Number of weights that exceed the largest integer by more than rounding."""
    if synapse_step(weight, bits) <= step:
        return 0
    limit = weight_integers(weight, step, bits).abs().amax() + 0.5  # rounding moves by up to 0.5
    return int(((weight.detach().double() / step).abs() > limit).sum())


def _grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Spacing of a synapse's integers, and the largest one; tensors, so that no GPU is synced."""
    mixed = ((weight < 0).any() & (weight > 0).any()).double()
    spacing = 2 ** (WEIGHT_BITS - bits + mixed)
    return spacing, spacing * (2 ** (bits - mixed) - 1)


def input_integers(frames: Tensor, unit: int, bits: int) -> Tensor:
    """Frames as the integers of graded input spikes, in the dtype of the frames.

    unit: the integer of 1.0. bits: of an integer with its sign.
    """
    limit = 1 << (bits - 1)
    return (frames * unit).round().clamp(-limit, limit - 1)


def decay_register(tau_ms: float, dt_ms: float) -> int:
    """dv, the fraction of the membrane potential lost per step in units of 1/4096 (12 bits)."""
    # expm1 keeps precision for long time constants, where exp(-dt / tau) is close to 1
    return min(round(DECAY_UNITY * -math.expm1(-dt_ms / tau_ms)), DECAY_UNITY - 1)


def gamma_register(gamma: Tensor) -> Tensor:
    """gamma in [0, 1] as integers 0 .. 256 (int64)."""
    return (gamma.detach().double() * GAMMA_UNITY).round().long()
