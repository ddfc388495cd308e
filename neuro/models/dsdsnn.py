"""DSD-SNN on the common backbone: structure that grows and is pruned with every task.

Han et al., IJCAI 2023 (dynamic structure development); see `layers/structure.py`. Neurons that hardly
contribute are pruned after a phase and are free for later tasks. It learns by surrogate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from annotated_types import Interval, MinLen
from torch import Tensor, nn

from neuro.data.base import Batch, TaskSpec
from neuro.layers.readout import ReadoutKind
from neuro.layers.spiking import LIFLayer
from neuro.layers.structure import StructuredSynapse
from neuro.models.backbone import Milliseconds, Positive, Width
from neuro.models.lif import LIFNetwork
from neuro.ops.lif import Reset
from neuro.ops.surrogate import Surrogate

Share = Annotated[float, Interval(gt=0, le=1)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]


class DSDSNN(LIFNetwork):
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
    ):
        super().__init__(
            spec, channels, strides, dense_units, tau_ms, threshold, reset, surrogate,
            readout, readout_layers, readout_grid,
        )  # fmt: skip
        self.growth = growth
        self.prune_below = prune_below
        self._grow(0)

    def _layer(self, synapse: Callable[[], nn.Module], shape: tuple[int, ...]) -> LIFLayer:
        return super()._layer(lambda: StructuredSynapse(synapse()), shape)

    def statistics(self) -> dict[str, Tensor]:
        """Share of each layer's neurons that belong to some task."""
        return {
            f"{name}/grown": (layer.synapse.owner >= 0).float()
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def consolidate(self, batches: Iterable[Batch]) -> None:
        importance = self._importance(batches)
        for name, layer in self.layers.items():
            layer.synapse.prune(importance[name], self.prune_below)
        self._grow(int(self.layers["dense"].synapse.task) + 1)

    def _grow(self, task: int) -> None:
        heard: Tensor | None = None
        for layer in self.layers.values():
            synapse = layer.synapse
            synapse.grow(round(self.growth * len(synapse.owner)), task)
            if heard is not None:
                places = len(synapse.listens_to) // len(heard)  # a flattened map, or 1
                synapse.listens_to.copy_(heard.repeat_interleave(places))
            heard = synapse.owner

    def _importance(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Mean spike rate of each channel times the norm of its incoming weights."""
        names = [f"{name}/spikes" for name in self.layers]
        rates = dict.fromkeys(self.layers, torch.zeros(()))
        for batch in batches:
            records = self(batch.sequence(), dt_ms=batch.dt_ms, record=names).records
            for name in self.layers:
                count = records[f"{name}/spikes"].sum((0, 1))  # [C] or [C, H, W]
                rates[name] = rates[name].to(count) + count.reshape(len(count), -1).mean(1)
        return {
            name: rates[name] * layer.synapse.synapse.weight.flatten(1).norm(dim=1)
            for name, layer in self.layers.items()
        }
