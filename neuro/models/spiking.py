"""Base of spiking networks: layers one after the other, and a linear readout of their spikes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from neuro.data.base import Batch, InputSpec
from neuro.errors import ConfigError, nearest
from neuro.layers.delays import AxonalDelays, DelayLine, SynapticDelays
from neuro.layers.layout import to_rows
from neuro.layers.readout import ReadoutKind, make_readout
from neuro.layers.spiking import PART_BYTES, LayerOutput, SpikingLayer
from neuro.layers.synapse import TimedSynapse, deployed_weight, weight_in_use
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import (
    Delayed,
    Deployable,
    Layered,
    Observable,
    Padded,
    Plastic,
    Spiking,
    SpikingConnection,
    Synaptic,
)
from neuro.models.consolidation import Consolidation
from neuro.models.export import spiking_graph
from neuro.models.graph import LayerGraph
from neuro.models.map_pooling import feature_count, pooled, unpooled
from neuro.models.state import concat, select
from neuro.ops.events import pack_events
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.plain import are_plain
from neuro.ops.readout import read_out
from neuro.ops.scan import exponential_trace
from neuro.ops.sequence import is_constant

Width = Annotated[int, Gt(0)]

LEARNED_DELAYS = (AxonalDelays, SynapticDelays)


class SpikingNetwork(
    CoreModel, Layered, Spiking, Synaptic, Deployable, Plastic, Observable, Padded, Delayed
):
    """A chain of spiking layers and a linear readout of some of them.

    Constructors of subclasses fill `layers`, then call `_read_out`. Records: `<layer>/<trace>` for
    the layer's traces, and `features`, the readout's inputs averaged over time `[B, features]`
    (without padding), which have no gradient, like all rates.

    With `readout_tau_ms` the readout is a leaky integrator, and `objective.pooling` mean, max or
    last decides by the mean, largest or last value of a score; None: scores are linear in the
    spikes.
    """

    takes_lengths = True
    fixed_point: FixedPoint | None = None
    consolidation: Consolidation | None = None
    readout_tau_ms: float | None = None  #: time constant of the readout, if it is leaky
    dropout = (
        0.0  #: fraction of a layer's spikes that later layers and the readout miss in training
    )
    readout_grid = 1  #: maps are pooled to at most this many places per side for the readout

    def __init__(self, inputs: InputSpec):
        super().__init__()
        self.inputs = inputs
        self.layers = nn.ModuleDict()
        self.delays = nn.ModuleDict()  # of a layer's inputs, by its name

    def _read_out(
        self, kind: ReadoutKind, names: tuple[str, ...] | Literal["all"], outputs: int
    ) -> None:
        """Make the readout of the layers `names`, after all layers have been made."""
        layers = self.named_layers()
        next(iter(layers.values())).coding = self.inputs.coding
        names = tuple(layers) if names == "all" else tuple(dict.fromkeys(names))
        if not names:
            raise ValueError(f"readout_layers is empty; give `all` or some of {', '.join(layers)}")
        for name in names:
            if name not in layers:
                raise ValueError(
                    f"readout_layers: there is no layer '{name}'. Layers: "
                    f"{', '.join(layers)}.{nearest(name, layers)}"
                )
        self.readout_layers = names
        self.outputs = outputs
        features = sum(feature_count(layers[name].shape, self.readout_grid) for name in names)
        self.readout = make_readout(kind, features, outputs)

    def named_layers(self) -> dict[str, SpikingLayer]:
        """The spiking layers by name, from the first to the last."""
        return cast("dict[str, SpikingLayer]", dict(self.layers.items()))

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """The state of each layer (with its delay line's, if it has one), then the readout's."""
        states: list[Any] = []
        for name, layer in self.named_layers().items():
            own = layer.initial_state(batch_size)
            if name in self.delays:
                line = cast("DelayLine", self.delays[name])
                states.append((own, line.initial_state(batch_size)))
            else:
                states.append(own)
        if self.readout_tau_ms is not None:
            like = next(iter(self.named_layers().values())).threshold
            states.append(like.new_zeros(batch_size, self.outputs))
        return tuple(states)

    @property
    def recordable(self) -> tuple[str, ...]:
        traces = [f"{n}/{t}" for n, layer in self.named_layers().items() for t in layer.trace_names]
        return (*traces, "features")

    @property
    def plastic_buffers(self) -> dict[str, str]:
        layers = self.named_layers()
        found = {f"readout.{buffer}": r for buffer, r in self.readout.plastic_buffers.items()}
        for name, layer in layers.items():
            found |= {f"layers.{name}.{buffer}": r for buffer, r in layer.plastic_buffers.items()}
        return found | (self.consolidation.plastic_buffers(layers) if self.consolidation else {})

    def statistics(self) -> dict[str, Tensor]:
        layers = self.named_layers()
        found = {
            f"{name}/{what}": value
            for name, layer in layers.items()
            for what, value in layer.statistics().items()
        }
        for name, line in self.delays.items():
            if isinstance(line, AxonalDelays):
                found[f"{name}/delay_ms"] = line.position_ms.value().detach()
        return found | (self.consolidation.statistics(layers) if self.consolidation else {})

    def consolidate(self, batches: Iterable[Batch]) -> None:
        if self.consolidation is not None:
            self.consolidation.consolidate(self, self.named_layers(), batches)

    def spiking_connections(self) -> dict[str, SpikingConnection]:
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        found = {}
        for layer_name, layer in self.named_layers().items():
            for compartment, wrapped in layer.synapses.items():
                if isinstance(wrapped, TimedSynapse):
                    raise ConfigError(
                        "model.delay_kind: local rules have no form for delays of each synapse. "
                        "Use axonal or drawn."
                    )
                synapse, _ = weight_in_use(wrapped)
                only = len(layer.synapses) == 1
                spikes = "spikes" if only else f"{compartment}_spikes"
                found[layer_name if only else f"{layer_name}/{compartment}"] = SpikingConnection(
                    names[id(synapse.weight)],
                    synapse,
                    f"{layer_name}/inputs",
                    f"{layer_name}/{spikes}",
                )
        return found

    @property
    def delay_width(self) -> float | None:
        widths = [module.width for module in self.modules() if isinstance(module, LEARNED_DELAYS)]
        return float(widths[0]) if widths else None

    def set_delay_width(self, steps: float) -> None:
        for module in self.modules():
            if isinstance(module, LEARNED_DELAYS):
                module.width.fill_(steps)

    def activity_records(self) -> dict[str, str]:
        return {name: f"{name}/spikes" for name in self.named_layers()}

    def activity_limits(self) -> dict[str, Tensor]:
        return {name: torch.ones(()) for name in self.named_layers()}

    @property
    def thresholds(self) -> dict[str, Tensor]:
        return {name: layer.threshold for name, layer in self.named_layers().items()}

    def forward(
        self,
        inputs: Tensor,
        state: tuple[Any, ...] | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
        lengths: Tensor | None = None,
    ) -> ModelOutput:
        """See `CoreModel.forward`. `lengths` `[B]` exclude padding from the record `features`.

        Without a graph a few samples are run at a time: the same up to rounding, in less memory.
        """
        assert dt_ms is not None, "refused by the constructor"
        self.check_records(record)
        readout = self._readout_in_use()
        at_once = self._samples_at_once(inputs)
        parts = []
        for first in range(0, len(inputs), at_once):
            rows = slice(first, first + at_once)
            own = None if lengths is None else lengths[rows]
            before = None if state is None else select(state, rows)
            parts.append(self._run(inputs[rows], before, dt_ms, record, own, *readout))
        if len(parts) == 1:
            return parts[0]
        return ModelOutput(
            torch.cat([part.values for part in parts]),
            concat(*(part.state for part in parts)),
            {name: _joined(name, [part.records[name] for part in parts]) for name in record},
        )

    def _samples_at_once(self, inputs: Tensor) -> int:
        """Samples that are run together: all where there is a graph, or no memory to be saved."""
        if torch.is_grad_enabled() or inputs.device.type != "cpu" or are_plain():
            return len(inputs)
        neurons = max(math.prod(layer.shape) for layer in self.named_layers().values())
        return max(1, PART_BYTES // (4 * inputs.shape[1] * neurons))

    def _run(
        self,
        inputs: Tensor,
        state: tuple[Any, ...] | None,
        dt_ms: float,
        record: Sequence[str],
        lengths: Tensor | None,
        weights: Mapping[str, Tensor],
        bias: Tensor,
    ) -> ModelOutput:
        """`forward` for some samples; the readout's weights and bias are given."""
        x_TB = inputs.transpose(0, 1)
        states: list[Any] = []
        features = []
        records: dict[str, Tensor] = {}
        values_TBK, events = bias, None
        for i, (name, layer) in enumerate(self.named_layers().items()):
            traces = [r.removeprefix(f"{name}/") for r in record if r.startswith(f"{name}/")]
            is_feature = name in weights and "features" in record
            wanted = [*traces, "rate"] if is_feature else traces
            before = None if state is None else state[i]
            waiting = None
            if name in self.delays:
                before, waiting = (None, None) if before is None else before
                line = cast("DelayLine", self.delays[name])
                x_TB, waiting = line(to_rows(x_TB), waiting, dt_ms)
                events = None
            out: LayerOutput = layer(x_TB, before, dt_ms, wanted, events)
            if "inputs" in traces:  # without those before the sequence, which synapses may need
                out.traces["inputs"] = x_TB[-inputs.shape[1] :]
            x_TB = out.spikes
            if self.dropout and self.training:
                x_TB = F.dropout(x_TB, self.dropout)
            events = pack_events(to_rows(x_TB))
            states.append(out.state if waiting is None else (out.state, waiting))
            records |= {f"{name}/{trace}": out.traces[trace] for trace in traces}
            if name in weights:
                rows = to_rows(weights[name].unflatten(1, layer.shape), lead=1)
                values_TBK = values_TBK + read_out(to_rows(x_TB), rows.to(x_TB.dtype), events)
                if is_feature:
                    rate = out.traces["rate"] if lengths is None else _own_rate(out.spikes, lengths)
                    features.append(pooled(rate, self.readout_grid))
        if self.readout_tau_ms is not None:
            decay = math.exp(-dt_ms / self.readout_tau_ms)
            before = None if state is None else state[-1]
            values_TBK = exponential_trace((1 - decay) * values_TBK, before, decay=decay)
            states.append(values_TBK[-1].clone())
        if "features" in record:
            records["features"] = torch.cat(features, -1)
        return ModelOutput(values_TBK.transpose(0, 1), tuple(states), records)

    def _readout_in_use(self) -> tuple[dict[str, Tensor], Tensor]:
        """`readout_weights`, in the chip's resolution if the network computes in its integers."""
        weights, bias = self.readout_weights()
        if self.fixed_point is None:
            return weights, bias
        bits = self.fixed_point.weight_bits
        return {name: deployed_weight(w, bits) for name, w in weights.items()}, bias

    def layer_graph(self) -> LayerGraph:
        """Layers and readout as they are now, see `models/export.py`.

        ExportError for what has no form on a chip.
        """
        weights, bias = self.readout_weights()
        lines = cast("dict[str, DelayLine]", dict(self.delays.items()))
        delays_ms = {name: line.channel_delays_ms() for name, line in lines.items()}
        layers = self.named_layers()
        return spiking_graph(
            self.inputs, layers, weights, bias, delays_ms, readout_tau_ms=self.readout_tau_ms
        )

    def readout_weights(self) -> tuple[dict[str, Tensor], Tensor]:
        """The readout as plain synapses: `[K, neurons]` of each layer it sees, and a bias `[K]`."""
        weight, bias = self.readout.linear()
        layers = self.named_layers()
        shapes = {name: layers[name].shape for name in self.readout_layers}
        grid = self.readout_grid
        widths = [feature_count(shape, grid) for shape in shapes.values()]
        parts = zip(shapes.items(), weight.split(widths, 1), strict=True)
        return {name: unpooled(part, shape, grid) for (name, shape), part in parts}, bias


def _joined(name: str, parts: Sequence[Tensor]) -> Tensor:
    """A record of all samples, from those of some of them."""
    trace = name.rpartition("/")[2]
    if trace == "gamma":  # of the layer, not of samples
        return parts[0]
    if trace == "features" or trace.endswith("rate"):  # `[B, ...]`
        return torch.cat([*parts])
    if all(is_constant(part) for part in parts):  # held frames
        return torch.cat([part[0] for part in parts]).expand(len(parts[0]), -1, *parts[0].shape[2:])
    return torch.cat([*parts], 1)


def _own_rate(spikes_TB: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over the steps of each sequence without padding `[B, ...]`, without gradient."""
    steps = torch.arange(len(spikes_TB), device=spikes_TB.device)
    own_TB = (steps[:, None] < lengths_B).to(spikes_TB.dtype)
    summed = torch.einsum("tb...,tb->b...", spikes_TB.detach(), own_TB)
    return summed / lengths_B.clamp_min(1).view(-1, *[1] * (summed.ndim - 1))
