"""Recurrent spiking networks of dense layers, for sequences of vectors or of events."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Annotated, Literal

from annotated_types import Gt, Interval, MinLen

from neuro.data.base import TaskSpec
from neuro.layers.delays import DelayKind, Delays
from neuro.layers.readout import ReadoutKind
from neuro.layers.spiking import Neuron
from neuro.layers.synapse import AnySynapse, dense, orthogonal
from neuro.models.inputs import check_sequences
from neuro.models.spiking import SpikingNetwork, Width


class RSNN(SpikingNetwork):
    """Dense layers `hidden1..n` of `neuron`, and a linear readout of their spikes.

    - `recurrent`: each layer gets its own spikes of the step before, through orthogonal weights
    - `delays_ms`: inputs of every layer arrive up to this much later, by delays of `delay_kind`:
      drawn for each channel, or learned for each channel (axonal) or each synapse (synaptic)
    - `delay_width`: standard deviation in steps of the kernel of a learned delay in training
    - `dropout`: fraction of a layer's spikes that the next layer and the readout miss in training;
      the others count more
    - `readout_tau_ms`: see `SpikingNetwork`
    - `readout_layers`: layers whose spikes are the readout's input
    """

    def __init__(
        self,
        spec: TaskSpec,
        neuron: Neuron,
        hidden: Annotated[tuple[Width, ...], MinLen(1)] = (128,),
        recurrent: bool = True,
        delays_ms: Annotated[float, Gt(0)] | None = None,
        delay_kind: DelayKind = "drawn",
        delay_width: Annotated[float, Interval(gt=0, le=1e6)] = 2.0,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        readout: ReadoutKind = "linear",
        readout_tau_ms: Annotated[float, Gt(0)] | None = 20.0,
        readout_layers: tuple[str, ...] | Literal["all"] = "all",
    ):
        super().__init__(spec.inputs)
        check_sequences(spec, time_step=True)
        self.neuron = neuron
        self.readout_tau_ms = readout_tau_ms
        self.dropout = dropout
        if delays_ms is None and delay_kind != "drawn":
            raise ValueError(f"delay_kind: got {delay_kind}; give the longest delay (delays_ms)")
        delays = None
        if delays_ms is not None:
            delays = Delays(delay_kind, delays_ms, _shortest_step(spec, delays_ms), delay_width)
            if delay_kind == "synaptic":
                _check_one_step(spec)
        inputs = prod(spec.inputs.shape)
        for number, units in enumerate(hidden, 1):
            name = f"hidden{number}"
            self.layers[name] = neuron.layer(
                partial(_synapse, inputs, units, delays),
                (units,),
                None,
                partial(orthogonal, units) if recurrent else None,
            )
            if delays is not None:
                self.delays[name] = delays.line(inputs)
            inputs = units
        self._read_out(readout, readout_layers, spec.outputs)


def _synapse(inputs: int, units: int, delays: Delays | None) -> AnySynapse:
    made = dense(inputs, units)
    return made if delays is None else delays.synapse(made)


def _check_one_step(spec: TaskSpec) -> None:
    """ValueError for tasks of several time steps, since positions are numbers of steps."""
    if len({dt_ms for _, dt_ms in spec.timings}) > 1:
        raise ValueError(
            f"delay_kind: got synaptic; task '{spec.task}' has several time steps "
            f"({spec.described_timings}). Use axonal or drawn, or data of one time step"
        )


def _shortest_step(spec: TaskSpec, delays_ms: float) -> float:
    """The shortest time step of the task. ValueError for delays beyond its sequences."""
    for steps, dt_ms in spec.timings:
        assert dt_ms is not None
        if round(delays_ms / dt_ms) >= steps:
            raise ValueError(
                f"delays_ms: got {delays_ms:g}; sequences of task '{spec.task}' take "
                f"{steps * dt_ms:g} ms ({spec.described_timings}). Give less, or null"
            )
    return min(dt_ms for _, dt_ms in spec.timings if dt_ms is not None)
