"""The spiking convolutional network of LT-Gate and its baselines, with exchangeable neurons.

Convolutions, dense layer and readout are the same for all, so that comparisons are about neurons,
learning rules and consolidation only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Gt, MinLen
from torch import Tensor, nn

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError, nearest
from neuro.layers.layout import to_rows
from neuro.layers.readout import ReadoutKind, make_readout
from neuro.layers.spiking import LayerOutput, Neuron, SpikingLayer
from neuro.layers.synapse import (
    AnySynapse,
    Synapse,
    WrappedSynapse,
    convolution,
    dense,
    deployed_weight,
)
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Deployable, Layered, Observable, Plastic, Spiking
from neuro.models.consolidation import Consolidation
from neuro.models.export import spiking_graph
from neuro.models.graph import LayerGraph
from neuro.models.inputs import check_sequences
from neuro.ops.events import pack_events
from neuro.ops.fixed_point import FixedPoint
from neuro.ops.readout import read_out

Width = Annotated[int, Gt(0)]


class SpikingCNN(CoreModel, Layered, Spiking, Deployable, Plastic, Observable):
    """Convolutions `conv1..n`, a dense layer `dense`, and a linear readout of their spikes.

    - `neuron`: makes the spiking layers
    - `consolidation`: protects what they have learned after each phase
    - `readout_layers`: layers whose spikes are the readout's input; maps are pooled to at most
      `readout_grid` x `readout_grid`
    - `fixed_point`: the forward pass computes in the chip's integers; `hardware/loihi2/quantize.py`
      makes the same integers from the same weights, so that the deployed network is identical

    Records: `<layer>/<trace>` for the layer's traces, and `features`, the readout's inputs averaged
    over time `[B, features]`, which have no gradient, like all rates.
    """

    def __init__(
        self,
        spec: TaskSpec,
        neuron: Neuron,
        channels: Annotated[tuple[Width, ...], MinLen(1)] = (32, 32, 64),
        strides: Annotated[tuple[Width, ...], MinLen(1)] = (1, 2, 2),
        dense_units: Width = 256,
        consolidation: Consolidation | None = None,
        readout: ReadoutKind = "linear",
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
        readout_grid: Width = 4,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__()
        check_sequences(spec, time_step=True)
        self.neuron = neuron
        self.consolidation = consolidation
        self.fixed_point = fixed_point
        if len(channels) != len(strides):
            raise ValueError(
                f"channels has {len(channels)} entries and strides {len(strides)}; "
                "give one of each per convolution"
            )
        if len(spec.inputs.shape) != 3:
            raise ValueError(
                f"needs frames of shape [channels, height, width]; task '{spec.task}' has "
                f"{list(spec.inputs.shape)}"
            )
        self.input_shape = tuple(spec.inputs.shape)
        self.layers = nn.ModuleDict()
        inputs, height, width = spec.inputs.shape
        for i, (outputs, stride) in enumerate(zip(channels, strides, strict=True), 1):
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
            shape = (outputs, height, width)
            self.layers[f"conv{i}"] = self._layer(
                partial(convolution, inputs, outputs, stride), shape
            )
            inputs = outputs
        units = inputs * height * width
        self.layers["dense"] = self._layer(partial(dense, units, dense_units), (dense_units,))
        layers = self.named_layers()
        next(iter(layers.values())).sees_frames = True
        names = tuple(layers) if readout_layers == "all" else tuple(dict.fromkeys(readout_layers))
        if not names:
            raise ValueError(f"readout_layers is empty; give `all` or some of {', '.join(layers)}")
        for name in names:
            if name not in layers:
                raise ValueError(
                    f"readout_layers: there is no layer '{name}'. Layers: "
                    f"{', '.join(layers)}.{nearest(name, layers)}"
                )
        self.readout_layers = names
        self.readout_grid = readout_grid
        features = sum(self._feature_count(layers[name].shape) for name in names)
        self.readout = make_readout(readout, features, spec.outputs)
        if consolidation is not None:
            consolidation.prepare(self, layers)

    def _layer(self, synapse: Callable[[], Synapse], shape: tuple[int, ...]) -> SpikingLayer:
        """A spiking layer; `synapse()` makes a new map from its inputs to `shape`."""
        method = self.consolidation

        def wrapped() -> AnySynapse:
            return synapse() if method is None else method.wrap(synapse())

        layer = self.neuron.layer(wrapped, shape, self.fixed_point)
        compartments = layer.synapses
        if len(compartments) > 1 and any(
            isinstance(synapse, WrappedSynapse) for synapse in compartments.values()
        ):
            raise ValueError(
                f"consolidation: {type(method).__name__} needs neurons with one compartment; those "
                f"of {type(self.neuron).__name__} have {', '.join(compartments)}. Use "
                "model/neuron=lif, or consolidation=null"
            )
        return layer

    def named_layers(self) -> dict[str, SpikingLayer]:
        """The spiking layers by name, from the first to the last."""
        return cast("dict[str, SpikingLayer]", dict(self.layers.items()))

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        return tuple(layer.initial_state(batch_size) for layer in self.named_layers().values())

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
        return found | (self.consolidation.statistics(layers) if self.consolidation else {})

    def consolidate(self, batches: Iterable[Batch]) -> None:
        if self.consolidation is not None:
            self.consolidation.consolidate(self, self.named_layers(), batches)

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
    ) -> ModelOutput:
        assert dt_ms is not None, "refused by the constructor"
        self._check_records(record)
        x_TB = inputs.transpose(0, 1)
        states, features = [], []
        records: dict[str, Tensor] = {}
        weights, bias = self.readout_weights()
        if self.fixed_point is not None:
            bits = self.fixed_point.weight_bits
            weights = {name: deployed_weight(w, bits) for name, w in weights.items()}
        values_TBK, events = bias, None
        for i, (name, layer) in enumerate(self.named_layers().items()):
            traces = [r.removeprefix(f"{name}/") for r in record if r.startswith(f"{name}/")]
            is_feature = name in weights and "features" in record
            wanted = [*traces, "rate"] if is_feature else traces
            out: LayerOutput = layer(
                x_TB, None if state is None else state[i], dt_ms, wanted, events
            )
            x_TB = out.spikes
            events = pack_events(to_rows(x_TB))
            states.append(out.state)
            records |= {f"{name}/{trace}": out.traces[trace] for trace in traces}
            if name in weights:
                rows = to_rows(weights[name].unflatten(1, layer.shape), lead=1)
                values_TBK = values_TBK + read_out(to_rows(x_TB), rows.to(x_TB.dtype), events)
                if is_feature:
                    features.append(self._pool(out.traces["rate"]))
        if "features" in record:
            records["features"] = torch.cat(features, -1)
        return ModelOutput(values_TBK.transpose(0, 1), tuple(states), records)

    def layer_graph(self) -> LayerGraph:
        """Layers and readout as they are now, see `models/export.py`."""
        return spiking_graph(self.input_shape, self.named_layers(), *self.readout_weights())

    def readout_weights(self) -> tuple[dict[str, Tensor], Tensor]:
        """The readout as plain synapses: `[K, neurons]` for each layer it sees, and a bias `[K]`.

        Averaging maps and then weighting the averages is one linear map of the spikes.
        """
        weight, bias = self.readout.linear()
        layers = self.named_layers()
        widths = [self._feature_count(layers[name].shape) for name in self.readout_layers]
        parts = zip(self.readout_layers, weight.split(widths, 1), strict=True)
        return {name: self._unpool(part, layers[name].shape) for name, part in parts}, bias

    def _pool(self, maps: Tensor) -> Tensor:
        """Spikes or rates of a layer as features of the readout, `[N, ...]` to `[N, F]`."""
        if self._pools(maps.shape[1:]):
            maps = F.adaptive_avg_pool2d(maps, self.readout_grid)
        return maps.flatten(1)

    def _unpool(self, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Weights of a layer's features `[K, F]` as weights of its neurons `[K, neurons]`."""
        if not self._pools(shape):
            return weight
        channels, height, width = shape
        places = torch.eye(height * width, dtype=weight.dtype, device=weight.device)
        pooling = F.adaptive_avg_pool2d(places.view(-1, 1, height, width), self.readout_grid)
        return (weight.unflatten(1, (channels, -1)) @ pooling.flatten(1).T).flatten(1)

    def _pools(self, shape: Sequence[int]) -> bool:
        return len(shape) == 3 and max(shape[1:]) > self.readout_grid

    def _feature_count(self, shape: tuple[int, ...]) -> int:
        return self._pool(torch.zeros(1, *shape)).shape[1]

    def _check_records(self, record: Sequence[str]) -> None:
        for name in record:
            if name not in self.recordable:
                raise ConfigError(
                    f"{type(self).__name__} records no '{name}'. It can record: "
                    f"{', '.join(self.recordable)}.{nearest(name, self.recordable)}"
                )
