"""Capabilities: features of some models, as small protocols that are checked by `isinstance`.

`CoreModel` is the contract of every model. A callback, term or hardware target that needs more
checks for a protocol of this file, and refuses a model without it before training. A class has a
capability if it has its members; if the protocol is among its bases, the type checker compares the
signatures. A new family of models adds a protocol here or in a file of its own, not a member of the
base class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from neuro.models.graph import LayerGraph
from neuro.ops.fixed_point import FixedPoint


class Connection(NamedTuple):
    """Synapses from one layer to another, or within a layer; `weight` is `[target, source]`.

    `mask` is 0 where there is no synapse; None: all pairs are connected.
    """

    source: str
    target: str
    weight: Tensor
    mask: Tensor | None = None

    def existing(self) -> Tensor:
        """True where there is a synapse, `[target, source]`."""
        if self.mask is None:
            return torch.ones_like(self.weight, dtype=torch.bool)
        return self.mask != 0


@runtime_checkable
class Layered(Protocol):
    """Named layers whose activity (spikes, states) can be recorded."""

    def activity_records(self) -> dict[str, str]:
        """The record of each layer's activity, as in `{"conv1": "conv1/spikes"}`."""
        ...

    def activity_limits(self) -> dict[str, Tensor]:
        """The largest activity that the units of a layer can have, `[]` or `[N]`.

        Spikes have 1 per step; a layer without a bound is left out.
        """
        ...


@runtime_checkable
class Spiking(Protocol):
    """Layers that fire: `<layer>/spikes` can be recorded for each layer with a threshold."""

    @property
    def thresholds(self) -> dict[str, Tensor]:
        """Firing thresholds by layer; calibration scales them in place."""
        ...


class SpikingConnection(NamedTuple):
    """A synapse onto spiking neurons, and the activity before and behind it.

    `weight` is the name of the model's parameter; `inputs` and `spikes` are records `[T, B, ...]`.
    """

    weight: str
    synapse: nn.Conv2d | nn.Linear
    inputs: str
    spikes: str


@runtime_checkable
class Synaptic(Protocol):
    """Connections onto spiking neurons that local rules can change (`rules/plasticity.py`)."""

    def spiking_connections(self) -> dict[str, SpikingConnection]:
        """The connections by name, such as `dense` or `conv1/fast`."""
        ...


@runtime_checkable
class Connected(Protocol):
    """Matrices of synapses between named layers."""

    def connections(self) -> tuple[Connection, ...]:
        """All connections with their effective weights, learnable or not."""
        ...

    def connection_weights(self) -> dict[str, Tensor]:
        """The learnable ones by name, for losses on weights and for histograms."""
        ...


@runtime_checkable
class Noisy(Protocol):
    """Noise that the model itself draws in its forward pass."""

    @property
    def noise_levels(self) -> dict[str, float]:
        """Standard deviations by `noise.<place>` and `perturb.<place>`.

        All levels that can be set, zeros included. `noise` is drawn for every step, `perturb` once
        for each sequence.
        """
        ...

    def set_noise(self, levels: Mapping[str, float]) -> None:
        """Change some of the `noise_levels`."""
        ...


@runtime_checkable
class Constrained(Protocol):
    """Parameters with constraints (range, sign, sparsity) that an update may violate."""

    @property
    def constrained(self) -> tuple[str, ...]:
        """Names of the parameters, or of groups of them, that have constraints."""
        ...

    def project(self) -> None:
        """Move the parameters to the nearest ones that meet the constraints, in place."""
        ...


@runtime_checkable
class Deployable(Protocol):
    """A network that can be mapped to a neuromorphic chip."""

    #: widths of the chip's integers that the forward pass computes with; None: floating point
    fixed_point: FixedPoint | None

    def layer_graph(self) -> LayerGraph:
        """A snapshot of neurons and synapses, for hardware targets."""
        ...


@runtime_checkable
class Plastic(Protocol):
    """Buffers that a term of the objective must update, because no gradient does."""

    @property
    def plastic_buffers(self) -> dict[str, str]:
        """Their names, with the remedy if no term's `updated_buffers` has one of them.

        As in `{"readout.count": "add the term discriminant"}`.
        """
        ...


@runtime_checkable
class Budgeted(Protocol):
    """Memories whose strengths have a limited sum."""

    #: steps between two writes
    span: int

    def budget_records(self) -> dict[str, str]:
        """The record of each memory with the used fractions of its budgets, 0 to 1."""
        ...


@runtime_checkable
class Observable(Protocol):
    """Quantities to log besides activity and weights."""

    def statistics(self) -> dict[str, Tensor]:
        """Values by `<layer>/<quantity>`, without a graph: gates `[C]`, running variances `[C]`."""
        ...


@runtime_checkable
class Padded(Protocol):
    """`forward` takes the `lengths` `[B]` of sequences, to leave padding out of averages."""

    #: always true
    takes_lengths: bool


@runtime_checkable
class Delayed(Protocol):
    """Synapses whose delays may be learned by kernels over time (`layers/delays.py`)."""

    @property
    def delay_width(self) -> float | None:
        """Standard deviation of the kernels in steps; None if no delays are learned."""
        ...

    def set_delay_width(self, steps: float) -> None:
        """Change it, which training does from wide to narrow."""
        ...


@runtime_checkable
class Portable(Protocol):
    """A model whose config may refer to other files."""

    def portable_config(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The config node it was built from, with references to files replaced by their content."""
        ...


def connection_weights(model: nn.Module) -> dict[str, Tensor]:
    """Learnable synaptic weights by name: those of `Connected`, else matrices named weights.

    The latter are parameters with at least two dimensions whose names begin with `weight`, which
    excludes biases, thresholds and the scales of normalisation layers.
    """
    if isinstance(model, Connected):
        return model.connection_weights()
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim >= 2
        and name.rpartition(".")[2].startswith("weight")
    }


def unmet(model: nn.Module, required: Iterable[type], user: str) -> Iterator[str]:
    """A problem for each required capability that the model lacks; `user` requires it."""
    name = type(model).__name__
    for capability in required:
        if not isinstance(model, capability):
            yield f"{user} needs a {capability.__name__} model, which {name} is not."
