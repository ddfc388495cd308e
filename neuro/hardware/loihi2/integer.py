"""A network in the integers of the chip, for one time step of the data.

Arithmetic is Lava's in fixed point (lava-nc 0.10, `PyLifModelBitAcc`). With the current i (u in
Lava), the membrane potential v and shifts of magnitudes (rounding toward zero), every compartment
computes at each step

    i <- wrap(sgn(i) * ((|i| * (4096 - (du + 1))) >> 12) + (a_in << 6))
    v <- saturate(sgn(v) * ((|v| * (4096 - dv)) >> 12) + i + bias)
    spike = v > (vth << 6)

and after a spike v is set to zero, or reduced by (vth << 6) + 1, the smallest value that fires.
With du = 4095, i is the input of the present step alone. `wrap` subtracts 2^24 from values above
2^23 and adds it to values at or below -2^23, once only, so sums beyond 3 * 2^17 in magnitude leave
the 24 bits of i. `saturate` limits v to +-(2^23 - 1). Arithmetic is in 32 bits, in which larger
values wrap. A leaky accumulator of the readout is v without spikes, with du = 4095.

A dual-timescale neuron has two compartments (du = 4095), merged by

    "gate":  m = sgn * ((gamma * v_fast + (256 - gamma) * v_slow) >> 8);  spike = m > (vth << 6),
             which resets both compartments
    "or":    each compartment spikes and resets separately; the neuron spikes if either does

Under "gate", reset "subtract" may take a compartment that is not above the threshold itself below
-(2^23 - 1), until the next step.

Synapses sum weights times inputs (spikes, or graded integers from the input); the sum of a
convolution wraps at 24 bits as in Lava. Recurrent synapses lead from a layer's spikes to the same
layer at the next step. Two backends run such networks and agree in every spike:
`hardware/lava/network.py` and, independent of Lava, `engine.py`.

Layers and networks are checked on construction (ExportError): shapes match, sources come first,
values fit their registers. The widths of weights are checked for a chip by `limits.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from neuro.errors import ExportError, nearest
from neuro.hardware.loihi2.counts import READOUT
from neuro.hardware.loihi2.integer_layers import Decay as Decay
from neuro.hardware.loihi2.integer_layers import IntegerDualLIF as IntegerDualLIF
from neuro.hardware.loihi2.integer_layers import IntegerLayer as IntegerLayer
from neuro.hardware.loihi2.integer_layers import IntegerLIF as IntegerLIF
from neuro.hardware.loihi2.integer_layers import IntegerReadout as IntegerReadout
from neuro.hardware.loihi2.integer_layers import Integers as Integers
from neuro.hardware.loihi2.integer_layers import IntegerSynapse as IntegerSynapse
from neuro.hardware.loihi2.integer_layers import check_shape
from neuro.models.graph import Shape, convolved
from neuro.ops.fixed_point import ACTIVATION_SHIFT as ACTIVATION_SHIFT
from neuro.ops.fixed_point import BIAS_EXPONENT_BITS as BIAS_EXPONENT_BITS
from neuro.ops.fixed_point import BIAS_MANTISSA_BITS as BIAS_MANTISSA_BITS
from neuro.ops.fixed_point import DECAY_BITS as DECAY_BITS
from neuro.ops.fixed_point import DECAY_UNITY as DECAY_UNITY
from neuro.ops.fixed_point import GAMMA_BITS as GAMMA_BITS
from neuro.ops.fixed_point import GAMMA_UNITY as GAMMA_UNITY
from neuro.ops.fixed_point import MEMORYLESS as MEMORYLESS
from neuro.ops.fixed_point import STATE_BITS as STATE_BITS
from neuro.ops.fixed_point import STATE_LIMIT as STATE_LIMIT
from neuro.ops.fixed_point import THRESHOLD_BITS as THRESHOLD_BITS

INPUT = "input"  # name of the network's input as a source of synapses


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Layers in the order of computation.

    Synapses come from the input, from earlier layers, and from the layer itself.

    Frames x are sent as graded spikes: integers round(x * `input_unit`) of `input_bits` bits, sign
    included. The decay registers are for the time step `dt_ms`.
    """

    input_shape: Shape
    input_bits: int
    input_unit: int
    dt_ms: float
    layers: tuple[IntegerLayer, ...]
    readout: IntegerReadout

    def __post_init__(self) -> None:
        check_shape("input", self.input_shape)
        if not 2 <= self.input_bits <= 32:
            raise ExportError(f"input: frames have 2 to 32 bits; got {self.input_bits}.")
        if self.input_unit < 1 or not 0 < self.dt_ms < math.inf:
            raise ExportError(
                f"input: input_unit must be at least 1 and dt_ms above 0; got {self.input_unit} "
                f"and {self.dt_ms}."
            )
        if not self.layers:
            raise ExportError("an integer network has at least one spiking layer; got none.")
        shapes = {INPUT: self.input_shape}
        for layer in self.layers:
            if layer.name in (*shapes, READOUT):
                raise ExportError(f"layer '{layer.name}': another one has this name already.")
            for synapse in layer.synapses:
                _check_source(f"layer '{layer.name}'", synapse, shapes, layer.shape)
            shapes[layer.name] = layer.shape
            for synapse in layer.recurrent_synapses:
                _check_source(f"layer '{layer.name}'", synapse, shapes, layer.shape)
        for synapse in self.readout.synapses:
            _check_source(f"layer '{READOUT}'", synapse, shapes, self.readout.bias.shape)

    def encode(self, frames: NDArray[np.floating]) -> Integers:
        """Convert frames of any leading shape to the integers of graded input spikes."""
        limit = 1 << (self.input_bits - 1)
        # rint rounds half to even, as torch does in training (`ops.fixed_point.input_integers`)
        scaled = np.rint(np.asarray(frames, np.float64) * self.input_unit)
        return np.clip(scaled, -limit, limit - 1).astype(np.int32)

    def depths(self) -> dict[str, int]:
        """Delay of each layer's spikes behind the input in steps; every synapse delays by one."""
        depths = {INPUT: 0}
        for layer in self.layers:
            depths[layer.name] = 1 + max(depths[s.source] for s in layer.synapses)
        return depths


def _check_source(
    where: str, synapse: IntegerSynapse, shapes: Mapping[str, Shape], target: Shape
) -> None:
    """Check that weights fit their source and the target shape. ExportError if not.

    shapes: of the input and of all earlier layers, by name.
    """
    source, weight = synapse.source, synapse.weight.shape
    if source not in shapes:
        raise ExportError(
            f"{where}: its source '{source}' is not among what comes before it "
            f"({', '.join(shapes)}).{nearest(source, shapes)}"
        )
    shape = shapes[source]
    fits = weight[1] == prod(shape)
    if synapse.is_convolution:
        fits = len(shape) == 3 and weight[1] == shape[0]
    if not fits:
        raise ExportError(
            f"{where}: weights of shape {list(weight)} do not fit '{source}', which has the shape "
            f"{list(shape)}."
        )
    if synapse.is_convolution:
        reached = convolved(shape, weight, synapse.stride, synapse.padding)
        if reached != target:
            raise ExportError(
                f"{where}: its weights make a map {list(reached)} of '{source}'; it has the shape "
                f"{list(target)}."
            )
