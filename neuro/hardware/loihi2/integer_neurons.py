"""Neurons and accumulators of an integer network over a whole sequence, for the engine.

Shapes: T steps, B samples, N neurons of a layer as rows, K accumulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuro.hardware.loihi2.integer import (
    ACTIVATION_SHIFT,
    DECAY_BITS,
    DECAY_UNITY,
    STATE_LIMIT,
    Decay,
    IntegerDualLIF,
    IntegerLayer,
)
from neuro.hardware.loihi2.synapse_groups import SynapseGroup
from neuro.layers.layout import spread
from neuro.ops.integer_lif import (
    IntegerDualLIFState,
    IntegerLIFState,
    integer_dual_lif,
    integer_lif,
)
from neuro.ops.integer_synapses import synaptic_sums

State = IntegerLIFState | IntegerDualLIFState


class Simulated(NamedTuple):
    """Spikes `[T, B, N]`, changes of v `[B, N]`, and v `[T, B, N]` of compartments if recorded."""

    spikes: Tensor
    changes: Tensor
    membranes: tuple[Tensor, ...]


def simulate(
    layer: IntegerLayer, sums: list[Tensor], recurrent: Sequence[SynapseGroup], record: bool
) -> Simulated:
    """Simulate a layer from zero states.

    sums: `[T, B, N]` of each compartment, from other layers. recurrent: groups of the layer's
    synapses to itself, whose members are its compartments.
    """
    if not recurrent:
        return _neurons(layer, sums, None, record)[0]
    # The sums of a step depend on the spikes of the step before, so steps run one by one.
    steps: list[Simulated] = []
    changes = torch.zeros(sums[0].shape[1:], dtype=torch.int32)
    state: State | None = None
    for t in range(len(sums[0])):
        arriving = [x[t : t + 1] for x in sums]
        if steps:
            for group in recurrent:
                found = synaptic_sums(steps[-1].spikes[0], group.packed, graded=False)
                for member, x in zip(group.members, found, strict=True):
                    shift = layer.recurrent_synapses[member].exponent
                    arriving[member] = arriving[member] + (x << shift)
        before = state
        step, state = _neurons(layer, arriving, state, record)
        if before is None:
            changes += step.changes  # all count at the first step
        else:
            for old, new in zip(_membranes(before), _membranes(state), strict=True):
                changes += old != new
        steps.append(step)
    membranes = zip(*(step.membranes for step in steps), strict=True)
    return Simulated(
        torch.cat([step.spikes for step in steps]),
        changes,
        tuple(torch.cat(v) for v in membranes),
    )


def accumulate(sums_TBK: Tensor, dv: int | None) -> tuple[Tensor, int]:
    """Values of the readout's accumulators `[T, B, K]`, int32, and how often one has changed.

    dv: decay register of leaky accumulators, saturate(decay(v) + (sum << 6)); None: the sums of
    each step, of which those that are not zero are changes. All count at the first step.
    """
    if dv is None:
        return sums_TBK, sums_TBK[0].numel() + int(sums_TBK[1:].count_nonzero())
    v = torch.zeros_like(sums_TBK[0], dtype=torch.int64)
    held = []
    for sums in sums_TBK.long():
        left = v.sign() * (v.abs() * (DECAY_UNITY - dv) >> DECAY_BITS)
        v = (left + (sums << ACTIVATION_SHIFT)).clamp(1 - STATE_LIMIT, STATE_LIMIT - 1)
        held.append(v)
    held_TBK = torch.stack(held).int()
    return held_TBK, v.numel() + int((held_TBK[1:] != held_TBK[:-1]).sum())


def _neurons(
    layer: IntegerLayer, sums: list[Tensor], state: State | None, record: bool
) -> tuple[Simulated, State]:
    """Neurons without recurrence from a given state, and the state after them."""
    if isinstance(layer, IntegerDualLIF):
        assert not isinstance(state, IntegerLIFState)
        gamma = None if layer.gamma is None else spread(torch.from_numpy(layer.gamma), layer.shape)
        fast, slow = sums
        dual = integer_dual_lif(
            fast,
            slow,
            state,
            dv_fast=layer.dv_fast,
            dv_slow=layer.dv_slow,
            vth=layer.vth,
            gamma=gamma,
            merge=layer.merge,
            reset=layer.reset,
            record_membranes=record,
        )
        recorded = dual.fast_membrane, dual.slow_membrane
        membranes = tuple(v for v in recorded if v is not None)
        return Simulated(dual.spikes, dual.changes, membranes), dual.state
    assert not isinstance(state, IntegerDualLIFState)
    bias = None if layer.bias is None else spread(torch.from_numpy(layer.bias), layer.shape)
    (only,) = sums
    out = integer_lif(
        only,
        state,
        du=_decay(layer.du, layer),
        dv=_decay(layer.dv, layer),
        vth=layer.vth,
        bias=bias,
        reset=layer.reset,
        record_membrane=record,
    )
    membranes = () if out.membrane is None else (out.membrane,)
    return Simulated(out.spikes, out.changes, membranes), out.state


def _decay(register: Decay, layer: IntegerLayer) -> int | Tensor:
    """A decay register, or one for each neuron of a row."""
    if isinstance(register, int):
        return register
    return spread(torch.from_numpy(register), layer.shape)


def _membranes(state: State) -> tuple[Tensor, ...]:
    return tuple(state) if isinstance(state, IntegerDualLIFState) else (state.v,)
