"""DSD-SNN on the common backbone: structure that grows and is pruned with every task.

Han et al., IJCAI 2023 (dynamic structure development); see `layers/structure.py`. Neurons that
hardly contribute are pruned after a phase and are free for later tasks. It learns by surrogate
gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from annotated_types import Interval, MinLen
from torch import Tensor

from neuro.data.base import Batch, TaskSpec
from neuro.layers.readout import ReadoutKind
from neuro.layers.structure import FREE, StructuredSynapse
from neuro.layers.synapse import Synapse
from neuro.models.backbone import Milliseconds, Positive, Width
from neuro.models.capabilities import Observable
from neuro.models.lif import LIFNetwork
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.lif import Reset
from neuro.ops.surrogate import Surrogate

Share = Annotated[float, Interval(gt=0, le=1)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]


class DSDSNN(LIFNetwork, Observable):
    """A LIF network in which every task grows `growth` of each layer's neurons.

    After a phase, neurons whose importance (mean spike rate times the norm of their weights) is
    below `prune_below` times the layer's mean are freed again.
    """

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
        growth: Share = 0.5,
        prune_below: Fraction = 0.1,
        readout: ReadoutKind = "linear",
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
        readout_grid: Width = 4,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__(
            spec, channels, strides, dense_units, tau_ms, threshold, reset, surrogate,
            readout, readout_layers, readout_grid, fixed_point,
        )  # fmt: skip
        self.growth = growth
        self.prune_below = prune_below
        self._grow(0)

    def _wrapped(self, synapse: Synapse) -> StructuredSynapse:
        return StructuredSynapse(synapse)

    def structure(self) -> dict[str, StructuredSynapse]:
        """The synapses with their layers' names, from the first to the last."""
        return {
            name: layer.synapse
            for name, layer in self.named_layers().items()
            if isinstance(layer.synapse, StructuredSynapse)
        }

    def statistics(self) -> dict[str, Tensor]:
        """Share of each layer's neurons that belong to some task."""
        return {
            f"{name}/grown": (synapse.owner != FREE).float()
            for name, synapse in self.structure().items()
        }

    @torch.no_grad()
    def consolidate(self, batches: Iterable[Batch]) -> None:
        importance = self._importance(batches)
        for name, synapse in self.structure().items():
            synapse.prune(importance[name], self.prune_below)
        self._grow(int(self.structure()["dense"].task) + 1)

    def _grow(self, task: int) -> None:
        heard: Tensor | None = None
        for synapse in self.structure().values():
            synapse.grow(round(self.growth * len(synapse.owner)), task)
            if heard is not None:
                places = len(synapse.listens_to) // len(heard)  # a flattened map, or 1
                synapse.listens_to.copy_(heard.repeat_interleave(places))
            heard = synapse.owner

    def _importance(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Mean spike rate of each channel times the norm of its incoming weights."""
        names = [f"{name}/spikes" for name in self.layers]
        rates: dict[str, Tensor] = {}
        steps = 0
        for batch in batches:
            records = self(batch.sequence(), dt_ms=batch.dt_ms, record=names).records
            for name in self.layers:
                spikes = records[f"{name}/spikes"]
                rate = spikes.flatten(3).mean((0, 3)) if spikes.ndim > 3 else spikes.mean(0)
                rates[name] = rates.get(name, 0) + rate.sum(0)
            steps += len(batch.targets)
        return {
            name: rates[name] / steps * synapse.weight().flatten(1).norm(dim=1)
            for name, synapse in self.structure().items()
        }
