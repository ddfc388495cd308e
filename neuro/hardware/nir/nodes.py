"""Conversion of a layer graph to a graph of NIR nodes with the same spikes.

NIR (Pedersen et al., Nature Communications 15, 8122, 2024) describes neurons in continuous time,

    tau dv/dt = (v_leak - v) + r I;   a spike where v > v_threshold, and then v = v_reset

which its readers integrate by Euler steps, v[t] = (1 - h / tau) v[t-1] + (h / tau) r I[t]. Neurons
of a layer graph decay exponentially, d = exp(-dt / tau_ms), fire at v >= theta and have a gain of
1. Hence

    tau = h / (1 - d),   r = 1 / (1 - d),   v_leak = v_reset = 0
    v_threshold = the largest float32 below theta

with the reader's step h, for which its integration gives the same spikes. A LIF that resets to
zero is one `nir.LIF`; a CuBa LIF one `nir.CubaLIF`, whose current has tau_syn and w_in in place of
tau and r, and drives the membrane in the same step. Other neurons are composed of several nodes,
with k = -d theta:

    LIF, reset "subtract"      LI -> Threshold -> Scale(k) -> the same LI
    CuBa LIF, "subtract"       LI of the current -> the LI of a LIF as above
    dual-timescale, "gate"     two LI -> Scale(gamma), Scale(1 - gamma) -> one Threshold; with reset
                               "subtract" -> Scale(k) -> each LI; with reset "zero" -> ZeroReset
    dual-timescale, "or"       two LIF as above -> Threshold(0.5)

Delays are Delay nodes in front of a Linear; if each synapse has its own, a line of them with a
Linear for the weights of each delay. A recurrent synapse is a Linear from the layer's output back
to its input. Feedback of a spike, from there or from a reset, acts from the integrators' next step
on, as in Euler's method; a reader must break the loop there. Readers without LI, Threshold or Scale
refuse the file by these names, and all readers refuse `ZeroReset`: it is not part of NIR, which has
no multiplication. The readout is the sum of its Linear nodes, followed by an Affine node that adds
the bias (its matrix is the identity), and by an LI with r = 1 if it is leaky.

The output of a layer is the NIR node of its name, with "." for "/". Layers without a successor get
an Output node; that of the last layer is called "output". Files with kernels that are not square
are read by `nir.read(path, type_check=False)`, because nir 1.0.8 computes their shapes wrongly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import nir
import numpy as np
from numpy.typing import NDArray

from neuro.errors import ExportError
from neuro.models.graph import (
    Array,
    Conv2dNode,
    CubaLIFNode,
    DenseNode,
    DualLIFNode,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
    Shape,
    TimeConstant,
)


@dataclass(eq=False)
class ZeroReset(nir.NIRNode):
    """Sets its target integrators to zero where its input is 1. Not part of NIR."""

    shape: np.ndarray

    def __post_init__(self) -> None:
        self.input_type = {"input": self.shape}
        self.output_type = {"output": self.shape}


def to_nir(graph: LayerGraph, dt_ms: float, reader_dt_ms: float) -> nir.NIRGraph:
    """Convert a layer graph for data of step `dt_ms` and readers with Euler step `reader_dt_ms`.

    The NIR nodes share the arrays of the layers. ExportError if NIR cannot represent the graph.
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
    # The layer graph has checked its shapes; nir's own check assumes square kernels.
    return nir.NIRGraph(composer.nodes, composer.edges, type_check=False)


