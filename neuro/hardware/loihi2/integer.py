"""A network as a chip holds it: integers alone, for one time step of the data.

Lava's fixed-point arithmetic (lava-nc 0.10, `PyLifModelBitAcc`), in which every compartment does,
at each step and with all shifts on magnitudes (rounding toward zero),

    u <- wrap(sgn(u) * ((|u| * (4096 - (du + 1))) >> 12) + (a_in << 6))
    v <- saturate(sgn(v) * ((|v| * (4096 - dv)) >> 12) + u + bias)
    spike = v > (vth << 6)

and a neuron that fired is set to zero, or loses (vth << 6) + 1, the smallest value that fires. With
du = 4095, which is what `quantize.py` uses, u is the input of this step alone. `wrap` takes 2^24
from what is above 2^23 and adds it to what is at or below -2^23, but once only: sums beyond
3 * 2^17 in magnitude leave the 24 bits of u. `saturate` keeps v within +-(2^23 - 1). All of it is
done in 32 bits, in which whatever is larger wraps.

A dual-timescale neuron has two compartments (du = 4095), and merges them by

    "gate":  m = sgn * ((gamma * v_fast + (256 - gamma) * v_slow) >> 8);  spike = m > (vth << 6),
             which resets both compartments
    "or":    each compartment spikes and resets by itself, the neuron emits when either does

Under "gate" a compartment that is not above the threshold itself may lose by a reset "subtract"
what takes it below -(2^23 - 1), where it stays until the next step.

Synapses sum weights times inputs (spikes, or graded integers from the input); a convolution's sum
wraps at 24 bits as in Lava. Nothing here depends on Lava, which `lava.py` alone does; `engine.py`
runs the same network and agrees with it in every spike.

Layers and networks check themselves when they are made, and raise ExportError: shapes fit, sources
come first, registers hold their values. Weights are checked against a chip, by `limits.py`.
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

INPUT = "input"  # name of the source that is no layer


@dataclass(frozen=True, eq=False)
class IntegerSynapse:
    """Weights from `source` (a layer's name or "input"), after Lava's rule for mixed signs.

    `weight`: `[O, I, kh, kw]` for a convolution over the source's map `[I, H, W]`, else `[O, N]`
    over its flattened neurons. `graded`: the source sends integers rather than spikes.
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
    """Neurons with one compartment. `bias` = mantissa << exponent, `[O]` (per channel)."""

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
        """What is added to v at every step, `[O]`."""
        return None if self.bias_mantissa is None else self.bias_mantissa << self.bias_exponent


@dataclass(frozen=True, eq=False)
class IntegerDualLIF:
    """Dual-timescale neurons. `gamma` `[C]` in 0..256 under merge "gate", else None."""

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
                f"layer '{self.name}': gamma is given for merge 'gate', and for no other."
            )
        registers.check_gamma(self.name, self.shape, self.gamma)

    @property
    def synapses(self) -> tuple[IntegerSynapse, ...]:
        return self.fast, self.slow


IntegerLayer = IntegerLIF | IntegerDualLIF


@dataclass(frozen=True, eq=False)
class IntegerReadout:
    """Synapses from several layers onto K accumulators each; the host adds the scaled sums.

    The score of class k at step t is bias[k] + sum over l of scale[l] * (weight[l] @ spikes[l])[k]:
    every layer's group of accumulators holds integers in a scale of its own.
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
    """Layers in the order of computation, each fed by the input or an earlier layer.

    Frames x become integers round(x * `input_unit`) of `input_bits` bits, sign included, and are
    sent as graded spikes. `dt_ms` is the step that the decays stand for.
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
        """Frames of any leading shape as the integers that enter the chip."""
        limit = 1 << (self.input_bits - 1)
        scaled = np.rint(np.asarray(frames, np.float64) * self.input_unit)
        return np.clip(scaled, -limit, limit - 1).astype(np.int32)

    def depths(self) -> dict[str, int]:
        """Steps by which a layer's spikes lag behind the input: a synapse delays by one."""
        depths = {INPUT: 0}
        for layer in self.layers:
            depths[layer.name] = 1 + max(depths[s.source] for s in layer.synapses)
        return depths


def _check_neurons(layer: IntegerLayer) -> None:
    """What both kinds of layers have."""
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
    """A convolution makes a map of `shape`, a matrix a row."""
    kernel = "inputs" if len(shape) == 1 else "inputs, height, width"
    if synapse.weight.ndim != len(shape) + 1 or len(synapse.weight) != shape[0]:
        raise ExportError(
            f"{where}: weights from '{synapse.source}' must be [{shape[0]}, {kernel}] for neurons "
            f"of shape {list(shape)}; got {list(synapse.weight.shape)}."
        )


def _check_source(
    where: str, synapse: IntegerSynapse, shapes: Mapping[str, Shape], target: Shape
) -> None:
    """`shapes` of the input and of the layers so far; `target` is what the weights lead to."""
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
