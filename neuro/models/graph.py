"""The typed graph of a network's layers: what a hardware target maps and an exporter writes.

Arrays in, nothing learned: a snapshot of a model in evaluation mode. A node checks itself and a
graph its edges when they are made, so whoever gets one can rely on it. Maps are `[C, H, W]` and
flatten in that order. Times are in milliseconds and independent of the data's time step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuro.errors import ExportError

Array = NDArray[np.float32]
Shape = tuple[int, ...]


def convolved(
    shape: Shape, weight: Shape, stride: tuple[int, int], padding: tuple[int, int]
) -> Shape:
    """The map that a kernel `[O, I, kh, kw]` makes of the map `[I, H, W]`."""
    height, width = (
        (size + 2 * pad - kernel) // step + 1
        for size, pad, kernel, step in zip(shape[1:], padding, weight[2:], stride, strict=True)
    )
    return weight[0], height, width


@dataclass(frozen=True, eq=False)
class Node:
    """A layer with one output and the named input `ports`, each of one shape."""

    ports: ClassVar[tuple[str, ...]] = ("input",)

    @property
    def input_shape(self) -> Shape:
        """Shape at every input port, without time and batch."""
        raise NotImplementedError

    @property
    def output_shape(self) -> Shape:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Input(Node):
    """Where frames enter: real numbers or spikes of `shape`."""

    shape: Shape
    ports: ClassVar[tuple[str, ...]] = ()

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """A cross-correlation with `weight` `[O, I, kh, kw]` and an optional `bias` `[O]` per step."""

    shape: Shape  # of the input, [I, H, W]
    weight: Array
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    bias: Array | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.weight.ndim != 4 or self.weight.shape[1] != self.shape[0]:
            raise ExportError(
                f"a convolution of {list(self.shape)} needs a weight [outputs, "
                f"{self.shape[0]}, height, width]; got {list(self.weight.shape)}."
            )
        _check_bias(self.bias, self.weight)
        if min(self.output_shape) < 1:
            raise ExportError(
                f"a kernel of {list(self.weight.shape[2:])} does not fit into "
                f"{list(self.shape)} with padding {list(self.padding)}."
            )

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return convolved(self.shape, self.weight.shape, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class Dense(Node):
    """A matrix `weight` `[O, I]` and an optional `bias` `[O]` per step."""

    weight: Array
    bias: Array | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise ExportError(f"a dense weight has two dimensions; got {list(self.weight.shape)}.")
        _check_bias(self.bias, self.weight)

    @property
    def input_shape(self) -> Shape:
        return (self.weight.shape[1],)

    @property
    def output_shape(self) -> Shape:
        return (self.weight.shape[0],)


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """`[C, H, W]` to `[C * H * W]`."""

    shape: Shape

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return (prod(self.shape),)


@dataclass(frozen=True, eq=False)
class LIF(Node):
    """v[t] = exp(-dt / tau) v[t-1] + I[t]; a spike where v reaches `threshold`, then the reset."""

    shape: Shape
    tau_ms: float
    threshold: float
    reset: Literal["subtract", "zero"] = "subtract"

    def __post_init__(self) -> None:
        _check_positive(tau_ms=self.tau_ms, threshold=self.threshold)

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class DualLIF(Node):
    """A fast and a slow compartment with an input each; equations in `ops/dual_lif.py`.

    `gamma` `[C]` weighs the fast membrane under merge "gate" and is not used by "or".
    """

    ports: ClassVar[tuple[str, ...]] = ("fast", "slow")

    shape: Shape
    tau_fast_ms: float
    tau_slow_ms: float
    threshold: float
    gamma: Array | None
    merge: Literal["gate", "or"] = "gate"
    reset: Literal["subtract", "zero"] = "subtract"

    def __post_init__(self) -> None:
        _check_positive(
            tau_fast_ms=self.tau_fast_ms, tau_slow_ms=self.tau_slow_ms, threshold=self.threshold
        )
        if self.merge == "gate":
            if self.gamma is None or self.gamma.shape != self.shape[:1]:
                given = None if self.gamma is None else list(self.gamma.shape)
                raise ExportError(
                    f"merge=gate needs a gamma of shape [{self.shape[0]}]; got {given}."
                )
            if not ((self.gamma >= 0) & (self.gamma <= 1)).all():
                raise ExportError("gamma must be in [0, 1].")

    @property
    def input_shape(self) -> Shape:
        return self.shape

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Readout(Node):
    """Class scores at every step: the sum of what arrives, plus `bias` `[K]`. It does not spike."""

    bias: Array

    @property
    def input_shape(self) -> Shape:
        return self.bias.shape

    @property
    def output_shape(self) -> Shape:
        return self.bias.shape


class Edge(NamedTuple):
    """From a node's output to a port of another."""

    source: str
    target: str
    port: str = "input"


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Nodes by name in the order of computation, and the edges between them.

    ExportError names both ends of an edge that does not fit, and nodes that nothing reaches.
    Several edges into one port add up.
    """

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        order = {name: i for i, name in enumerate(self.nodes)}
        for edge in self.edges:
            for end in (edge.source, edge.target):
                if end not in order:
                    raise ExportError(f"edge {_text(edge)}: there is no node '{end}'.")
            if order[edge.source] >= order[edge.target]:
                raise ExportError(
                    f"edge {_text(edge)} goes backwards; recurrence is not supported."
                )
            source, target = self.nodes[edge.source], self.nodes[edge.target]
            if edge.port not in target.ports:
                raise ExportError(
                    f"edge {_text(edge)}: {type(target).__name__} has the ports "
                    f"{', '.join(target.ports) or 'none'}."
                )
            if source.output_shape != target.input_shape:
                raise ExportError(
                    f"edge {_text(edge)}: '{edge.source}' gives {list(source.output_shape)}, "
                    f"'{edge.target}' takes {list(target.input_shape)}."
                )
        reached = {(edge.target, edge.port) for edge in self.edges}
        for name, node in self.nodes.items():
            for port in node.ports:
                if (name, port) not in reached:
                    raise ExportError(f"node '{name}': nothing is connected to its port '{port}'.")

    def sources(self, target: str, port: str = "input") -> tuple[str, ...]:
        """The nodes that feed a port, in the order of the edges."""
        return tuple(e.source for e in self.edges if e.target == target and e.port == port)


def _text(edge: Edge) -> str:
    return f"{edge.source} -> {edge.target}.{edge.port}"


def _check_bias(bias: Array | None, weight: Array) -> None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ExportError(f"a bias of shape [{weight.shape[0]}] is needed; got {list(bias.shape)}.")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ExportError(f"{name} must be above 0; got {value}.")
