"""Spiking layers over whole sequences: synapses, then neurons, in one kernel call each.

A layer takes `[T, B, ...]` and its state, and returns spikes, the new state and the traces that
were asked for. Who has packed its inputs (`ops/events.py`) hands the events on. Time constants are
in milliseconds; the step comes with the data. With a `fixed_point` the layer computes in the chip's
integers, to the last bit, and learns straight through their rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.gate import Gate
from neuro.layers.layout import spread, to_maps, to_rows
from neuro.layers.synapse import (
    AnySynapse,
    currents,
    stored_weight,
    weight_in_use,
    weighted,
)
from neuro.ops.dual_lif import DualLIFOutput, DualLIFState, Merge, dual_lif
from neuro.ops.events import Events
from neuro.ops.fixed_point import FixedPoint, decay_register, input_integers, layer_scale
from neuro.ops.fixed_point_lif import (
    FixedPointDualLIFOutput,
    fixed_point_dual_lif,
    fixed_point_lif,
)
from neuro.ops.lif import Reset, lif
from neuro.ops.surrogate import Surrogate


class LayerOutput(NamedTuple):
    """Spikes `[T, B, ...]`, the state after the last step, and traces by name."""

    spikes: Tensor
    state: Any
    traces: dict[str, Tensor]


class LIFState(NamedTuple):
    """Membrane `[B, ...]` after the reset."""

    u: Tensor


class SpikingLayer(nn.Module):
    """What all spiking layers share: a firing threshold, one for the layer."""

    threshold: Tensor
    shape: tuple[int, ...]  #: of the neurons, without the batch

    #: traces that a caller may ask for
    trace_names: tuple[str, ...] = ("inputs", "spikes")

    def __init__(
        self,
        threshold: float,
        reset: Reset,
        surrogate: Surrogate,
        fixed_point: FixedPoint | None,
    ):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))
        self.reset = reset
        self.surrogate = surrogate
        self.fixed_point = fixed_point
        self.sees_frames = False  #: inputs are real numbers, not spikes; the network says so

    def rest(self, batch_size: int) -> Any:
        """The state at rest for `batch_size` sequences."""
        raise NotImplementedError

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        """What drives the neurons, by compartment; `input` where there is only one."""
        raise NotImplementedError

    def _currents(self, x_TB: Tensor, events: Events | None) -> list[Tensor]:
        """What each compartment gets, as rows `[T, B, N]`."""
        return currents(list(self.synapses.values()), x_TB, events)

    def _sums(
        self, x_TB: Tensor, events: Events | None, fixed_point: FixedPoint
    ) -> tuple[list[Tensor], Tensor, int]:
        """The same on the chip: integer sums, the real value of 1 among them, and vth.

        Products of integers are exact in float32 (and TF32), their sums below 2^24; other
        precisions would round them.
        """
        in_use = [weight_in_use(synapse) for synapse in self.synapses.values()]
        bits = fixed_point.weight_bits
        unit = fixed_point.input_unit if self.sees_frames else 1
        scale = layer_scale([w for _, w in in_use], self.threshold, bits=bits, unit=unit)
        with torch.autocast(x_TB.device.type, enabled=False):
            x_TB = input_integers(x_TB, fixed_point) if self.sees_frames else x_TB
            stored = [(plain, stored_weight(w, scale.step, bits)) for plain, w in in_use]
            sums = weighted(stored, x_TB.float(), events)
        return sums, (scale.step / unit).float(), int(scale.vth)


class LIFLayer(SpikingLayer):
    """One synapse, one compartment: u[t] = exp(-dt/tau) u[t-1] + I[t], a spike at u >= theta."""

    trace_names = ("inputs", "spikes", "rate", "membrane")

    def __init__(
        self,
        synapse: AnySynapse,
        shape: tuple[int, ...],
        *,
        tau_ms: float,
        threshold: float,
        reset: Reset,
        surrogate: Surrogate,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__(threshold, reset, surrogate, fixed_point)
        self.synapse = synapse
        self.shape = shape
        self.tau_ms = tau_ms

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        return {"input": self.synapse}

    def rest(self, batch_size: int) -> LIFState:
        return LIFState(self.threshold.new_zeros(batch_size, *self.shape))

    def forward(
        self,
        x_TB: Tensor,
        state: LIFState | None,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        u0 = None if state is None else to_rows(state.u, lead=1)
        if self.fixed_point is None:
            (current,) = self._currents(x_TB, events)
            spikes, u, membrane, rate = lif(
                current,
                u0,
                decay=math.exp(-dt_ms / self.tau_ms),
                threshold=self.threshold,
                reset=self.reset,
                surrogate=self.surrogate,
                record_membrane="membrane" in traces,
                record_rate="rate" in traces,
            )
        else:
            (sums,), unit, vth = self._sums(x_TB, events, self.fixed_point)
            spikes, u, membrane = fixed_point_lif(
                sums,
                u0,
                unit=unit,
                dv=decay_register(self.tau_ms, dt_ms),
                vth=vth,
                reset=self.reset,
                surrogate=self.surrogate,
            )
            rate = _rate(spikes, traces)
        spikes_TB = to_maps(spikes, self.shape)
        available = {"inputs": x_TB, "spikes": spikes_TB}
        if rate is not None:
            available["rate"] = to_maps(rate, self.shape)
        if membrane is not None:
            available["membrane"] = to_maps(membrane, self.shape)
        return LayerOutput(spikes_TB, LIFState(to_maps(u, self.shape)), _chosen(available, traces))


class DualTimescaleLayer(SpikingLayer):
    """Two synapses, two compartments, one spike train (LT-Gate, arXiv 2510.12843).

    `gate` is used by merge "gate" alone; with "or" either compartment makes the neuron fire.
    """

    principal: Tensor

    trace_names = (
        "inputs", "spikes", "rate", "fast_spikes", "slow_spikes", "fast_rate", "slow_rate",
        "fast_membrane", "slow_membrane", "gamma",
    )  # fmt: skip

    def __init__(
        self,
        fast: AnySynapse,
        slow: AnySynapse,
        gate: Gate,
        shape: tuple[int, ...],
        *,
        tau_fast_ms: float,
        tau_slow_ms: float,
        threshold: float,
        merge: Merge,
        reset: Reset,
        surrogate: Surrogate,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__(threshold, reset, surrogate, fixed_point)
        self.fast = fast
        self.slow = slow
        self.gate = gate
        self.shape = shape
        self.tau_fast_ms = tau_fast_ms
        self.tau_slow_ms = tau_slow_ms
        self.merge = merge
        # unit vectors `[2, C]` that the local rule keeps for its fast and slow branch
        self.register_buffer("principal", F.normalize(torch.randn(2, shape[0]), dim=1))

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        return {"fast": self.fast, "slow": self.slow}

    def rest(self, batch_size: int) -> DualLIFState:
        zeros = self.threshold.new_zeros(batch_size, *self.shape)
        return DualLIFState(zeros, zeros.clone())

    def forward(
        self,
        x_TB: Tensor,
        state: DualLIFState | None,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        gamma = self.gate.gamma()
        spread_gamma = spread(gamma, self.shape) if self.merge == "gate" else None
        if state is not None:
            state = DualLIFState(*(to_rows(u, lead=1) for u in state))
        out: DualLIFOutput | FixedPointDualLIFOutput
        if self.fixed_point is None:
            fast, slow = self._currents(x_TB, events)
            out = dual_lif(
                fast,
                slow,
                state,
                decay_fast=math.exp(-dt_ms / self.tau_fast_ms),
                decay_slow=math.exp(-dt_ms / self.tau_slow_ms),
                threshold=self.threshold,
                gamma=spread_gamma,
                merge=self.merge,
                reset=self.reset,
                surrogate=self.surrogate,
                record_rate="rate" in traces,
                record_spikes=not {"fast_spikes", "slow_spikes"}.isdisjoint(traces),
                record_membranes=not {"fast_membrane", "slow_membrane"}.isdisjoint(traces),
            )
        else:
            (fast, slow), unit, vth = self._sums(x_TB, events, self.fixed_point)
            out = fixed_point_dual_lif(
                fast,
                slow,
                state,
                unit=unit,
                dv_fast=decay_register(self.tau_fast_ms, dt_ms),
                dv_slow=decay_register(self.tau_slow_ms, dt_ms),
                vth=vth,
                gamma=spread_gamma,
                merge=self.merge,
                reset=self.reset,
                surrogate=self.surrogate,
            )
        rows = out._asdict()
        if self.fixed_point is not None:
            rows["rate"] = _rate(out.spikes, traces)
        state = DualLIFState(*(to_maps(u, self.shape) for u in rows.pop("state")))
        maps = {k: None if v is None else to_maps(v, self.shape) for k, v in rows.items()}
        available = {**maps, "inputs": x_TB, "gamma": gamma}
        return LayerOutput(to_maps(out.spikes, self.shape), state, _chosen(available, traces))


def _rate(spikes_TBN: Tensor, traces: Collection[str]) -> Tensor | None:
    """Mean over time, without gradient, if it was asked for."""
    return spikes_TBN.detach().mean(0) if "rate" in traces else None


def _chosen(available: Mapping[str, Tensor | None], names: Collection[str]) -> dict[str, Tensor]:
    """The traces that were asked for, which the kernel has therefore recorded."""
    return {name: trace for name in names if (trace := available[name]) is not None}
