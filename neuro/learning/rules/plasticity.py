"""Plasticity of named connections of spiking models: STDP, triplet STDP, homeostasis, BCM.

A rule changes weights by amounts of its own, not by a rate of the optimizer: its changes are
updates of parameters (`learning/buffers.py`), which are applied if the update is finite. Beside a
loss it acts together with the gradients; alone, or on weights that `phase.<name>.freeze` keeps from
gradients, it is the only one that changes them. Equations and sources are in `ops/plasticity.py`.

A change is the sum over the steps of a batch, averaged over samples and, for convolutions, places.
It is multiplied by the term's `weight`, which `callbacks.meta_plasticity` adapts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError, nearest
from neuro.layers.gate import channel_rates
from neuro.layers.synapse import correlate
from neuro.learning.buffers import BufferUpdate
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import SpikingConnection, Synaptic
from neuro.ops import plasticity
from neuro.ops.plasticity import Factors, decay_of
from neuro.runtime.distributed import batch_means

Amplitude = Annotated[float, Interval(ge=-1, le=1)]
#: ms, or steps if steps have no unit of time
Tau = Annotated[float, Interval(gt=0, le=1e6)]
Rate = Annotated[float, Interval(ge=0, le=1e6)]
Names = tuple[str, ...] | None


class PlasticityRule(Term):
    """A local rule of some connections.

    - `connections`: names of `Synaptic.spiking_connections`; None is all of them
    - `max_change`: largest change of a weight in an update
    - `low`, `high`: bounds of the weights

    Logged for each connection: `<connection>/weight_change`, the mean absolute change by the rule.
    """

    needs_graph = False

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        connections: Names = None,
        max_change: Annotated[float, Gt(0)] = 0.01,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(weight)
        if low >= high:
            raise ValueError(f"low, high: got {low:g} and {high:g}; the first must be lower")
        self.connections = connections
        self.max_change = max_change
        self.low = low
        self.high = high

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        self._connections(model)

    def records(self, model: CoreModel) -> tuple[str, ...]:
        used = self._connections(model).values()
        return tuple(dict.fromkeys(name for c in used for name in (c.inputs, c.spikes)))

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(connection.weight for connection in self._connections(model).values())

    @torch.no_grad()
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        updates, logged = {}, {}
        dt = 1.0 if batch.dt_ms is None else batch.dt_ms
        for name, connection in self._connections(model).items():
            pre, post = output.records[connection.inputs], output.records[connection.spikes]
            factors = self.factors(name, pre.detach().float(), post.detach().float(), dt)
            change = self.weight * mean_change(connection.synapse, factors)
            change = change.clamp(-self.max_change, self.max_change)
            updates[connection.weight] = BufferUpdate(change, low=self.low, high=self.high)
            logged[f"{name}/weight_change"] = change.abs().mean()
        return TermOutput(output.values.new_zeros(()), updates, logged)

    @abstractmethod
    def factors(self, name: str, pre_TB: Tensor, post_TB: Tensor, dt: float) -> Iterable[Factors]:
        """The summands of the change of connection `name`, for steps of `dt`."""

    def _connections(self, model: CoreModel) -> Mapping[str, SpikingConnection]:
        """The rule's connections by name. ConfigError for names that the model does not have."""
        if not isinstance(model, Synaptic):
            raise ConfigError(
                f"{type(self).__name__} changes connections between spiking neurons; "
                f"{type(model).__name__} has none. Use a spiking model (ltgate, lif), or a hybrid "
                "with model.spiking."
            )
        available = model.spiking_connections()
        if self.connections is None:
            return available
        for name in self.connections:
            if name not in available:
                raise ConfigError(
                    f"connections: {type(model).__name__} has no connection '{name}'. It has "
                    f"{', '.join(available) or 'none'}.{nearest(name, available)}"
                )
        return {name: available[name] for name in self.connections}


def mean_change(synapse: nn.Conv2d | nn.Linear, factors: Iterable[Factors]) -> Tensor:
    """Sum over factors and steps of post pre^T, averaged over samples and places.

    Shaped like the synapse's weights.
    """
    changes = []
    for pre_TB, post_TB in factors:
        places = post_TB.shape[1] * post_TB[0, 0, 0].numel()
        (product,), _ = correlate(synapse, pre_TB.flatten(0, 1), [post_TB.flatten(0, 1)])
        changes.append(product / places)
    return torch.stack(changes).sum(0)


