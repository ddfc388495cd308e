"""A network in the integers of the chip, for one time step of the data.

Arithmetic is Lava's in fixed point (lava-nc 0.10, `PyLifModelBitAcc`). With the current i (u in
Lava), the membrane potential v and shifts of magnitudes (rounding toward zero), every compartment
computes at each step

    i <- wrap(sgn(i) * ((|i| * (4096 - (du + 1))) >> 12) + (a_in << 6))
    v <- saturate(sgn(v) * ((|v| * (4096 - dv)) >> 12) + i + bias)
    spike = v > (vth << 6)

and after a spike v is set to zero, or reduced by (vth << 6) + 1, the smallest value that fires.
`quantize.py` uses du = 4095, for which i is the input of the present step alone. `wrap` subtracts
2^24 from values above 2^23 and adds it to values at or below -2^23, once only, so sums beyond
3 * 2^17 in magnitude leave the 24 bits of i. `saturate` limits v to +-(2^23 - 1). Arithmetic is in
32 bits, in which larger values wrap.

A dual-timescale neuron has two compartments (du = 4095), merged by

    "gate":  m = sgn * ((gamma * v_fast + (256 - gamma) * v_slow) >> 8);  spike = m > (vth << 6),
             which resets both compartments
    "or":    each compartment spikes and resets separately; the neuron spikes if either does

Under "gate", reset "subtract" may take a compartment that is not above the threshold itself below
-(2^23 - 1), until the next step.

Synapses sum weights times inputs (spikes, or graded integers from the input); the sum of a
convolution wraps at 24 bits as in Lava. Two backends run such networks and agree in every spike:
`hardware/lava/network.py` and, independent of Lava, `engine.py`.

Layers and networks are checked on construction (ExportError): shapes match, sources come first,
values fit their registers. The widths of weights are checked for a chip by `limits.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from neuro.errors import ExportError, nearest
from neuro.hardware.loihi2 import registers
from neuro.hardware.loihi2.counts import READOUT
from neuro.models.graph import Shape, convolved
from neuro.ops.dual_lif import Merge
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
from neuro.ops.lif import Reset

Integers = NDArray[np.int32]

INPUT = "input"  # name of the network's input as a source of synapses


@dataclass(frozen=True, eq=False)
class IntegerSynapse:
    """Weights from `source` (a layer's name or "input"), in the form that Lava stores.

    weight: `[O, I, kh, kw]` for a convolution over the source's map `[I, H, W]`, else `[O, N]` for
    its flattened neurons. graded: True if the source sends integers instead of spikes.
    """

    source: str
    weight: Integers
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    graded: bool = False

    def __post_init__(self) -> None:
        registers.check_integers(f"weights from '{self.source}'", self.weight)
        if self.weight.ndim not in (2, 4) or 0 in self.weight.shape:
            raise ExportError(
                f"weights from '{self.source}' must be [O, I, kh, kw] or [O, N] and not empty; "
                f"got {list(self.weight.shape)}."
            )
        if min(self.stride) < 1 or min(self.padding) < 0:
            raise ExportError(
                f"weights from '{self.source}': a stride is at least 1, a padding at least 0; got "
                f"{list(self.stride)} and {list(self.padding)}."
            )

    @property
    def is_convolution(self) -> bool:
        return self.weight.ndim == 4


@dataclass(frozen=True, eq=False)
class IntegerLIF:
    """LIF neurons; their bias is bias_mantissa << bias_exponent, `[O]` (per channel)."""

    name: str
    shape: Shape
    synapse: IntegerSynapse
    dv: int
    vth: int
    reset: Reset
    du: int = MEMORYLESS
    bias_mantissa: Integers | None = None
    bias_exponent: int = 0

    def __post_init__(self) -> None:
        _check_neurons(self)
        registers.check_decays(self.name, du=self.du, dv=self.dv)
        registers.check_bias(self.name, self.shape, self.bias_mantissa, self.bias_exponent)

    @property
    def synapses(self) -> tuple[IntegerSynapse, ...]:
        return (self.synapse,)

    @property
    def bias(self) -> Integers | None:
        """Bias that is added to v at every step, `[O]`; None without one."""
        return None if self.bias_mantissa is None else self.bias_mantissa << self.bias_exponent


@dataclass(frozen=True, eq=False)
class IntegerDualLIF:
    """Dual-timescale neurons; `gamma` is `[C]` in 0 .. 256 for merge "gate", else None."""

    name: str
    shape: Shape
    fast: IntegerSynapse
    slow: IntegerSynapse
    dv_fast: int
    dv_slow: int
    vth: int
    gamma: Integers | None
    merge: Merge
    reset: Reset

    def __post_init__(self) -> None:
        _check_neurons(self)
        registers.check_decays(self.name, dv_fast=self.dv_fast, dv_slow=self.dv_slow)
        registers.check_choice(self.name, "merge", self.merge, get_args(Merge))
        if (self.gamma is not None) != (self.merge == "gate"):
            raise ExportError(
                f"layer '{self.name}': merge 'gate' needs gamma, merge 'or' takes none."
            )
        registers.check_gamma(self.name, self.shape, self.gamma)

    @property
    def synapses(self) -> tuple[IntegerSynapse, ...]:
        return self.fast, self.slow


IntegerLayer = IntegerLIF | IntegerDualLIF


@dataclass(frozen=True, eq=False)
class IntegerReadout:
    """Synapses from several layers onto K accumulators each; the host scales and adds their sums.

    The score of class k at step t is bias[k] + sum over l of scale[l] * (weight[l] @ spikes[l])[k].
    Each source layer has accumulators and a scale of its own.
    """

    synapses: tuple[IntegerSynapse, ...]
    scales: tuple[float, ...]
    bias: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not self.synapses or len(self.scales) != len(self.synapses):
            raise ExportError(
                f"layer '{READOUT}': it needs synapses and a scale for each; got "
                f"{len(self.synapses)} and {len(self.scales)}."
            )
        for synapse in self.synapses:
            _check_weight(f"layer '{READOUT}'", synapse, self.bias.shape)


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Layers in the order of computation, with synapses from the input or earlier layers.

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
        _check_shape("input", self.input_shape)
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


def _check_neurons(layer: IntegerLayer) -> None:
    """Check the properties that both kinds of layers have. ExportError if one is not valid."""
    where = f"layer '{layer.name}'"
    _check_shape(where, layer.shape)
    for synapse in layer.synapses:
        _check_weight(where, synapse, layer.shape)
    registers.check_vth(layer.name, layer.vth)
    registers.check_choice(layer.name, "reset", layer.reset, get_args(Reset))


def _check_shape(where: str, shape: Shape) -> None:
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ExportError(f"{where}: its shape must be [N] or [C, H, W]; got {list(shape)}.")


def _check_weight(where: str, synapse: IntegerSynapse, shape: Shape) -> None:
    """Check that the outputs of a synapse have the `shape` of the neurons. ExportError if not."""
    kernel = "inputs" if len(shape) == 1 else "inputs, height, width"
    if synapse.weight.ndim != len(shape) + 1 or len(synapse.weight) != shape[0]:
        raise ExportError(
            f"{where}: weights from '{synapse.source}' must be [{shape[0]}, {kernel}] for neurons "
            f"of shape {list(shape)}; got {list(synapse.weight.shape)}."
        )


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
