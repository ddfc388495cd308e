"""LT-Gate: every neuron has a fast and a slow compartment, and a gate between them.

arXiv 2510.12843. The same network learns by the local rule of the paper (`learning/rules`) or by
surrogate gradients; which one is a matter of the objective, not of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval, MinLen
from torch import Tensor

from neuro.data.base import TaskSpec
from neuro.layers.gate import GateKind, VarianceGate, make_gate
from neuro.layers.readout import ReadoutKind
from neuro.layers.spiking import DualTimescaleLayer
from neuro.layers.synapse import Synapse
from neuro.models.backbone import Milliseconds, Positive, SpikingBackbone, Width
from neuro.models.capabilities import Observable
from neuro.ops.dual_lif import Merge
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.lif import Reset
from neuro.ops.surrogate import Surrogate

Fraction = Annotated[float, Interval(ge=0, le=1)]


class LTGate(SpikingBackbone[DualTimescaleLayer], Observable):
    """The dual-timescale network.

    `plasticity` scales what local rules do to the hidden layers. It starts at 1 and loses the
    share `consolidation` after every phase: at 1 the features are settled once the first task is
    learned, and only the readout goes on learning.
    """

    plasticity: Tensor

    def __init__(
        self,
        spec: TaskSpec,
        channels: Annotated[tuple[Width, ...], MinLen(1)] = (32, 32, 64),
        strides: Annotated[tuple[Width, ...], MinLen(1)] = (1, 2, 2),
        dense_units: Width = 256,
        tau_fast_ms: Milliseconds = 5.0,
        tau_slow_ms: Milliseconds = 100.0,
        threshold: Positive = 0.5,
        merge: Merge = "gate",
        reset: Reset = "subtract",
        gate: GateKind = "variance",
        gamma: Fraction = 0.5,
        gate_rate: Annotated[float, Interval(gt=0, le=1)] = 1e-3,
        consolidation: Fraction = 1.0,
        surrogate: Surrogate = Surrogate(),
        readout: ReadoutKind = "discriminant",
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
        readout_grid: Width = 4,
        fixed_point: FixedPoint | None = None,
    ):
        if gate == "learned" and gamma in (0, 1):
            raise ValueError("a learned gate cannot start at gamma 0 or 1; give a value between")
        self._neuron: dict[str, Any] = {
            "tau_fast_ms": tau_fast_ms,
            "tau_slow_ms": tau_slow_ms,
            "threshold": threshold,
            "merge": merge,
            "reset": reset,
            "surrogate": surrogate,
            "fixed_point": fixed_point,
        }
        self._gate = gate, gamma, gate_rate
        super().__init__(
            spec, channels, strides, dense_units, readout, readout_layers, readout_grid, fixed_point
        )
        self.consolidation = consolidation
        self.register_buffer("plasticity", torch.ones(()))

    def _layer(self, synapse: Callable[[], Synapse], shape: tuple[int, ...]) -> DualTimescaleLayer:
        kind, value, rate = self._gate
        gate = make_gate(kind, shape[0], value=value, rate=rate)
        return DualTimescaleLayer(synapse(), synapse(), gate, shape, **self._neuron)

    @property
    def requires(self) -> dict[str, str]:
        required = super().requires
        kind, *_ = self._gate
        if kind == "variance" and self._neuron["merge"] == "gate":
            required = required | {
                "gate variances": "add the term gate_variance, or choose model.gate=learned or "
                "model.gate=fixed"
            }
        return required

    def statistics(self) -> dict[str, Tensor]:
        """gamma of every layer, and the variances behind it where there are any."""
        found = {}
        for name, layer in self.named_layers().items():
            found[f"{name}/gamma"] = layer.gate.gamma().detach()
            if isinstance(layer.gate, VarianceGate):
                found[f"{name}/fast_variance"] = layer.gate.fast_variance
                found[f"{name}/slow_variance"] = layer.gate.slow_variance
        return found

    def consolidate(self, batches: Iterable[Any]) -> None:
        self.plasticity *= 1 - self.consolidation
