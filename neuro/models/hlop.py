"""HLOP on the common backbone: LIF neurons whose weights spare the subspaces of earlier tasks.

Xiao et al., ICLR 2024, arXiv 2402.11984; see `layers/subspace.py`. It learns by surrogate gradients
(`loss=[cross_entropy,hlop_subspace]`); presynaptic activity is averaged over time for Oja's rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from neuro.data.base import TaskSpec
from neuro.layers.readout import ReadoutKind
from neuro.layers.subspace import ProtectedSynapse
from neuro.layers.synapse import Synapse
from neuro.models.backbone import Milliseconds, Positive, Width
from neuro.models.lif import LIFNetwork
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.lif import Reset
from neuro.ops.surrogate import Surrogate


class HLOP(LIFNetwork):
    """A LIF network with `lateral_neurons` new lateral neurons per layer and task."""

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
        lateral_neurons: Width = 20,
        readout: ReadoutKind = "linear",
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
        readout_grid: Width = 4,
        fixed_point: FixedPoint | None = None,
    ):
        self._lateral_neurons = lateral_neurons
        super().__init__(
            spec, channels, strides, dense_units, tau_ms, threshold, reset, surrogate,
            readout, readout_layers, readout_grid, fixed_point,
        )  # fmt: skip

    def _wrapped(self, synapse: Synapse) -> ProtectedSynapse:
        return ProtectedSynapse(synapse, self._lateral_neurons)

    @property
    def requires(self) -> dict[str, str]:
        return super().requires | {"lateral neurons": "add the term hlop_subspace"}

    def consolidate(self, batches: Iterable[Any]) -> None:
        for module in self.modules():
            if isinstance(module, ProtectedSynapse):
                module.protect()
