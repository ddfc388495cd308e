"""Spiking layers over whole sequences: synapses, then neurons, in one kernel call each.

A layer takes `[T, B, ...]` and its state, and returns spikes, the new state and the traces that
were asked for. Time constants are in milliseconds; the step comes with the data.
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
from neuro.layers.synapse import AnySynapse, fold_time
from neuro.ops.dual_lif import DualLIFState, Merge, dual_lif
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

    def __init__(self, threshold: float, reset: Reset, surrogate: Surrogate):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))
        self.reset = reset
        self.surrogate = surrogate

    def rest(self, batch_size: int) -> Any:
        """The state at rest for `batch_size` sequences."""
        raise NotImplementedError

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        """What drives the neurons, by compartment; `input` where there is only one."""
        raise NotImplementedError


class LIFLayer(SpikingLayer):
    """One synapse, one compartment: u[t] = exp(-dt/tau) u[t-1] + I[t], a spike at u >= theta."""

    trace_names = ("inputs", "spikes", "membrane")

    def __init__(
        self,
        synapse: AnySynapse,
        shape: tuple[int, ...],
        *,
        tau_ms: float,
        threshold: float,
        reset: Reset,
        surrogate: Surrogate,
    ):
        super().__init__(threshold, reset, surrogate)
        self.synapse = synapse
        self.shape = shape
        self.tau_ms = tau_ms

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        return {"input": self.synapse}

    def rest(self, batch_size: int) -> LIFState:
        return LIFState(self.threshold.new_zeros(batch_size, *self.shape))

    def forward(
        self, x_TB: Tensor, state: LIFState | None, dt_ms: float, traces: Collection[str] = ()
    ) -> LayerOutput:
        out = lif(
            to_rows(fold_time(self.synapse, x_TB)),
            None if state is None else to_rows(state.u, lead=1),
            decay=math.exp(-dt_ms / self.tau_ms),
            threshold=self.threshold,
            reset=self.reset,
            surrogate=self.surrogate,
            record_membrane="membrane" in traces,
        )
        spikes_TB = to_maps(out.spikes_TBN, self.shape)
        available = {"inputs": x_TB, "spikes": spikes_TB}
        if out.membrane_TBN is not None:
            available["membrane"] = to_maps(out.membrane_TBN, self.shape)
        return LayerOutput(
            spikes_TB, LIFState(to_maps(out.u_BN, self.shape)), _chosen(available, traces)
        )


class DualTimescaleLayer(SpikingLayer):
    """Two synapses, two compartments, one spike train (LT-Gate, arXiv 2510.12843).

    `gate` is used by merge "gate" alone; with "or" either compartment makes the neuron fire.
    """

    principal: Tensor

    trace_names = (
        "inputs", "spikes", "fast_spikes", "slow_spikes", "fast_rate", "slow_rate",
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
    ):
        super().__init__(threshold, reset, surrogate)
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
        self, x_TB: Tensor, state: DualLIFState | None, dt_ms: float, traces: Collection[str] = ()
    ) -> LayerOutput:
        gamma = self.gate.gamma()
        out = dual_lif(
            to_rows(fold_time(self.fast, x_TB)),
            to_rows(fold_time(self.slow, x_TB)),
            None if state is None else DualLIFState(*(to_rows(u, lead=1) for u in state)),
            decay_fast=math.exp(-dt_ms / self.tau_fast_ms),
            decay_slow=math.exp(-dt_ms / self.tau_slow_ms),
            threshold=self.threshold,
            gamma=spread(gamma, self.shape) if self.merge == "gate" else None,
            merge=self.merge,
            reset=self.reset,
            surrogate=self.surrogate,
            record_spikes=not {"fast_spikes", "slow_spikes"}.isdisjoint(traces),
            record_membranes=not {"fast_membrane", "slow_membrane"}.isdisjoint(traces),
        )
        rows = out._asdict()
        state = DualLIFState(*(to_maps(u, self.shape) for u in rows.pop("state")))
        maps = {k: None if v is None else to_maps(v, self.shape) for k, v in rows.items()}
        available = {**maps, "inputs": x_TB, "gamma": gamma}
        return LayerOutput(to_maps(out.spikes, self.shape), state, _chosen(available, traces))


def _chosen(available: Mapping[str, Tensor | None], names: Collection[str]) -> dict[str, Tensor]:
    """The traces that were asked for, which the kernel has therefore recorded."""
    return {name: trace for name in names if (trace := available[name]) is not None}
