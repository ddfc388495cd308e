"""A network as a chip holds it: integers alone, for one time step of the data.

Lava's fixed-point arithmetic (lava-nc 0.10, `PyLifModelBitAcc`), in which every compartment does,
at each step and with all shifts on magnitudes (rounding toward zero),

    u <- sgn(u) * ((|u| * (4096 - (du + 1))) >> 12) + (a_in << 6)      24 bits, wraps at +-2^23
    v <- sgn(v) * ((|v| * (4096 - dv)) >> 12) + u + bias               saturates at +-(2^23 - 1)
    spike = v > (vth << 6)

and a neuron that fired is set to zero, or loses (vth << 6) + 1, the smallest value that fires. With
du = 4095, which is what `quantize.py` uses, u is the input of this step alone. A dual-timescale
neuron has two compartments (du = 4095), and merges them by

    "gate":  m = sgn * ((gamma * v_fast + (256 - gamma) * v_slow) >> 8);  spike = m > (vth << 6),
             which resets both compartments
    "or":    each compartment spikes and resets by itself, the neuron emits when either does

Synapses sum weights times inputs (spikes, or graded integers from the input); a convolution's sum
wraps at 24 bits as in Lava. Nothing here depends on Lava, which `lava.py` alone does; `engine.py`
runs the same network and agrees with it in every spike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuro.models.graph import Shape
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

Integers = NDArray[np.int32]


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
    reset: Literal["subtract", "zero"]
    du: int = MEMORYLESS
    bias_mantissa: Integers | None = None
    bias_exponent: int = 0

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
    merge: Literal["gate", "or"]
    reset: Literal["subtract", "zero"]

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

    def encode(self, frames: NDArray[np.floating]) -> Integers:
        """Frames of any leading shape as the integers that enter the chip."""
        limit = 1 << (self.input_bits - 1)
        scaled = np.rint(np.asarray(frames, np.float64) * self.input_unit)
        return np.clip(scaled, -limit, limit - 1).astype(np.int32)

    def depths(self) -> dict[str, int]:
        """Steps by which a layer's spikes lag behind the input: a synapse delays by one."""
        depths = {"input": 0}
        for layer in self.layers:
            depths[layer.name] = 1 + max(depths[s.source] for s in layer.synapses)
        return depths
