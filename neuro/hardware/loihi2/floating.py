"""Simulation of a layer graph in floating point, as a reference for quantization.

The graph of a model gives the results of the model (the tests compare them); a graph with rounded
parameters shows the effect of rounding alone, without integer arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.layers.layout import spread, to_maps, to_rows
from neuro.models.graph import (
    Conv2dNode,
    CubaLIFNode,
    DenseNode,
    DualLIFNode,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    NeuronNode,
    ReadoutNode,
    Shape,
    TimeConstant,
)
from neuro.ops.delays import delayed_currents
from neuro.ops.dual_lif import dual_lif
from neuro.ops.lif import lif
from neuro.ops.neurons import Dynamics, neurons
from neuro.ops.scan import exponential_trace


class FloatOutput(NamedTuple):
    """Scores `[B, T, K]`; recorded spikes `[T, B, ...]` and membranes by layer.

    Membrane potentials are those before the reset, `[T, B, compartments, ...]`.
    """

    values: Tensor
    spikes: dict[str, Tensor]
    membranes: dict[str, Tensor]


@torch.no_grad()
def run_graph(
    graph: LayerGraph,
    frames: Tensor,
    dt_ms: float,
    *,
    record_spikes: bool = False,
    membranes: Collection[str] = (),
) -> FloatOutput:
    """Simulate a layer graph on frames `[B, T, ...]`; a time stride of 0 means a constant frame.

    dt_ms: time step of the frames. membranes: layers whose membrane potentials are recorded.
    """
    outputs: dict[str, Tensor] = {}
    spikes: dict[str, Tensor] = {}
    traces: dict[str, Tensor] = {}
    scores = None
    for name, node in graph.nodes.items():
        if isinstance(node, InputNode):
            outputs[name] = frames.transpose(0, 1)
            continue
        if graph.is_recurrent(name):
            continue  # its neurons, which come later, use its weights
        arriving = []
        own: list[Tensor] = []  # weights from the layer to itself, by port
        for port in node.ports:
            sources = graph.sources(name, port)
            arriving.append(_sum([outputs[s] for s in sources if not graph.is_recurrent(s)]))
            own += [_weight(graph.nodes[s]) for s in sources if graph.is_recurrent(s)]
        if isinstance(node, NeuronNode):
            recurrent = torch.cat(own) if own else None
            outputs[name], membrane = _fire(node, arriving, recurrent, dt_ms, name in membranes)
            if record_spikes:
                spikes[name] = outputs[name]
            if membrane is not None:
                traces[name] = membrane
        elif isinstance(node, ReadoutNode):
            values = arriving[0] + torch.from_numpy(node.bias)
            if node.tau_ms is not None:
                decay = math.exp(-dt_ms / node.tau_ms)
                values = exponential_trace((1 - decay) * values, decay=decay)
            scores = values.transpose(0, 1)
        elif isinstance(node, DenseNode) and node.delays_ms is not None:
            outputs[name] = _delayed(node, arriving[0], dt_ms)
        else:
            outputs[name] = _fold(node, arriving[0])
    assert scores is not None
    return FloatOutput(scores, spikes, traces)


def _fire(
    node: NeuronNode,
    currents: list[Tensor],
    recurrent: Tensor | None,
    dt_ms: float,
    record: bool,
) -> tuple[Tensor, Tensor | None]:
    """Spikes of neurons, and their membrane potentials if recorded.

    recurrent: weights from their spikes `[ports * N, N]`, if there are any.
    """
    if isinstance(node, DualLIFNode):
        return _fire_dual(node, currents, recurrent, dt_ms, record)
    if isinstance(node, LIFNode) and isinstance(node.tau_ms, float | int) and recurrent is None:
        # the kernel of the models' layers, so that spikes are the same to the last bit
        single = lif(
            currents[0],
            decay=math.exp(-dt_ms / node.tau_ms),
            threshold=node.threshold,
            reset=node.reset,
            record_membrane=record,
        )
        membrane = single.membrane_TBN
        return single.spikes_TBN, None if membrane is None else membrane.unsqueeze(2)
    decay = _decay(node.tau_ms, node.shape, dt_ms)
    if isinstance(node, CubaLIFNode):
        of_current = _decay(node.tau_current_ms, node.shape, dt_ms)
        dynamics = Dynamics.current_based(of_current, decay)
    else:
        dynamics = Dynamics.leaky(decay)
    out = neurons(
        to_rows(currents[0]),
        dynamics=dynamics,
        threshold=node.threshold,
        recurrent_MN=recurrent,
        reset=node.reset,
        record_membrane=record,
    )
    membrane = None if out.membrane_TBN is None else to_maps(out.membrane_TBN, node.shape)
    spikes = to_maps(out.spikes_TBN, node.shape)
    return spikes, None if membrane is None else membrane.unsqueeze(2)


def _fire_dual(
    node: DualLIFNode,
    currents: list[Tensor],
    recurrent: Tensor | None,
    dt_ms: float,
    record: bool,
) -> tuple[Tensor, Tensor | None]:
    fast, slow = currents
    decay_fast, decay_slow = (
        math.exp(-dt_ms / tau) for tau in (node.tau_fast_ms, node.tau_slow_ms)
    )
    gamma = None if node.gamma is None else torch.from_numpy(node.gamma)
    if recurrent is not None:
        assert gamma is not None, "quantisation has refused merge=or"
        own = neurons(
            fast,
            dynamics=Dynamics.dual(decay_fast, decay_slow, gamma),
            threshold=node.threshold,
            recurrent_MN=recurrent,
            slow_current_TBN=slow,
            reset=node.reset,
        )
        if not record:
            return own.spikes_TBN, None
        # With the recurrent currents as inputs, neurons without recurrence do the same.
        before = torch.cat([torch.zeros_like(fast[:1]), own.spikes_TBN[:-1]])
        sent = F.linear(before, recurrent).chunk(2, -1)
        fast, slow = fast + sent[0], slow + sent[1]
    dual = dual_lif(
        fast,
        slow,
        decay_fast=decay_fast,
        decay_slow=decay_slow,
        threshold=node.threshold,
        gamma=gamma,
        merge=node.merge,
        reset=node.reset,
        record_membranes=record,
    )
    if dual.fast_membrane is None or dual.slow_membrane is None:
        return dual.spikes, None
    return dual.spikes, torch.stack([dual.fast_membrane, dual.slow_membrane], 2)


def _decay(tau_ms: TimeConstant, shape: Shape, dt_ms: float) -> float | Tensor:
    """The factor kept per step, one or one per neuron of a row."""
    if isinstance(tau_ms, float | int):
        return math.exp(-dt_ms / tau_ms)
    return spread(torch.exp(-dt_ms / torch.from_numpy(tau_ms)), shape)


def _weight(node: LayerNode) -> Tensor:
    assert isinstance(node, DenseNode), "only layers of one dimension are recurrent"
    return torch.from_numpy(node.weight)


def _sum(arriving: list[Tensor]) -> Tensor:
    first, *others = arriving  # not `sum`, whose initial 0 would make an expanded tensor dense
    for other in others:
        first = first + other
    return first


def _delayed(node: DenseNode, x_TB: Tensor, dt_ms: float) -> Tensor:
    """Currents of a dense node with delays, in the steps of the data."""
    assert node.delays_ms is not None
    weight = torch.from_numpy(node.weight)
    delays = (torch.from_numpy(node.delays_ms) / dt_ms).round().long()
    longest = int(delays.max())
    known_TB = torch.cat([x_TB.new_zeros(longest, *x_TB.shape[1:]), x_TB])
    if delays.ndim == 1:
        source_TN = longest - delays + torch.arange(len(x_TB))[:, None]
        shifted = known_TB.gather(0, source_TN[:, None].expand(x_TB.shape))
        return F.linear(shifted, weight, _optional(node.bias))
    kernels = weight[..., None] * F.one_hot(delays, longest + 1)
    currents = delayed_currents(known_TB, kernels)
    return currents if node.bias is None else currents + torch.from_numpy(node.bias)


def _fold(node: LayerNode, x_TB: Tensor) -> Tensor:
    """Apply a stateless node to all steps, or once if they are all the same."""
    held = x_TB.shape[0] > 1 and x_TB.stride(0) == 0  # see `ops/sequence.py`
    x_N = x_TB[0] if held else x_TB.flatten(0, 1)
    y_N = _apply(node, x_N)
    return y_N.expand(x_TB.shape[0], *y_N.shape) if held else y_N.unflatten(0, x_TB.shape[:2])


def _apply(node: LayerNode, x_N: Tensor) -> Tensor:
    match node:
        case FlattenNode():
            return x_N.flatten(1)
        case DenseNode():
            return F.linear(x_N, torch.from_numpy(node.weight), _optional(node.bias))
        case Conv2dNode():
            weight, bias = torch.from_numpy(node.weight), _optional(node.bias)
            return F.conv2d(x_N, weight, bias, node.stride, node.padding)
    raise AssertionError(f"no float form of {type(node).__name__}")


def _optional(array: object) -> Tensor | None:
    return None if array is None else torch.as_tensor(array)
