"""Simulation of an integer network by Lava processes, on the CPU in Lava's fixed-point arithmetic.

Synapses are Lava's `Conv` and `Dense`; LIF neurons with one decay for all and reset to zero are its
`LIFReset`. Other neurons, and leaky accumulators of the readout, are the processes of `processes/`.
All samples are streamed through one run. Every synapse delays by one step, so a layer at depth d
receives the first step of a sample d steps late, and clears its states then. Outputs are shifted
back by these delays. A recurrent synapse delays by the one step that it should.

Maps are [C, H, W] here and [x, y, c] in Lava, with x = H and y = W. Lava's convolution flips the
kernel; the network's, a cross-correlation, does not.

Lava takes a second to import and may be missing, so it is imported where it is used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuro.errors import BackendUnavailable, ExportError
from neuro.hardware.lava.imports import INSTALL
from neuro.hardware.lava.runtime import lava_session, running
from neuro.hardware.loihi2.integer import (
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
    Integers,
    IntegerSynapse,
)
from neuro.models.graph import Shape

CHUNK_STEPS = 25  # time steps between two calls of `progress`


@dataclass(frozen=True, eq=False)
class LavaOutput:
    """Results of a run, with the delays of synapses removed.

    readout: `[B, T, K]` integers of each source layer, in the order of the readout's synapses: its
        sums, or the values of its leaky accumulators.
    spikes: `[T, B, *shape]` of each layer by name; empty if they were not recorded.
    steps: number of time steps; seconds: their wall time, without building the graph.
    """

    readout: tuple[Integers, ...]
    spikes: dict[str, NDArray[np.bool_]]
    steps: int
    seconds: float


def check_lava() -> str:
    """Check that Lava is available, and describe it for the report. Imports Lava.

    Returns, for example, "lava-nc 0.10.0, Loihi2SimCfg, fixed_pt". BackendUnavailable if it cannot
    be imported.
    """
    try:
        version = importlib.metadata.version("lava-nc")
        with lava_session():
            importlib.import_module("lava.magma.core.run_configs")
    except ImportError as error:
        raise BackendUnavailable(
            f"hardware.backend: Lava cannot be imported ({error}). Install it with "
            f"`make install`, or with `{INSTALL}`. hardware.backend=engine gives the same spikes "
            "without it."
        ) from error
    return f"lava-nc {version}, Loihi2SimCfg, fixed_pt"


def check_network(network: IntegerNetwork) -> None:
    """Check that all inputs of a layer arrive with the same delay. ExportError if not."""
    depths = network.depths()
    for layer in network.layers:
        sources = sorted({s.source for s in layer.synapses}, key=depths.__getitem__)
        early, late = sources[0], sources[-1]
        if depths[early] != depths[late]:
            raise ExportError(
                f"layer '{layer.name}': its synapses come from '{early}' and '{late}', whose "
                f"spikes lag behind the input by {depths[early]} and {depths[late]} steps, as "
                "every synapse on the chip delays by one. Feed both from layers of the same "
                "depth, or use hardware.backend=engine, which has no delays."
            )


def simulate(
    network: IntegerNetwork,
    inputs: Integers,
    *,
    record_spikes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> LavaOutput:
    """Simulate `inputs` `[B, T, *input_shape]` in one run, with states cleared between samples.

    progress: called with the number of time steps done and their total, B * T plus the largest
        delay.

    BackendUnavailable without Lava; ExportError as from `check_network`; RuntimeError if a process
    of Lava dies. No process of Lava is left after the call.
    """
    check_lava()
    check_network(network)
    batch, length = inputs.shape[:2]
    assert inputs.shape[2:] == network.input_shape and batch * length > 0, inputs.shape
    depths = network.depths()
    # the run goes on until the slowest recorded output of the last sample has arrived
    delays = [depths[s.source] + 1 for s in network.readout.synapses]
    if record_spikes:
        delays += [depths[layer.name] for layer in network.layers]
    steps = batch * length + max(delays)

    with tempfile.TemporaryDirectory(prefix="neuro-lava-") as directory, lava_session():
        graph = _Graph(network, inputs, steps, Path(directory), record_spikes)
        with running(graph.source) as run:
            started = time.perf_counter()
            for done in range(0, steps, CHUNK_STEPS):  # in chunks, to report progress
                chunk = min(CHUNK_STEPS, steps - done)
                run(chunk)
                if progress is not None:
                    progress(done + chunk, steps)
            seconds = time.perf_counter() - started

        def recorded(path: Path, delay: int) -> NDArray[Any]:
            rows = np.load(path)[delay : delay + batch * length]
            return rows.reshape(batch, length, *rows.shape[1:])

        return LavaOutput(
            readout=tuple(
                recorded(path, depths[s.source] + 1)
                for path, s in zip(graph.readout, network.readout.synapses, strict=True)
            ),
            spikes={
                layer.name: _from_lava(
                    recorded(graph.spikes[layer.name], depths[layer.name]), layer.shape
                ).swapaxes(0, 1)
                for layer in network.layers
                if layer.name in graph.spikes
            },
            steps=steps,
            seconds=seconds,
        )


class _Graph:
    """Connected Lava processes of a network; `readout` and `spikes` are files of its recorders."""

    def __init__(
        self,
        network: IntegerNetwork,
        inputs: Integers,
        steps: int,
        directory: Path,
        record_spikes: bool,
    ):
        from lava.proc.io.source import RingBuffer

        self.steps = steps
        self.directory = directory
        self.input_bits = network.input_bits
        self.interval = inputs.shape[1]
        self.depths = network.depths()
        # The ring buffer starts again after the last sample; that output is not read.
        stream = _to_lava(inputs.reshape(-1, *network.input_shape), network.input_shape)
        self.source = RingBuffer(data=np.moveaxis(stream, 0, -1))  # time is its last dimension
        self.shapes: dict[str, Shape] = {"input": network.input_shape}
        self.out_ports = {"input": self.source.s_out}
        self.spikes: dict[str, Path] = {}
        for i, layer in enumerate(network.layers):
            self._add_layer(layer)
            if record_spikes:
                port = self.out_ports[layer.name]
                self.spikes[layer.name] = self._record(port, np.bool_, f"spikes{i}.npy")
        self.readout = [
            self._record(self._add_accumulators(s, network.readout.dv), np.int32, f"readout{i}.npy")
            for i, s in enumerate(network.readout.synapses)
        ]

    def _add_layer(self, layer: IntegerLayer) -> None:
        from lava.proc.lif.process import LIFReset

        from neuro.hardware.lava.processes.process import (
            DualCompartmentLIF,
            LIFSubtract,
            RecurrentLIF,
        )

        self.shapes[layer.name] = layer.shape
        common: dict[str, Any] = {
            "name": layer.name,
            "shape": _lava_shape(layer.shape),
            "vth": layer.vth,
            "reset_interval": self.interval,
            "reset_offset": self._start(self.depths[layer.name]),
        }
        own_ports = []
        if isinstance(layer, IntegerLIF):
            common |= {
                "bias_mant": _per_channel(layer.bias_mantissa, layer.shape),
                "bias_exp": layer.bias_exponent,
            }
            if layer.recurrent is None and isinstance(layer.du, int) and isinstance(layer.dv, int):
                kind = LIFReset if layer.reset == "zero" else LIFSubtract
                neurons = kind(du=layer.du, dv=layer.dv, **common)
            else:
                du, dv = (_per_channel(np.asarray(x), layer.shape) for x in (layer.du, layer.dv))
                neurons = RecurrentLIF(du=du, dv=dv, reset=layer.reset, **common)
                own_ports = [neurons.a_recurrent]
            ports = [neurons.a_in]
        else:
            neurons = DualCompartmentLIF(
                dv_fast=layer.dv_fast,
                dv_slow=layer.dv_slow,
                gamma=_per_channel(layer.gamma, layer.shape),
                merge=layer.merge,
                reset=layer.reset,
                **common,
            )
            ports = [neurons.a_fast, neurons.a_slow]
            own_ports = [neurons.a_fast_recurrent, neurons.a_slow_recurrent]
        for synapse, port in zip(layer.synapses, ports, strict=True):
            self._add_synapse(synapse).connect(port)
        self.out_ports[layer.name] = neurons.s_out
        if layer.recurrent_synapses:
            for synapse, port in zip(layer.recurrent_synapses, own_ports, strict=True):
                self._add_synapse(synapse).connect(port)

    def _start(self, depth: int) -> int:
        """Time step, modulo the interval, at which a sample begins behind `depth` synapses."""
        return (depth + 1) % self.interval  # Lava counts time steps from 1

    def _add_accumulators(self, synapse: IntegerSynapse, dv: int | None) -> Any:
        """Add synapses of the readout, and their leaky accumulators if `dv` is given."""
        from neuro.hardware.lava.processes.process import LeakyAccumulator

        sums = self._add_synapse(synapse)
        if dv is None:
            return sums
        depth = self.depths[synapse.source] + 1
        accumulators = LeakyAccumulator(
            shape=sums.shape, dv=dv, reset_interval=self.interval, reset_offset=self._start(depth)
        )
        sums.connect(accumulators.a_in)
        return accumulators.v_out

    def _add_synapse(self, synapse: IntegerSynapse) -> Any:
        """Add synapses; returns their output port, in Lava's shape of the target."""
        from lava.proc.conv.process import Conv
        from lava.proc.dense.process import Dense
        from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

        from neuro.hardware.lava.processes.process import ClearedDelayDense

        source, shape = self.out_ports[synapse.source], self.shapes[synapse.source]
        message_bits = self.input_bits if synapse.graded else 0  # 0: spikes, of one bit
        if synapse.is_convolution:
            conv = Conv(
                # Lava's order is [O, x, y, I]; flipping undoes the flip of its convolution
                weight=synapse.weight.transpose(0, 2, 3, 1)[:, ::-1, ::-1],
                input_shape=_lava_shape(shape),
                stride=synapse.stride,
                padding=synapse.padding,
                num_message_bits=message_bits,
            )
            source.connect(conv.s_in)
            return conv.a_out
        weight = synapse.weight[:, _lava_order(shape)]
        # Dense rounds such weights without a message, and the results would differ.
        sign_mode = determine_sign_mode(weight)
        kept = truncate_weights(clip_weights(weight, sign_mode, num_bits=8), sign_mode, 8)
        assert (kept == weight).all(), "Lava's Dense would round weights of mixed signs"
        options = {"weight_exp": synapse.exponent, "num_message_bits": message_bits}
        if synapse.delays is None:
            dense = Dense(weights=weight, **options)
        else:
            delays = np.broadcast_to(synapse.delays, weight.shape)[:, _lava_order(shape)]
            dense = ClearedDelayDense(
                weights=weight,
                delays=delays.astype(int),  # Lava takes no narrower integers
                max_delay=int(delays.max()),
                reset_interval=self.interval,
                reset_offset=self._start(self.depths[synapse.source]),
                **options,
            )
        (source if len(shape) == 1 else source.flatten()).connect(dense.s_in)
        return dense.a_out

    def _record(self, port: Any, dtype: type[np.generic], name: str) -> Path:
        """Record the output of a port; returns the file, with one row per time step."""
        from neuro.hardware.lava.processes.process import Recorder

        path = self.directory / name
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(self.steps, *port.shape))
        port.connect(Recorder(shape=port.shape, path=path).a_in)
        return path


def _lava_shape(shape: Shape) -> Shape:
    """Shape [C, H, W] in Lava's order [x, y, c]; other shapes unchanged."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _to_lava(x: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Reorder the last axes of `[..., *shape]` to Lava's order."""
    return np.moveaxis(x, -3, -1) if len(shape) == 3 else x


def _from_lava(x: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """The inverse of `_to_lava`."""
    return np.moveaxis(x, -1, -3) if len(shape) == 3 else x


def _lava_order(shape: Shape) -> NDArray[np.intp]:
    """Flat index in the network of the neuron at each flat index in Lava."""
    return _to_lava(np.arange(prod(shape)).reshape(shape), shape).ravel()


def _per_channel(values: Integers | None, shape: Shape) -> Integers | int:
    """Expand `[C]` to every neuron of the population, in Lava's shape; 0 for None."""
    return 0 if values is None else np.broadcast_to(values, _lava_shape(shape))
