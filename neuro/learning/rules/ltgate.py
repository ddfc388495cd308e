"""LT-Gate's local learning rule (arXiv 2510.12843): Hebbian branches, projection and gate.

For every layer and both branches k, from a forward pass without a graph; < > is the mean over time,
batch and space, post_k are the spikes of a branch:

    trace    x[t] = decay * x[t-1] + input[t]                     presynaptic, per synapse
    Hebb     D_k  = < post_k[t] x[t]^T >
    centre   D_k  = < (post_k[t] - <post_k>) x[t]^T >             covariance (Sejnowski 1977)
    forget   D_k <- (1 - decay) D_k - <post_k> W_k                Oja 1982
    project  D_k <- D_k - v_k (v_k^T D_k)                         v_k of unit length
    Oja      v_k <- unit(v_k + eta_v (<a y> - <y^2> v_k)),  y = v_k^T a,  a = channel rates
    select   D_fast *= gamma,  D_slow *= 1 - gamma
    learn    W_k <- W_k + lr * D_k                                lr is the optimizer's

Plain Hebbian learning never decreases a weight and drives every neuron to fire at every step;
`centre` and `forget`, both local, bound it. Thresholds follow the layer's rate (homeostasis).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.layers.dual_timescale import DualTimescaleLayer
from neuro.layers.gate import VarianceGate, channel_rates
from neuro.layers.layout import to_maps, to_rows
from neuro.layers.spiking import PART_BYTES
from neuro.layers.synapse import Synapse, correlate, correlate_events, weight_in_use
from neuro.learning.buffers import BufferUpdate
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Synaptic
from neuro.ops.events import event_sums, event_trace
from neuro.ops.scan import exponential_trace
from neuro.ops.sequence import is_constant
from neuro.runtime.distributed import batch_means

BRANCHES = ("fast", "slow")


def dual_layers(model: CoreModel) -> dict[str, DualTimescaleLayer]:
    """The dual-timescale layers of a model by name. ConfigError if it has none."""
    layers = {
        name.removeprefix("layers."): module
        for name, module in model.named_modules()
        if isinstance(module, DualTimescaleLayer)
    }
    if not layers:
        raise ConfigError(
            f"LT-Gate's rule needs dual-timescale layers; {type(model).__name__} has none. "
            "Use model=ltgate, or rule=surrogate."
        )
    return layers


def plasticity(model: CoreModel) -> Tensor | float:
    """Learning-rate factor of the hidden layers: 1 at first, 0 once they are consolidated."""
    factor: Tensor | float = getattr(model, "plasticity", 1.0)  # a buffer, with Settling
    return factor


def _check_lengths(spec: TaskSpec) -> None:
    """ConfigError for sequences of different lengths: rates and traces would include padding."""
    if spec.padded:
        raise ConfigError(
            f"LT-Gate's rules need sequences of one length; those of task '{spec.task}' differ. "
            "Use rule=surrogate with model.neuron.gate.kind=learned, or data of one length."
        )


class GateVariance(Term):
    """Updates the running variances of a model's variance gates; it has no gradient."""

    needs_graph = False

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        dual_layers(model)
        _check_lengths(spec)

    def records(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(f"{name}/{branch}_rate" for name in self._gates(model) for branch in BRANCHES)

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(
            f"layers.{name}.gate.{branch}_variance"
            for name in self._gates(model)
            for branch in BRANCHES
        )

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        gates = self._gates(model)
        rates = [output.records[f"{name}/{b}_rate"] for name in gates for b in BRANCHES]
        own = [channel_rates(rate).mean(0) for rate in rates]
        common = batch_means(own, len(batch.targets)) if own else []
        # law of total variance: over all processes, it is the mean variance within them plus the
        # variance of their means
        between = [(mean - joint).square() for mean, joint in zip(own, common, strict=True)]
        updates = {}
        for i, (name, gate) in enumerate(gates.items()):
            changes = gate.change(*rates[2 * i : 2 * i + 2])
            for (buffer, change), apart in zip(changes.items(), between[2 * i :], strict=False):
                scaled = (change + gate.rate * apart) * plasticity(model)
                updates[f"layers.{name}.gate.{buffer}"] = BufferUpdate(scaled)
        return TermOutput(output.values.new_zeros(()), updates)

    @staticmethod
    def _gates(model: CoreModel) -> dict[str, VarianceGate]:
        return {
            name: layer.gate
            for name, layer in dual_layers(model).items()
            if isinstance(layer.gate, VarianceGate)
        }


class Hebbian(Term):
    """Branch-selected Hebbian updates of all dual-timescale layers, without a graph.

    - `trace_decay`: decay of the presynaptic trace per time step
    - `centre`, `forget`: the two stabilisers above; without both it is the plain rule
    - `eta_v`: learning rate of the principal vectors; null turns the projection off
    - `homeostasis`: in each update thresholds are multiplied by exp(homeostasis * (rate -
      `target_rate`)), where rate is the mean spike rate of the layer; 0 is off
    """

    needs_graph = False

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        trace_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.8,
        centre: bool = True,
        forget: bool = True,
        eta_v: Annotated[float, Interval(gt=0, le=1)] | None = 1e-3,
        homeostasis: Annotated[float, Ge(0)] = 1.0,
        target_rate: Annotated[float, Interval(gt=0, lt=1)] = 0.2,
    ):
        super().__init__(weight)
        self.trace_decay = trace_decay
        self.centre = centre
        self.forget = forget
        self.eta_v = eta_v
        self.homeostasis = homeostasis
        self.target_rate = target_rate

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        dual_layers(model)
        _check_lengths(spec)
        if isinstance(model, Synaptic):
            model.spiking_connections()  # ConfigError for synapses without a local rule

    def records(self, model: CoreModel) -> tuple[str, ...]:
        if plasticity(model) == 0:
            return ()
        traces = ["packed_inputs", "rate", "gamma"]
        for branch in BRANCHES:
            traces += [f"packed_{branch}_spikes", f"{branch}_rate"]
        return tuple(f"{name}/{trace}" for name in dual_layers(model) for trace in traces)

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(
            f"layers.{name}.{buffer}"
            for name in dual_layers(model)
            for buffer in ("principal", "threshold")
        )

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        loss = output.values.new_zeros(())
        updates: dict[str, BufferUpdate] = {}
        if plasticity(model) == 0:
            return TermOutput(loss)
        shape: Sequence[int] = batch.inputs.shape[2:]  # of the inputs of a layer
        for name, layer in dual_layers(model).items():
            traces = {
                record.rpartition("/")[2]: value
                for record, value in output.records.items()
                if record.startswith(f"{name}/")
            }
            geometry, _ = weight_in_use(layer.fast)
            products, mean_trace = _trace_products(
                geometry,
                _Activity(traces["packed_inputs"], shape),
                [_Activity(traces[f"packed_{branch}_spikes"], layer.shape) for branch in BRANCHES],
                self.trace_decay,
            )
            shape = layer.shape
            principal = []
            for index, branch in enumerate(BRANCHES):
                synapse = getattr(layer, branch)
                vector, direction = self._branch(
                    synapse,
                    products[index],
                    mean_trace,
                    traces[f"{branch}_rate"],
                    layer.principal[index],
                )
                principal.append(vector)
                gamma = traces["gamma"] if branch == "fast" else 1 - traces["gamma"]
                selected = direction * _per_output(gamma * plasticity(model), direction)
                loss = loss - (selected * synapse.weight).sum()
            if self.eta_v is not None:
                change = torch.stack(principal) - layer.principal
                updates[f"layers.{name}.principal"] = BufferUpdate(change)
            if self.homeostasis > 0:
                (rate,) = batch_means([traces["rate"].mean()], len(batch.targets))
                factor = torch.exp(self.homeostasis * (rate - self.target_rate)) - 1
                updates[f"layers.{name}.threshold"] = BufferUpdate(
                    layer.threshold * factor * plasticity(model)
                )
        return TermOutput(loss, updates)

    @torch.no_grad()
    def _branch(
        self, synapse: Synapse, change: Tensor, mean_trace: Tensor, rate_B: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The branch's new principal vector, and the change D_k of its weights.

        - `change`: < post x trace^T >, shaped like the weight
        - `mean_trace`: the same for a neuron that fires at every step, one row
        - `rate_B`: rates of the branch `[B, C, ...]`
        - `v`: the principal vector `[C]`
        """
        per_channel = channel_rates(rate_B)  # [B, C]
        y = per_channel @ v
        pull = per_channel.T @ y / len(y) - y.square().mean() * v
        mean_rate, pull = batch_means([per_channel.mean(0), pull], len(y))
        if self.centre:
            change = change - _per_output(mean_rate, change) * mean_trace
        if self.forget:
            change = (1 - self.trace_decay) * change
            change = change - _per_output(mean_rate, change) * synapse.weight
        if self.eta_v is not None:
            along = torch.outer(v, v @ change.flatten(1))
            change = change - along.view_as(change)
            v = F.normalize(v + self.eta_v * pull, dim=0)
        return v, change


class _Activity:
    """Values `[T, B, *shape]`, or spikes packed to bits, of which some samples are read at a time.

    shape: of packed spikes.
    """

    def __init__(self, record: Tensor, shape: Sequence[int]):
        self.record = record
        self.packed = record.dtype == torch.int64
        self.shape = tuple(shape) if self.packed else tuple(record.shape[2:])
        self.neurons = math.prod(self.shape)

    def of(self, samples: slice) -> Tensor:
        """Steps of some samples: values `[T * b, *shape]`, or packed spikes `[T * b, words]`."""
        record = self.record[:, samples]
        return record.flatten(0, 1) if self.packed else self._maps(to_rows(record))

    def trace(self, samples: slice, decay: float) -> Tensor:
        """Exponential traces of some samples, `[T * b, *shape]`."""
        record = self.record[:, samples]
        if self.packed:
            return self._maps(event_trace(record, self.neurons, decay))
        return self._maps(exponential_trace(to_rows(record), decay=decay))

    def summed(self, factors: Tensor) -> Tensor:
        """Sum over time of the values times a factor of the step, `[B, *shape]`."""
        if self.packed:
            return self._maps(event_sums(self.record, self.neurons, factors))
        return self._maps(torch.tensordot(factors, to_rows(self.record), 1))

    def _maps(self, rows: Tensor) -> Tensor:
        return to_maps(rows, self.shape).reshape(-1, *self.shape)


@torch.no_grad()
def _trace_products(
    synapse: Synapse, inputs: _Activity, posts: Sequence[_Activity], decay: float
) -> tuple[list[Tensor], Tensor]:
    """< post x trace^T > over time, batch and space for each post, a row per output channel.

    The last result is one row, that of a neuron that fires at every step: the mean trace at each
    weight. The trace of a held input is the input times a factor per step; the product then needs
    only one step, with postsynaptic spikes summed over time with these factors.
    """
    steps, batch = posts[0].record.shape[:2]
    channels = posts[0].shape[0]
    places = steps * batch * math.prod(posts[0].shape[1:])
    if not inputs.packed and is_constant(inputs.record):
        factors = exponential_trace(inputs.record.new_ones(steps, 1), decay=decay)[:, 0]
        summed = [post.summed(factors) for post in posts]
        products, always = correlate(synapse, inputs.record[0], summed)
        return [product / places for product in products], always * factors.sum() / places
    at_once = max(1, PART_BYTES // (4 * steps * max(inputs.neurons, posts[0].neurons)))
    found = []
    for first in range(0, batch, at_once):
        part = slice(first, first + at_once)
        trace = inputs.trace(part, decay)
        records = [post.of(part) for post in posts]
        if all(post.packed for post in posts):
            products, always = correlate_events(synapse, trace, records, channels)
        else:
            products, always = correlate(synapse, trace, records)
        found.append([*products, always])
    *products, always = (torch.stack(one).sum(0) / places for one in zip(*found, strict=True))
    return products, always


def _per_output(values: Tensor, weight: Tensor) -> Tensor:
    """Reshape one value per output channel to broadcast over a weight."""
    return values.view(-1, *(1,) * (weight.ndim - 1))
