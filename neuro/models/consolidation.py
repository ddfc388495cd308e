"""Consolidation of spiking networks after a phase, against forgetting in later phases.

`Settling` ends the hidden layers' local plasticity (LT-Gate), `HLOP` protects the subspaces of
earlier tasks' activity, `DSDSNN` grows and prunes structure. Without one (null) all weights stay
plastic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from neuro.data.base import Batch
from neuro.layers.spiking import SpikingLayer
from neuro.layers.structure import FREE, StructuredSynapse
from neuro.layers.subspace import ProtectedSynapse
from neuro.layers.synapse import AnySynapse, Synapse
from neuro.models.base import CoreModel

Layers = Mapping[str, SpikingLayer]


class Consolidation(ABC):
    """A method of consolidation. It holds settings; its state is kept in the network's buffers."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: ClassVar[tuple[str, ...]] = ()

    def wrap(self, synapse: Synapse) -> AnySynapse:
        """Wrap a new synapse of the network, if the method needs another kind."""
        return synapse

    def prepare(self, network: CoreModel, layers: Layers) -> None:
        """Called once, at the end of the network's construction."""

    def plastic_buffers(self, layers: Layers) -> dict[str, str]:
        """Buffers of the layers in `Plastic.plastic_buffers` (`models/capabilities.py`)."""
        return {}

    def statistics(self, layers: Layers) -> dict[str, Tensor]:
        """See `Observable` in `models/capabilities.py`."""
        return {}

    @abstractmethod
    def consolidate(self, network: CoreModel, layers: Layers, batches: Iterable[Batch]) -> None:
        """Called after a phase with the training batches of its tasks."""


class Settling(Consolidation):
    """After every phase the hidden layers lose the fraction `share` of their local plasticity.

    The network's buffer `plasticity`, 1 at the start, scales the updates of local rules in hidden
    layers. With a share of 1 only the readout learns after the first phase.
    """

    def __init__(self, share: Annotated[float, Interval(ge=0, le=1)] = 1.0):
        self.share = share

    def prepare(self, network: CoreModel, layers: Layers) -> None:
        network.register_buffer("plasticity", torch.ones(()))

    def consolidate(self, network: CoreModel, layers: Layers, batches: Iterable[Batch]) -> None:
        assert isinstance(network.plasticity, Tensor)
        network.plasticity *= 1 - self.share


class HLOP(Consolidation):
    """Updates are orthogonal to subspaces of earlier tasks' activity; see `layers/subspace.py`.

    Xiao et al., ICLR 2024, arXiv 2402.11984. In each layer and task, `lateral_neurons` new neurons
    learn a principal subspace of presynaptic activity, averaged over time, by Oja's rule (term
    `hlop_subspace`); the other weights learn by surrogate gradients.
    """

    def __init__(self, lateral_neurons: Annotated[int, Gt(0)] = 20):
        self.lateral_neurons = lateral_neurons

    def wrap(self, synapse: Synapse) -> ProtectedSynapse:
        return ProtectedSynapse(synapse, self.lateral_neurons)

    def plastic_buffers(self, layers: Layers) -> dict[str, str]:
        names = (f"layers.{name}.synapse.lateral" for name in layers)
        return dict.fromkeys(names, "add the term hlop_subspace")

    def consolidate(self, network: CoreModel, layers: Layers, batches: Iterable[Batch]) -> None:
        for layer in layers.values():
            for synapse in layer.synapses.values():
                assert isinstance(synapse, ProtectedSynapse)
                synapse.protect()


class DSDSNN(Consolidation):
    """Structure that grows and is pruned with every task; see `layers/structure.py`.

    Dynamic structure development (Han et al., IJCAI 2023). Every task adds the fraction `growth` of
    each layer's neurons. After a phase, neurons whose importance (mean spike rate times the norm of
    their weights) is below `prune_below` times the layer's mean are freed for later tasks. The
    network learns by surrogate gradients.
    """

    def __init__(
        self,
        growth: Annotated[float, Interval(gt=0, le=1)] = 0.5,
        prune_below: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
    ):
        self.growth = growth
        self.prune_below = prune_below

    def wrap(self, synapse: Synapse) -> StructuredSynapse:
        return StructuredSynapse(synapse)

    def prepare(self, network: CoreModel, layers: Layers) -> None:
        self._grow(layers, 0)

    def statistics(self, layers: Layers) -> dict[str, Tensor]:
        """1 for each neuron that belongs to some task, else 0."""
        return {
            f"{name}/grown": (synapse.owner != FREE).float()
            for name, synapse in structure(layers).items()
        }

    @torch.no_grad()
    def consolidate(self, network: CoreModel, layers: Layers, batches: Iterable[Batch]) -> None:
        importance = _importance(network, layers, batches)
        task = 0
        for name, synapse in structure(layers).items():
            synapse.prune(importance[name], self.prune_below)
            task = int(synapse.task) + 1
        self._grow(layers, task)

    def _grow(self, layers: Layers, task: int) -> None:
        """Assign free neurons of each layer to a task, with all neurons in use as inputs."""
        presynaptic: Tensor | None = None  # owners of the layer before
        for synapse in structure(layers).values():
            synapse.grow(round(self.growth * len(synapse.owner)), task)
            if presynaptic is not None:
                # places of a map that a dense synapse reads flattened, else 1
                places = len(synapse.listens_to) // len(presynaptic)
                synapse.listens_to.copy_(presynaptic.repeat_interleave(places))
            presynaptic = synapse.owner


def structure(layers: Layers) -> dict[str, StructuredSynapse]:
    """The structured synapses by their layers' names, from the first to the last."""
    return {
        name: synapse
        for name, layer in layers.items()
        for synapse in layer.synapses.values()
        if isinstance(synapse, StructuredSynapse)
    }


def _importance(network: CoreModel, layers: Layers, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Mean spike rate of each channel times the norm of its incoming weights."""
    names = [f"{name}/spikes" for name in layers]
    rates: dict[str, Tensor] = {}
    steps = 0
    for batch in batches:
        records = network(batch.sequence(), dt_ms=batch.dt_ms, record=names).records
        for name in layers:
            spikes = records[f"{name}/spikes"]
            rate = spikes.flatten(3).mean((0, 3)) if spikes.ndim > 3 else spikes.mean(0)
            rates[name] = rates.get(name, 0) + rate.sum(0)
        steps += len(batch.targets)
    return {
        name: rates[name] / steps * synapse.weight().flatten(1).norm(dim=1)
        for name, synapse in structure(layers).items()
    }