class _Composer:
    """Builds the NIR nodes of a graph, layer by layer."""

    def __init__(self, dt_ms: float, reader_dt_ms: float):
        self._dt_ms = dt_ms
        self._reader_dt_s = reader_dt_ms / 1e3
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.entries: dict[tuple[str, str], str] = {}  # NIR nodes by the input ports they represent

    def put(self, name: str, node: nir.NIRNode, *sources: str) -> None:
        """Add a node with edges from its sources. ExportError if the name is taken."""
        if name in self.nodes:
            raise ExportError(f"two nodes would be called '{name}' in NIR; rename a layer.")
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]

    def layer(self, name: str, node: LayerNode) -> None:
        """Add the nodes of one layer; the node called `name` is its output."""
        self.entries |= {(name, port): name for port in node.ports}
        if isinstance(node, InputNode):
            self.put(name, nir.Input(np.array(node.shape)))
        elif isinstance(node, Conv2dNode):
            bias = np.zeros(len(node.weight), np.float32) if node.bias is None else node.bias
            geometry = {"stride": node.stride, "padding": node.padding, "dilation": 1, "groups": 1}
            self.put(name, nir.Conv2d(node.shape[1:], node.weight, bias=bias, **geometry))
        elif isinstance(node, DenseNode):
            self._dense(name, node)
        elif isinstance(node, FlattenNode):
            self.put(name, nir.Flatten(np.array(node.shape), start_dim=0, end_dim=-1))
        elif isinstance(node, LIFNode | CubaLIFNode):
            self._lif(name, node)
        elif isinstance(node, DualLIFNode) and node.merge == "gate":
            self._gated(name, node)
        elif isinstance(node, DualLIFNode):
            self._either(name, node)
        elif isinstance(node, ReadoutNode):
            self._readout(name, node)
        else:
            raise ExportError(f"layer '{name}': NIR has no form of a {type(node).__name__}.")

    def _dense(self, name: str, node: DenseNode) -> None:
        bias = node.bias
        if node.delays_ms is None or node.delays_ms.ndim == 1:
            made = nir.Linear(node.weight) if bias is None else nir.Affine(node.weight, bias)
            if node.delays_ms is None:
                self.put(name, made)
                return
            self.put(f"{name}.delay", nir.Delay(self._delay(node.delays_ms)))
            self.put(name, made, f"{name}.delay")
            self.entries[name, "input"] = f"{name}.delay"
            return
        # a tapped delay line, each tap with the weights of one delay
        steps = np.rint(node.delays_ms / self._dt_ms)
        taps: list[str] = []
        before = 0.0
        line: tuple[str, ...] = ()
        for i, delay in enumerate(np.unique(steps).tolist()):
            further = np.full(node.weight.shape[1], (delay - before) * self._dt_ms, np.float32)
            self.put(f"{name}.delay{i}", nir.Delay(self._delay(further)), *line)
            weight = np.where(steps == delay, node.weight, np.float32(0))
            tap = nir.Linear(weight) if bias is None or taps else nir.Affine(weight, bias)
            self.put(f"{name}.weight{i}", tap, f"{name}.delay{i}")
            taps.append(f"{name}.weight{i}")
            before, line = delay, (f"{name}.delay{i}",)
        # a sum; it has no `weight`, under whose name that of the layer is stored in the file
        self.put(name, nir.Scale(_full(1.0, node.output_shape)), *taps)
        self.entries[name, "input"] = f"{name}.delay0"

    def _delay(self, delays_ms: Array) -> Array:
        """Delays in seconds, whole steps of the reader."""
        delays: Array = np.rint(delays_ms / self._dt_ms) * np.float32(self._reader_dt_s)
        return delays

    def _lif(self, name: str, node: LIFNode | CubaLIFNode) -> None:
        leak = self._leak(name, node.tau_ms, node.shape)
        if node.reset == "zero":
            own = {
                "v_threshold": _below(node.threshold, node.shape),
                "v_reset": _full(0.0, node.shape),
            }
            if isinstance(node, LIFNode):
                self.put(name, nir.LIF(**leak, **own))
                return
            current = self._leak(name, node.tau_current_ms, node.shape)
            names = {"tau_mem": leak.pop("tau"), "tau_syn": current["tau"], "w_in": current["r"]}
            self.put(name, nir.CubaLIF(**leak, **names, **own))
            return
        # nir.LIF can only reset to a value, so the subtraction is a feedback to the integrator
        membrane = f"{name}.membrane"
        self.put(membrane, nir.LI(**leak))
        self.put(name, nir.Threshold(_below(node.threshold, node.shape)), membrane)
        self._subtraction(name, f"{name}.reset", membrane, node.tau_ms, node)
        self.entries[name, "input"] = membrane
        if isinstance(node, CubaLIFNode):
            current_name = f"{name}.current"
            self.put(current_name, nir.LI(**self._leak(name, node.tau_current_ms, node.shape)))
            self.edges.append((current_name, membrane))
            self.entries[name, "input"] = current_name

    def _readout(self, name: str, node: ReadoutNode) -> None:
        sums = nir.Affine(np.eye(len(node.bias), dtype=np.float32), node.bias)
        if node.tau_ms is None:
            self.put(name, sums)
            return
        leak = self._leak(name, node.tau_ms, node.bias.shape)
        leak["r"] = _full(1.0, node.bias.shape)  # the scores are means, as is v for a gain of 1
        self.put(f"{name}.sums", sums)
        self.put(name, nir.LI(**leak), f"{name}.sums")
        self.entries[name, "input"] = f"{name}.sums"

    def _gated(self, name: str, node: DualLIFNode) -> None:
        assert node.gamma is not None
        taus = {"fast": node.tau_fast_ms, "slow": node.tau_slow_ms}
        weights = {"fast": node.gamma, "slow": 1 - node.gamma}
        membranes = {port: f"{name}.{port}_membrane" for port in node.ports}
        # "_share" is the suffix in existing files, which are compared with these nodes when read
        for port, membrane in membranes.items():
            scale = nir.Scale(_per_channel(weights[port], node.shape))
            self.put(membrane, nir.LI(**self._leak(name, taus[port], node.shape)))
            self.put(f"{name}.{port}_share", scale, membrane)
            self.entries[name, port] = membrane
        summands = [f"{name}.{port}_share" for port in node.ports]
        self.put(name, nir.Threshold(_below(node.threshold, node.shape)), *summands)
        if node.reset == "zero":
            self.put(f"{name}.reset", ZeroReset(np.array(node.shape)), name)
            self.edges += [(f"{name}.reset", membrane) for membrane in membranes.values()]
            return
        for port, membrane in membranes.items():
            self._subtraction(name, f"{name}.{port}_reset", membrane, taus[port], node)

    def _either(self, name: str, node: DualLIFNode) -> None:
        compartments = {port: f"{name}.{port}_spikes" for port in node.ports}
        for port, tau_ms in (("fast", node.tau_fast_ms), ("slow", node.tau_slow_ms)):
            compartment = compartments[port]
            self.layer(compartment, LIFNode(node.shape, tau_ms, node.threshold, node.reset))
            self.entries[name, port] = self.entries[compartment, "input"]
        # one spike or two: the sum of both compartments is above 0.5
        self.put(name, nir.Threshold(_full(0.5, node.shape)), *compartments.values())

    def _subtraction(
        self,
        spikes: str,
        name: str,
        membrane: str,
        tau_ms: TimeConstant,
        node: LIFNode | CubaLIFNode | DualLIFNode,
    ) -> None:
        """Add the feedback of reset "subtract": theta now is d * theta at the next step."""
        kept = np.exp(-self._dt_ms / np.asarray(tau_ms, np.float64))
        self.put(name, nir.Scale(_full(-kept * node.threshold, node.shape)), spikes)
        self.edges.append((name, membrane))

    def _leak(self, name: str, tau_ms: TimeConstant, shape: Shape) -> dict[str, Array]:
        """Parameters of a leaky NIR node. ExportError for a time constant without decay."""
        loss = -np.expm1(-self._dt_ms / np.asarray(tau_ms, np.float64))  # 1 - d
        if not loss.min() > 0:
            raise ExportError(
                f"layer '{name}': a time constant of {np.max(tau_ms)} ms does not decay within a "
                f"step of {self._dt_ms} ms, which NIR's leaky neurons must."
            )
        return {
            "tau": _full(self._reader_dt_s / loss, shape),
            "r": _full(1 / loss, shape),
            "v_leak": _full(0.0, shape),
        }


def nir_name(name: str) -> str:
    """Name of a layer in a NIR file; "/" would be a path in HDF5."""
    return name.replace("/", ".")


def _full(values: float | NDArray[np.float64], shape: Shape) -> Array:
    """One value, or one per channel `[C]`, for each neuron."""
    return _per_channel(np.atleast_1d(np.asarray(values, np.float32)), shape)


def _below(threshold: float, shape: Shape) -> Array:
    """The largest float32 below the threshold: NIR fires strictly above it, so at v >= theta."""
    return np.full(shape, np.nextafter(np.float32(threshold), np.float32(-np.inf)))


def _per_channel(values: Array, shape: Shape) -> Array:
    return np.array(np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape))
