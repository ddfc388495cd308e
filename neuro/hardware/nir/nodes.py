"""A layer graph as a graph of NIR nodes with the same spikes.

NIR (Pedersen et al., Nature Communications 15, 8122, 2024) describes neurons in continuous time,

    tau dv/dt = (v_leak - v) + r I;   a spike where v > v_threshold, and then v = v_reset

which its readers integrate by Euler steps, v[t] = (1 - h / tau) v[t-1] + (h / tau) r I[t]. Ours
decay exponentially, d = exp(-dt / tau_ms), fire at v >= theta and are fed with a gain of 1. Hence

    tau = h / (1 - d),   r = 1 / (1 - d),   v_leak = v_reset = 0
    v_threshold = the largest float32 below theta

with the reader's step h: its integration is then ours, spike for spike. A LIF that resets to zero
is one `nir.LIF`. What NIR has no node for is composed of nodes that it has, with k = -d theta:

    LIF, reset "subtract"      LI -> Threshold -> Scale(k) -> the same LI
    dual-timescale, "gate"     two LI -> Scale(gamma), Scale(1 - gamma) -> one Threshold; with reset
                               "subtract" -> Scale(k) -> each LI; with reset "zero" -> ZeroReset
    dual-timescale, "or"       two LIF as above -> Threshold(0.5)

What a spike sends back counts from the integrators' next step on, as in Euler's method; a reader
must cut the loop there. One that lacks LI, Threshold or Scale refuses the file by their names, and
`ZeroReset` is refused by all: it is not part of NIR, which cannot multiply. The readout is the sum
of its Linear nodes, through an Affine that adds the bias (its matrix is the identity).

A layer's output is the NIR node of its name, in which "/" becomes ".". What feeds nothing feeds an
Output: the last layer the one called "output". A file with kernels that are not square is read by
`nir.read(path, type_check=False)`: nir 1.0.8 gets their shapes wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import nir
import numpy as np

from neuro.errors import ExportError
from neuro.models.graph import (
    LIF,
    Array,
    Conv2d,
    Dense,
    DualLIF,
    Flatten,
    Input,
    LayerGraph,
    Node,
    Readout,
    Shape,
)


@dataclass(eq=False)
class ZeroReset(nir.NIRNode):
    """An input of 1 sets the integrators that this node points to to zero. Not part of NIR."""

    shape: np.ndarray

    def __post_init__(self) -> None:
        self.input_type = {"input": self.shape}
        self.output_type = {"output": self.shape}


def to_nir(graph: LayerGraph, dt_ms: float, reader_dt_ms: float) -> nir.NIRGraph:
    """The graph on data of step `dt_ms`, for readers that integrate by steps of `reader_dt_ms`.

    The NIR nodes share the arrays of the layers. ExportError if NIR cannot say it.
    """
    for name, step in (("dt_ms", dt_ms), ("reader_dt_ms", reader_dt_ms)):
        if not 0 < step < math.inf:
            raise ExportError(f"{name} must be above 0; got {step}.")
    composer = _Composer(dt_ms, reader_dt_ms)
    for name, node in graph.nodes.items():
        composer.layer(nir_name(name), node)
    for edge in graph.edges:
        entry = composer.entries[nir_name(edge.target), edge.port]
        composer.edges.append((nir_name(edge.source), entry))
    fed = {edge.source for edge in graph.edges}
    *_, last = graph.nodes
    for name, node in graph.nodes.items():
        if name not in fed:
            output = "output" if name == last else f"output.{nir_name(name)}"
            composer.put(output, nir.Output(np.array(node.output_shape)), nir_name(name))
    # the layer graph has checked its shapes; nir's own check takes every kernel for a square
    return nir.NIRGraph(composer.nodes, composer.edges, type_check=False)


class _Composer:
    """Builds the NIR nodes of a graph, layer by layer."""

    def __init__(self, dt_ms: float, reader_dt_ms: float):
        self._dt_ms = dt_ms
        self._reader_dt_s = reader_dt_ms / 1e3
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.entries: dict[tuple[str, str], str] = {}  # NIR nodes by the ports that they stand for

    def put(self, name: str, node: nir.NIRNode, *sources: str) -> None:
        if name in self.nodes:
            raise ExportError(f"two nodes would be called '{name}' in NIR; rename a layer.")
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]

    def layer(self, name: str, node: Node) -> None:
        """The nodes of one layer; the one called `name` gives its output."""
        self.entries |= {(name, port): name for port in node.ports}
        if isinstance(node, Input):
            self.put(name, nir.Input(np.array(node.shape)))
        elif isinstance(node, Conv2d):
            bias = np.zeros(len(node.weight), np.float32) if node.bias is None else node.bias
            geometry = {"stride": node.stride, "padding": node.padding, "dilation": 1, "groups": 1}
            self.put(name, nir.Conv2d(node.shape[1:], node.weight, bias=bias, **geometry))
        elif isinstance(node, Dense) and node.bias is None:
            self.put(name, nir.Linear(node.weight))
        elif isinstance(node, Dense):
            self.put(name, nir.Affine(node.weight, node.bias))
        elif isinstance(node, Flatten):
            self.put(name, nir.Flatten(np.array(node.shape), start_dim=0, end_dim=-1))
        elif isinstance(node, LIF):
            self._lif(name, node)
        elif isinstance(node, DualLIF) and node.merge == "gate":
            self._gated(name, node)
        elif isinstance(node, DualLIF):
            self._either(name, node)
        elif isinstance(node, Readout):
            self.put(name, nir.Affine(np.eye(len(node.bias), dtype=np.float32), node.bias))
        else:
            raise ExportError(f"layer '{name}': NIR has no form of a {type(node).__name__}.")

    def _lif(self, name: str, node: LIF) -> None:
        if node.reset == "zero":
            rest, threshold = _full(0.0, node.shape), _below(node.threshold, node.shape)
            leak = self._leak(name, node.tau_ms, node.shape)
            self.put(name, nir.LIF(**leak, v_threshold=threshold, v_reset=rest))
            return
        membrane = f"{name}.membrane"
        self.put(membrane, nir.LI(**self._leak(name, node.tau_ms, node.shape)))
        self.put(name, nir.Threshold(_below(node.threshold, node.shape)), membrane)
        self._subtraction(name, f"{name}.reset", membrane, node.tau_ms, node)
        self.entries[name, "input"] = membrane

    def _gated(self, name: str, node: DualLIF) -> None:
        assert node.gamma is not None
        taus = {"fast": node.tau_fast_ms, "slow": node.tau_slow_ms}
        shares = {"fast": node.gamma, "slow": 1 - node.gamma}
        membranes = {port: f"{name}.{port}_membrane" for port in node.ports}
        for port, membrane in membranes.items():
            share = nir.Scale(_per_channel(shares[port], node.shape))
            self.put(membrane, nir.LI(**self._leak(name, taus[port], node.shape)))
            self.put(f"{name}.{port}_share", share, membrane)
            self.entries[name, port] = membrane
        summands = [f"{name}.{port}_share" for port in node.ports]
        self.put(name, nir.Threshold(_below(node.threshold, node.shape)), *summands)
        if node.reset == "zero":
            self.put(f"{name}.reset", ZeroReset(np.array(node.shape)), name)
            self.edges += [(f"{name}.reset", membrane) for membrane in membranes.values()]
            return
        for port, membrane in membranes.items():
            self._subtraction(name, f"{name}.{port}_reset", membrane, taus[port], node)

    def _either(self, name: str, node: DualLIF) -> None:
        compartments = {port: f"{name}.{port}_spikes" for port in node.ports}
        for port, tau_ms in (("fast", node.tau_fast_ms), ("slow", node.tau_slow_ms)):
            compartment = compartments[port]
            self.layer(compartment, LIF(node.shape, tau_ms, node.threshold, node.reset))
            self.entries[name, port] = self.entries[compartment, "input"]
        self.put(name, nir.Threshold(_full(0.5, node.shape)), *compartments.values())

    def _subtraction(
        self, spikes: str, name: str, membrane: str, tau_ms: float, node: LIF | DualLIF
    ) -> None:
        """What a spike takes from the membrane: theta now is d * theta at the next step."""
        loss = -math.exp(-self._dt_ms / tau_ms) * node.threshold
        self.put(name, nir.Scale(_full(loss, node.shape)), spikes)
        self.edges.append((name, membrane))

    def _leak(self, name: str, tau_ms: float, shape: Shape) -> dict[str, Array]:
        loss = -math.expm1(-self._dt_ms / tau_ms)  # 1 - d
        if not loss > 0:
            raise ExportError(
                f"layer '{name}': a time constant of {tau_ms} ms does not decay within a step of "
                f"{self._dt_ms} ms, which NIR's leaky neurons must."
            )
        return {
            "tau": _full(self._reader_dt_s / loss, shape),
            "r": _full(1 / loss, shape),
            "v_leak": _full(0.0, shape),
        }


def nir_name(name: str) -> str:
    return name.replace("/", ".")  # HDF5 reads "/" as a path


def _full(value: float, shape: Shape) -> Array:
    return np.full(shape, value, np.float32)


def _below(threshold: float, shape: Shape) -> Array:
    """NIR fires strictly above this, which is at or above the threshold."""
    return np.full(shape, np.nextafter(np.float32(threshold), np.float32(-np.inf)))


def _per_channel(values: Array, shape: Shape) -> Array:
    return np.array(np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape))
