"""Neurons with synaptic currents, adaptation and learned time constants; see `ops/neurons.py`.

Ranges are the lowest and highest value, between which each neuron has its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neuro.config.types import Positive
from neuro.layers.two_variable import Range, RangedNeuron, decay
from neuro.ops.neurons import Dynamics


@dataclass(frozen=True)
class LearnedLIFNeuron(RangedNeuron):
    """LIF neurons, each with its own membrane time constant (PLIF, Fang et al. 2021)."""

    tau_ms: Range = (2.0, 50.0)

    limits: ClassVar = {"tau_ms": 0.0}

    def dynamics(self, values: Mapping[str, Tensor], dt_ms: float) -> Dynamics:
        return Dynamics.leaky(decay(values["tau_ms"], dt_ms))


@dataclass(frozen=True)
class CurrentBasedNeuron(RangedNeuron):
    """LIF neurons whose synaptic currents decay too (CuBa LIF)."""

    tau_current_ms: Range = (2.0, 20.0)
    tau_ms: Range = (5.0, 50.0)

    limits: ClassVar = {"tau_current_ms": 0.0, "tau_ms": 0.0}

    def dynamics(self, values: Mapping[str, Tensor], dt_ms: float) -> Dynamics:
        return Dynamics.current_based(
            decay(values["tau_current_ms"], dt_ms), decay(values["tau_ms"], dt_ms)
        )


@dataclass(frozen=True)
class AdaptiveThresholdNeuron(RangedNeuron):
    """LIF neurons whose threshold rises with every spike and decays (ALIF, Bellec et al. 2018).

    The threshold rises by up to `strength` times the layer's threshold, if the neuron fires always.
    """

    tau_ms: Range = (5.0, 50.0)
    tau_threshold_ms: Range = (100.0, 400.0)
    strength: Range = (0.0, 3.6)

    limits: ClassVar = {"tau_ms": 0.0, "tau_threshold_ms": 0.0, "strength": -math.inf}

    def dynamics(self, values: Mapping[str, Tensor], dt_ms: float) -> Dynamics:
        return Dynamics.adaptive_threshold(
            decay(values["tau_ms"], dt_ms),
            decay(values["tau_threshold_ms"], dt_ms),
            self.threshold * values["strength"],
        )


@dataclass(frozen=True)
class AdaptiveNeuron(RangedNeuron):
    """LIF neurons with an adaptation current (adLIF; SE-adLIF if `symplectic`).

    Ranges and `scale` are those of Baronig et al. 2024: the current relaxes to
    scale (from_v v + from_s s), so that a spike has an effect beside tau_adaptation_ms steps.
    """

    threshold: Positive = 1.0
    tau_ms: Range = (5.0, 25.0)
    tau_adaptation_ms: Range = (60.0, 300.0)
    from_v: Range = (0.0, 1.0)
    from_s: Range = (0.0, 2.0)
    scale: Positive = 120.0
    symplectic: bool = True

    limits: ClassVar = {
        "tau_ms": 0.0,
        "tau_adaptation_ms": 0.0,
        "from_v": -math.inf,
        "from_s": -math.inf,
    }
    normalised: ClassVar[bool] = True

    def dynamics(self, values: Mapping[str, Tensor], dt_ms: float) -> Dynamics:
        return Dynamics.adaptive(
            decay(values["tau_ms"], dt_ms),
            decay(values["tau_adaptation_ms"], dt_ms),
            self.scale * values["from_v"],
            self.scale * values["from_s"],
            symplectic=self.symplectic,
        )