class STDP(PlasticityRule):
    """Pair-based spike-timing-dependent plasticity (`ops.plasticity.stdp`).

    A presynaptic spike before a postsynaptic one strengthens, the other order weakens. `window`: a
    pair counts within this many time constants.
    """

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        connections: Names = None,
        a_plus: Amplitude = 0.005,
        a_minus: Amplitude = 0.00525,
        tau_plus_ms: Tau = 20.0,
        tau_minus_ms: Tau = 20.0,
        window: Annotated[float, Interval(gt=0, le=1e3)] = 5.0,
        max_change: Annotated[float, Gt(0)] = 0.01,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(weight, connections, max_change, low, high)
        self.a_plus = a_plus
        self.a_minus = a_minus
        self.tau_plus_ms = tau_plus_ms
        self.tau_minus_ms = tau_minus_ms
        self.window = window

    def factors(self, name: str, pre_TB: Tensor, post_TB: Tensor, dt: float) -> Iterable[Factors]:
        return plasticity.stdp(
            pre_TB,
            post_TB,
            a_plus=self.a_plus,
            a_minus=self.a_minus,
            decay_plus=decay_of(self.tau_plus_ms, dt),
            decay_minus=decay_of(self.tau_minus_ms, dt),
            window_plus=max(1, round(self.window * self.tau_plus_ms / dt)),
            window_minus=max(1, round(self.window * self.tau_minus_ms / dt)),
        )


class TripletSTDP(PlasticityRule):
    """STDP with triplets of spikes (`ops.plasticity.triplet_stdp`).

    The defaults are the minimal all-to-all model of visual cortex of Pfister and Gerstner (2006,
    table 3), in which potentiation needs a postsynaptic spike before.
    """

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        connections: Names = None,
        a2_plus: Amplitude = 0.0,
        a2_minus: Amplitude = 0.0071,
        a3_plus: Amplitude = 0.0065,
        a3_minus: Amplitude = 0.0,
        tau_plus_ms: Tau = 16.8,
        tau_minus_ms: Tau = 33.7,
        tau_x_ms: Tau = 101.0,
        tau_y_ms: Tau = 114.0,
        max_change: Annotated[float, Gt(0)] = 0.01,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(weight, connections, max_change, low, high)
        self.a2_plus = a2_plus
        self.a2_minus = a2_minus
        self.a3_plus = a3_plus
        self.a3_minus = a3_minus
        self.tau_plus_ms = tau_plus_ms
        self.tau_minus_ms = tau_minus_ms
        self.tau_x_ms = tau_x_ms
        self.tau_y_ms = tau_y_ms

    def factors(self, name: str, pre_TB: Tensor, post_TB: Tensor, dt: float) -> Iterable[Factors]:
        return plasticity.triplet_stdp(
            pre_TB,
            post_TB,
            a2_plus=self.a2_plus,
            a2_minus=self.a2_minus,
            a3_plus=self.a3_plus,
            a3_minus=self.a3_minus,
            decay_plus=decay_of(self.tau_plus_ms, dt),
            decay_minus=decay_of(self.tau_minus_ms, dt),
            decay_x=decay_of(self.tau_x_ms, dt),
            decay_y=decay_of(self.tau_y_ms, dt),
        )


class Homeostasis(PlasticityRule):
    """Keeps neurons at `target` spikes per step by their inputs (`ops.plasticity.homeostasis`)."""

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        connections: Names = None,
        rate: Rate = 0.01,
        target: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        max_change: Annotated[float, Gt(0)] = 0.01,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(weight, connections, max_change, low, high)
        self.rate = rate
        self.target = target

    def factors(self, name: str, pre_TB: Tensor, post_TB: Tensor, dt: float) -> Iterable[Factors]:
        return plasticity.homeostasis(pre_TB, post_TB, rate=self.rate, target=self.target)


class BCM(PlasticityRule):
    """The BCM rule (`ops.plasticity.bcm`), with a threshold for each neuron or channel.

    The threshold follows (mean of y^2) / `target` over about `threshold_batches` batches, so that a
    neuron that always fires at `target` spikes per step is at rest. It also follows the activity in
    updates that are skipped.
    """

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        connections: Names = None,
        rate: Rate = 0.1,
        target: Annotated[float, Interval(gt=0, lt=1)] = 0.1,
        threshold_batches: Annotated[float, Interval(ge=1, le=1e6)] = 20.0,
        max_change: Annotated[float, Gt(0)] = 0.01,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(weight, connections, max_change, low, high)
        self.rate = rate
        self.target = target
        self.threshold_batches = threshold_batches

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        super().check(model, spec)
        for name, connection in self._connections(model).items():
            if not hasattr(self, _threshold(name)):  # another task has been checked before
                start = torch.full(connection.synapse.weight.shape[:1], self.target)
                self.register_buffer(_threshold(name), start)

    def factors(self, name: str, pre_TB: Tensor, post_TB: Tensor, dt: float) -> Iterable[Factors]:
        threshold = self.get_buffer(_threshold(name))
        factors = [*plasticity.bcm(pre_TB, post_TB, rate=self.rate, threshold=threshold.clone())]
        squares = channel_rates(post_TB.mean(0).square()).mean(0)
        (squares,) = batch_means([squares], post_TB.shape[1])
        threshold.lerp_(squares / self.target, 1 / self.threshold_batches)
        return factors


def _threshold(connection: str) -> str:
    """Name of a connection's buffer; dots would be submodules."""
    return f"threshold of {connection}".replace(".", "_")
