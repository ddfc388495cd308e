"""The plain baseline on the common backbone: single-timescale LIF neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from neuro.data.base import TaskSpec
from neuro.layers.readout import ReadoutKind
from neuro.layers.spiking import LIFLayer
from neuro.layers.synapse import AnySynapse, Synapse
from neuro.models.backbone import Milliseconds, Positive, SpikingBackbone, Width
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.lif import Reset
from neuro.ops.surrogate import Surrogate


class LIFNetwork(SpikingBackbone[LIFLayer]):
    """Leaky integrate-and-fire neurons with one time constant."""

    def __init__(
        self,
        spec: TaskSpec,
        channels: Annotated[tuple[Width, ...], MinLen(1)] = (32, 32, 64),
        strides: Annotated[tuple[Width, ...], MinLen(1)] = (1, 2, 2),
        dense_units: Width = 256,
        tau_ms: Milliseconds = 20.0,
        threshold: Positive = 0.5,
        reset: Reset = "subtract",
        surrogate: Surrogate = Surrogate(),
        readout: ReadoutKind = "linear",
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
        readout_grid: Width = 4,
        fixed_point: FixedPoint | None = None,
    ):
        self._neuron: dict[str, Any] = {
            "tau_ms": tau_ms,
            "threshold": threshold,
            "reset": reset,
            "surrogate": surrogate,
            "fixed_point": fixed_point,
        }
        super().__init__(
            spec, channels, strides, dense_units, readout, readout_layers, readout_grid, fixed_point
        )

    def _layer(self, synapse: Callable[[], Synapse], shape: tuple[int, ...]) -> LIFLayer:
        return LIFLayer(self._wrapped(synapse()), shape, **self._neuron)

    def _wrapped(self, synapse: Synapse) -> AnySynapse:
        """The synapse, or what a subclass makes of it."""
        return synapse
