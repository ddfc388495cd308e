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

from neuro.models.graph import (
    Conv2dNode,
    DenseNode,
    DualLIFNode,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
)
from neuro.ops.dual_lif import dual_lif
from neuro.ops.lif import lif


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
        arriving = [_sum([outputs[s] for s in graph.sources(name, port)]) for port in node.ports]
        match node:
            case LIFNode() | DualLIFNode():
                outputs[name], membrane = _fire(node, arriving, dt_ms, name in membranes)
                if record_spikes:
                    spikes[name] = outputs[name]
                if membrane is not None:
                    traces[name] = membrane
            case ReadoutNode():
                scores = (arriving[0] + torch.from_numpy(node.bias)).transpose(0, 1)
            case _:
                outputs[name] = _fold(node, arriving[0])
    assert scores is not None
    return FloatOutput(scores, spikes, traces)


def _fire(
    node: LIFNode | DualLIFNode, currents: list[Tensor], dt_ms: float, record: bool
) -> tuple[Tensor, Tensor | None]:
    if isinstance(node, LIFNode):
        single = lif(
            currents[0],
            decay=math.exp(-dt_ms / node.tau_ms),
            threshold=node.threshold,
            reset=node.reset,
            record_membrane=record,
        )
        membrane = single.membrane_TBN
        return single.spikes_TBN, None if membrane is None else membrane.unsqueeze(2)
    fast, slow = currents
    dual = dual_lif(
        fast,
        slow,
        decay_fast=math.exp(-dt_ms / node.tau_fast_ms),
        decay_slow=math.exp(-dt_ms / node.tau_slow_ms),
        threshold=node.threshold,
        gamma=None if node.gamma is None else torch.from_numpy(node.gamma),
        merge=node.merge,
        reset=node.reset,
        record_membranes=record,
    )
    if dual.fast_membrane is None or dual.slow_membrane is None:
        return dual.spikes, None
    return dual.spikes, torch.stack([dual.fast_membrane, dual.slow_membrane], 2)


def _sum(arriving: list[Tensor]) -> Tensor:
    first, *others = arriving  # not `sum`, whose initial 0 would make an expanded tensor dense
    for other in others:
        first = first + other
    return first


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
