"""Spiking convolutional networks for frames and 2-D events, with exchangeable neurons.

Convolutions, dense layer and readout are the same for LT-Gate, its baselines and `model=scnn`, so
that comparisons are about neurons, learning rules and consolidation only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from annotated_types import Gt, MinLen

from neuro.data.base import TaskSpec
from neuro.layers.readout import ReadoutKind
from neuro.layers.spiking import Neuron, SpikingLayer
from neuro.layers.synapse import (
    AnySynapse,
    Dense,
    Synapse,
    WrappedSynapse,
    convolution,
    dense,
    orthogonal,
)
from neuro.models.consolidation import Consolidation
from neuro.models.inputs import check_sequences
from neuro.models.spiking import SpikingNetwork, Width
from neuro.ops.fixed_point import FixedPoint


class SpikingCNN(SpikingNetwork):
    """Convolutions `conv1..n`, a dense layer `dense`, and a linear readout of their spikes.

    - `neuron`: makes the spiking layers
    - `consolidation`: protects what they have learned after each phase
    - `recurrent`: the dense layer gets its own spikes of the step before, through orthogonal
      weights, which no consolidation protects
    - `readout_tau_ms`: see `SpikingNetwork`
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
        recurrent: bool = False,
        consolidation: Consolidation | None = None,
        readout: ReadoutKind = "linear",
        readout_tau_ms: Annotated[float, Gt(0)] | None = None,
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
        readout_grid: Width = 4,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__(spec.inputs)
        check_sequences(spec, time_step=True)
        self.neuron = neuron
        self.consolidation = consolidation
        self.fixed_point = fixed_point
        self.readout_tau_ms = readout_tau_ms
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
        inputs, height, width = spec.inputs.shape
        for i, (outputs, stride) in enumerate(zip(channels, strides, strict=True), 1):
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
            shape = (outputs, height, width)
            self.layers[f"conv{i}"] = self._layer(
                partial(convolution, inputs, outputs, stride), shape
            )
            inputs = outputs
        units = inputs * height * width
        self.layers["dense"] = self._layer(
            partial(dense, units, dense_units),
            (dense_units,),
            partial(orthogonal, dense_units) if recurrent else None,
        )
        self.readout_grid = readout_grid
        self._read_out(readout, readout_layers, spec.outputs)
        if consolidation is not None:
            consolidation.prepare(self, self.named_layers())

    def _layer(
        self,
        synapse: Callable[[], Synapse],
        shape: tuple[int, ...],
        recurrent: Callable[[], Dense] | None = None,
    ) -> SpikingLayer:
        """A spiking layer; `synapse()` makes a new map from its inputs to `shape`."""
        method = self.consolidation

        def wrapped() -> AnySynapse:
            return synapse() if method is None else method.wrap(synapse())

        # neurons that cannot be recurrent need no argument for it
        own = () if recurrent is None else (recurrent,)
        layer = self.neuron.layer(wrapped, shape, self.fixed_point, *own)
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
