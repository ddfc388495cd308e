"""Neurons with a fast and a slow compartment, weighted by a gate (LT-Gate, arXiv 2510.12843).

The equations are in `ops/dual_lif.py`. The objective selects the learning rule: the paper's local
rule (`learning/rules`) or surrogate gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.config.types import Positive
from neuro.layers.gate import DEFAULT_GATING, Gate, Gating, VarianceGate
from neuro.layers.layout import spread, to_maps, to_rows
from neuro.layers.spiking import (
    LayerOutput,
    Milliseconds,
    Neuron,
    SpikingLayer,
    mean_rate,
    packed,
    select_traces,
)
from neuro.layers.synapse import AnySynapse, Dense
from neuro.ops.dual_lif import DualLIFOutput, DualLIFState, Merge, dual_lif
from neuro.ops.events import Events
from neuro.ops.fixed_point import FixedPoint, decay_register
from neuro.ops.fixed_point_lif import FixedPointDualLIFOutput, fixed_point_dual_lif
from neuro.ops.lif import Reset
from neuro.ops.neurons import Dynamics, NeuronState, neurons
from neuro.ops.surrogate import DEFAULT_SURROGATE, Surrogate

#: traces of one compartment's spikes
BRANCH_SPIKES = ("fast_spikes", "slow_spikes")
PACKED_BRANCHES = tuple(f"packed_{name}" for name in BRANCH_SPIKES)


@dataclass(frozen=True)
class DualTimescaleNeuron(Neuron):
    """Two compartments; the neuron spikes by their gated sum, or if either fires (`merge`)."""

    tau_fast_ms: Milliseconds = 5.0
    tau_slow_ms: Milliseconds = 100.0
    threshold: Positive = 0.5
    merge: Merge = "gate"
    reset: Reset = "subtract"
    gate: Gating = DEFAULT_GATING
    surrogate: Surrogate = DEFAULT_SURROGATE

    def layer(
        self,
        synapse: Callable[[], AnySynapse],
        shape: tuple[int, ...],
        fixed_point: FixedPoint | None,
        recurrent: Callable[[], Dense] | None = None,
    ) -> DualTimescaleLayer:
        gate = self.gate.make(shape[0])
        layer = DualTimescaleLayer(synapse(), synapse(), gate, shape, self, fixed_point)
        if recurrent is not None:
            if fixed_point is not None:
                raise ValueError(
                    "fixed_point: recurrent neurons have no integer form; use recurrent=false"
                )
            if self.merge != "gate":
                raise ValueError("merge: recurrent neurons need merge=gate; got merge=or")
            layer.recurrent = nn.ModuleDict({"fast": recurrent(), "slow": recurrent()})
        return layer


class DualTimescaleLayer(SpikingLayer):
    """A fast and a slow synapse, and dual-timescale neurons.

    `gate` is used by merge "gate" only.
    """

    principal: Tensor

    trace_names = (
        "inputs",
        "spikes",
        "rate",
        "fast_spikes",
        "slow_spikes",
        "fast_rate",
        "slow_rate",
        "fast_membrane",
        "slow_membrane",
        "gamma",
        # int64 `[T, B, ceil(N / 64)]`, a 32nd of the memory, where spikes are packed (CPU, float32)
        "packed_inputs",
        "packed_fast_spikes",
        "packed_slow_spikes",
    )

    def __init__(
        self,
        fast: AnySynapse,
        slow: AnySynapse,
        gate: Gate,
        shape: tuple[int, ...],
        neuron: DualTimescaleNeuron,
        fixed_point: FixedPoint | None = None,
    ):
        super().__init__(shape, neuron.threshold, fixed_point)
        self.neuron = neuron
        self.fast = fast
        self.slow = slow
        self.gate = gate
        self.recurrent: nn.ModuleDict | None = None  # from the spikes to both compartments
        # principal directions `[2, C]` of the branches' activity, tracked by the local rule
        self.register_buffer("principal", F.normalize(torch.randn(2, shape[0]), dim=1))

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        return {"fast": self.fast, "slow": self.slow}

    @property
    def recurrent_synapses(self) -> dict[str, Dense]:
        found = {} if self.recurrent is None else dict(self.recurrent.items())
        return cast("dict[str, Dense]", found)

    def initial_state(self, batch_size: int) -> DualLIFState | NeuronState:
        zeros = self.threshold.new_zeros(batch_size, *self.shape)
        if self.recurrent is not None:
            return NeuronState(zeros, zeros.clone(), zeros.clone())
        return DualLIFState(zeros, zeros.clone())

    def statistics(self) -> dict[str, Tensor]:
        """gamma, and the variances of a variance gate."""
        found = {"gamma": self.gate.gamma().detach()}
        if isinstance(self.gate, VarianceGate):
            found["fast_variance"] = self.gate.fast_variance
            found["slow_variance"] = self.gate.slow_variance
        return found

    @property
    def plastic_buffers(self) -> dict[str, str]:
        if self.neuron.merge != "gate" or not isinstance(self.gate, VarianceGate):
            return {}
        remedy = "add the term gate_variance, or choose another model.neuron.gate.kind"
        return dict.fromkeys(("gate.fast_variance", "gate.slow_variance"), remedy)

    def forward(
        self,
        x_TB: Tensor,
        state: Any,
        dt_ms: float,
        traces: Collection[str] = (),
        events: Events | None = None,
    ) -> LayerOutput:
        if self.recurrent is not None:
            return self._recurrent(x_TB, state, dt_ms, traces, events)
        gamma = self.gate.gamma()  # also a trace, so it is computed for merge "or" as well
        spread_gamma = spread(gamma, self.shape) if self.neuron.merge == "gate" else None
        if state is not None:
            state = DualLIFState(*(to_rows(v, lead=1) for v in state))
        out: DualLIFOutput | FixedPointDualLIFOutput
        if self.fixed_point is None:
            fast, slow = self._currents(x_TB, events)
            out = dual_lif(
                fast,
                slow,
                state,
                decay_fast=math.exp(-dt_ms / self.neuron.tau_fast_ms),
                decay_slow=math.exp(-dt_ms / self.neuron.tau_slow_ms),
                threshold=self.threshold,
                gamma=spread_gamma,
                merge=self.neuron.merge,
                reset=self.neuron.reset,
                surrogate=self.neuron.surrogate,
                record_rate="rate" in traces,
                record_spikes=_recorded_spikes(traces),
                record_membranes=not {"fast_membrane", "slow_membrane"}.isdisjoint(traces),
            )
        else:
            (fast, slow), unit, vth = self._sums(x_TB, events, self.fixed_point)
            out = fixed_point_dual_lif(
                fast,
                slow,
                state,
                unit=unit,
                dv_fast=decay_register(self.neuron.tau_fast_ms, dt_ms),
                dv_slow=decay_register(self.neuron.tau_slow_ms, dt_ms),
                vth=vth,
                gamma=spread_gamma,
                merge=self.neuron.merge,
                reset=self.neuron.reset,
                surrogate=self.neuron.surrogate,
            )
        rows = out._asdict()  # the names of its fields are those of the traces
        if self.fixed_point is not None:  # whose kernel does not count spikes
            rows["rate"] = mean_rate(out.spikes, traces)
        state = DualLIFState(*(to_maps(v, self.shape) for v in rows.pop("state")))
        maps = {
            name: x if x is None or x.dtype == torch.int64 else to_maps(x, self.shape)
            for name, x in rows.items()
        }
        available = {**maps, "inputs": x_TB, "gamma": gamma}
        available |= _packed(available, events, traces)
        return LayerOutput(to_maps(out.spikes, self.shape), state, select_traces(available, traces))

    def _recurrent(
        self,
        x_TB: Tensor,
        state: NeuronState | None,
        dt_ms: float,
        traces: Collection[str],
        events: Events | None,
    ) -> LayerOutput:
        """`forward` with synapses from the spikes of the step before to both compartments."""
        gamma = self.gate.gamma()
        fast, slow = self._currents(x_TB, events)
        decay_fast = math.exp(-dt_ms / self.neuron.tau_fast_ms)
        decay_slow = math.exp(-dt_ms / self.neuron.tau_slow_ms)
        weights = torch.cat([one.weight for one in self.recurrent_synapses.values()])
        settings: dict[str, Any] = {
            "threshold": self.threshold,
            "reset": self.neuron.reset,
            "surrogate": self.neuron.surrogate,
        }
        out = neurons(
            fast,
            state,
            dynamics=Dynamics.dual(decay_fast, decay_slow, gamma),
            recurrent_MN=weights,
            slow_current_TBN=slow,
            **settings,
        )
        available: dict[str, Tensor | None] = {
            "inputs": x_TB,
            "spikes": out.spikes_TBN,
            "gamma": gamma,
        }
        if not available.keys() >= set(traces):
            # With the recurrent currents as inputs, neurons without recurrence do the same.
            with torch.no_grad():
                first = torch.zeros_like(fast[:1]) if state is None else state.s[None]
                before = torch.cat([first.to(fast), out.spikes_TBN[:-1]])
                sent = F.linear(before, weights.to(fast)).chunk(2, -1)
                start = None if state is None else DualLIFState(state.v, state.w)
                rows = dual_lif(
                    fast + sent[0],
                    slow + sent[1],
                    start,
                    decay_fast=decay_fast,
                    decay_slow=decay_slow,
                    gamma=gamma,
                    record_rate=True,
                    record_spikes=True,
                    record_membranes=True,
                    **settings,
                )._asdict()
            available = {**rows, **available}
            available |= _packed(available, events, traces)
        return LayerOutput(out.spikes_TBN, out.state, select_traces(available, traces))


def _recorded_spikes(names: Collection[str]) -> bool | Literal["packed"]:
    """How the branch spikes have to be recorded for the requested traces."""
    if not set(BRANCH_SPIKES).isdisjoint(names):
        return True
    return False if set(PACKED_BRANCHES).isdisjoint(names) else "packed"


def _packed(
    traces: Mapping[str, Tensor | None], events: Events | None, names: Collection[str]
) -> dict[str, Tensor | None]:
    """The packed ones of the requested traces."""
    found = {n: packed(traces[n.removeprefix("packed_")]) for n in names if n in PACKED_BRANCHES}
    if "packed_inputs" in names:
        found["packed_inputs"] = packed(traces["inputs"], events)
    return found
