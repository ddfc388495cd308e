"""Layers of a network in the integers of the chip; `integer.py` has the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from neuro.errors import ExportError
from neuro.hardware.loihi2 import registers
from neuro.hardware.loihi2.counts import READOUT
from neuro.models.graph import Shape
from neuro.ops.dual_lif import Merge
from neuro.ops.fixed_point import MEMORYLESS
from neuro.ops.lif import Reset

Integers = NDArray[np.int32]
#: one value of a decay register for all neurons, or one per channel `[C]`
Decay = int | Integers

LONGEST_DELAY = 63  # of a synapse in steps, 6 bits (lava-nc 0.10, `PyDelayDenseModelBitAcc`)
WEIGHT_EXPONENTS = (0, 7)  # of Loihi's signed 4 bits, those that make sums larger


@dataclass(frozen=True, eq=False)
class IntegerSynapse:
    """Weights from `source` (a layer's name or "input"), in the form that Lava stores.

    weight: `[O, I, kh, kw]` for a convolution over the source's map `[I, H, W]`, else `[O, N]` for
    its flattened neurons. graded: True if the source sends integers instead of spikes. exponent:
    sums are shifted left by so many bits, which is for synapses from spikes beside graded ones.
    delays: steps by which inputs arrive later, `[N]` of each source neuron or `[O, N]`; None is 0.
    """

    source: str
    weight: Integers
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    graded: bool = False
    exponent: int = 0
    delays: Integers | None = None

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
        lowest, highest = WEIGHT_EXPONENTS
        if not lowest <= self.exponent <= (0 if self.is_convolution else highest):
            raise ExportError(
                f"weights from '{self.source}' have the exponent {self.exponent}; the chip has "
                f"{lowest} to {highest}, and here convolutions have none."
            )

        if self.delays is not None:
            self._check_delays(self.delays)

    def _check_delays(self, delays: Integers) -> None:
        registers.check_integers(f"delays from '{self.source}'", delays)
        shapes = self.weight.shape, self.weight.shape[1:]
        if self.is_convolution or delays.shape not in shapes:
            raise ExportError(
                f"delays from '{self.source}' must be [N] or [O, N], of dense weights [O, N]; got "
                f"{list(delays.shape)} for weights {list(self.weight.shape)}."
            )
        low, high = int(delays.min()), int(delays.max())
        if low < 0 or high > LONGEST_DELAY:
            raise ExportError(
                f"delays from '{self.source}' span {low} to {high} steps; the chip's synapses "
                f"delay by 0 to {LONGEST_DELAY}. Use shorter delays (model.delays_ms) or a longer "
                "time step."
            )

    @property
    def is_convolution(self) -> bool:
        return self.weight.ndim == 4


@dataclass(frozen=True, eq=False)
class IntegerLIF:
    """LIF neurons; their bias is bias_mantissa << bias_exponent, `[O]` (per channel).

    recurrent: synapses from the layer to itself, whose spikes arrive a step later.
    """

    name: str
    shape: Shape
    synapse: IntegerSynapse
    dv: Decay
    vth: int
    reset: Reset
    du: Decay = MEMORYLESS
    bias_mantissa: Integers | None = None
    bias_exponent: int = 0
    recurrent: IntegerSynapse | None = None

    def __post_init__(self) -> None:
        _check_neurons(self)
        registers.check_decays(self.name, self.shape, du=self.du, dv=self.dv)
        registers.check_bias(self.name, self.shape, self.bias_mantissa, self.bias_exponent)

    @property
    def synapses(self) -> tuple[IntegerSynapse, ...]:
        """Synapses from other layers, one for each compartment."""
        return (self.synapse,)

    @property
    def recurrent_synapses(self) -> tuple[IntegerSynapse, ...]:
        """Synapses from the layer to itself: none, or one for each compartment."""
        return () if self.recurrent is None else (self.recurrent,)

    @property
    def bias(self) -> Integers | None:
        """Bias that is added to v at every step, `[O]`; None without one."""
        return None if self.bias_mantissa is None else self.bias_mantissa << self.bias_exponent


@dataclass(frozen=True, eq=False)
class IntegerDualLIF:
    """Dual-timescale neurons; `gamma` is `[C]` in 0 .. 256 for merge "gate", else None.

    recurrent: synapses from the layer to its fast and slow compartments.
    """

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
    recurrent: tuple[IntegerSynapse, IntegerSynapse] | None = None

    def __post_init__(self) -> None:
        _check_neurons(self)
        registers.check_decays(self.name, self.shape, dv_fast=self.dv_fast, dv_slow=self.dv_slow)
        registers.check_choice(self.name, "merge", self.merge, get_args(Merge))
        if (self.gamma is not None) != (self.merge == "gate"):
            raise ExportError(
                f"layer '{self.name}': merge 'gate' needs gamma, merge 'or' takes none."
            )
        registers.check_gamma(self.name, self.shape, self.gamma)

    @property
    def synapses(self) -> tuple[IntegerSynapse, ...]:
        """Synapses from other layers, one for each compartment."""
        return self.fast, self.slow

    @property
    def recurrent_synapses(self) -> tuple[IntegerSynapse, ...]:
        """Synapses from the layer to itself: none, or one for each compartment."""
        return self.recurrent or ()


IntegerLayer = IntegerLIF | IntegerDualLIF


@dataclass(frozen=True, eq=False)
class IntegerReadout:
    """Synapses from several layers onto K accumulators each; the host scales and adds their values.

    The score of class k at step t is bias[k] + sum over l of scale[l] * (weight[l] @ spikes[l])[k].
    Each source layer has accumulators and a scale of its own. `dv`: they are leaky integrators with
    this decay register, for scores y[t] = d y[t-1] + (1 - d) x[t] with x the
    above and d = 1 - dv / 4096; None: they hold the sums of one step.
    """

    synapses: tuple[IntegerSynapse, ...]
    scales: tuple[float, ...]
    bias: NDArray[np.float64]
    dv: int | None = None

    def __post_init__(self) -> None:
        if not self.synapses or len(self.scales) != len(self.synapses):
            raise ExportError(
                f"layer '{READOUT}': it needs synapses and a scale for each; got "
                f"{len(self.synapses)} and {len(self.scales)}."
            )
        for synapse in self.synapses:
            _check_weight(f"layer '{READOUT}'", synapse, self.bias.shape)
        if self.dv is not None:
            registers.check_decays(READOUT, self.bias.shape, dv=self.dv)


def _check_neurons(layer: IntegerLayer) -> None:
    """Check the properties that both kinds of layers have. ExportError if one is not valid."""
    where = f"layer '{layer.name}'"
    check_shape(where, layer.shape)
    for synapse in (*layer.synapses, *layer.recurrent_synapses):
        _check_weight(where, synapse, layer.shape)
    for synapse in layer.recurrent_synapses:
        plain = not (synapse.is_convolution or synapse.graded or synapse.delays is not None)
        if synapse.source != layer.name or not plain:
            raise ExportError(
                f"{where}: recurrent synapses are dense, from the layer's own spikes, without "
                f"delays; got {'dense ones' if plain else 'others'} from '{synapse.source}'."
            )
    registers.check_vth(layer.name, layer.vth)
    registers.check_choice(layer.name, "reset", layer.reset, get_args(Reset))


def check_shape(where: str, shape: Shape) -> None:
    """Check the shape of a layer or of the input. ExportError if it is not one."""
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
