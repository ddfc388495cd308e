"""Random integer networks of all kinds, and inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod, sqrt
from typing import Any, Literal

import numpy as np

from neuro.hardware.loihi2.integer import (
    BIAS_EXPONENT_BITS,
    BIAS_MANTISSA_BITS,
    DECAY_UNITY,
    GAMMA_UNITY,
    MEMORYLESS,
    THRESHOLD_BITS,
    IntegerDualLIF,
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    Integers,
    IntegerSynapse,
)
from neuro.models.graph import Shape

Rng = np.random.Generator
Neuron = Literal["lif", "gate", "or"]
Connection = Literal["conv", "dense"]

NEURONS: tuple[Neuron, ...] = ("lif", "gate", "or")
EXTREME_DECAYS = (0, 1, 4094, 4095)


def random_network(
    rng: Rng,
    *,
    connections: Sequence[Connection] | None = None,
    neurons: Sequence[Neuron] | None = None,
    reset: Literal["subtract", "zero"] | None = None,
    input_bits: int | None = None,
    skips: bool = False,
    classes: int = 3,
) -> IntegerNetwork:
    """A network of one to four small layers `layer1..n`; options that are None are random.

    connections: kinds of the layers in order; a "conv" cannot follow a "dense".
    neurons: of the layers in order, "lif" or the merge of a dual-timescale neuron.
    input_bits: 1 stands for spikes (values 0 and 1, synapses that are not graded; the network
        says 2 bits, sign included), more for graded inputs. With 8 and above sums are often so
        large that u wraps and v saturates.
    skips: layers, also two compartments of one, may have inputs from any earlier layer. Otherwise
        the network is a chain, so that delays of synapses only shift layers in time.
    """
    connections = _connections(rng) if connections is None else connections
    if neurons is None:
        neurons = [NEURONS[rng.integers(len(NEURONS))] for _ in connections]
    input_bits = int(rng.choice((1, 4, 8, 12))) if input_bits is None else input_bits
    shapes: dict[str, Shape] = {"input": _map_shape(rng)}
    layers: list[IntegerLayer] = []
    for i, (connection, neuron) in enumerate(zip(connections, neurons, strict=True), 1):
        name = f"layer{i}"
        layers.append(_layer(rng, name, connection, neuron, reset, shapes, input_bits, skips))
        shapes[name] = layers[-1].shape
    return IntegerNetwork(
        input_shape=shapes["input"],
        input_bits=max(input_bits, 2),
        input_unit=1 if input_bits == 1 else (1 << (input_bits - 1)) - 1,
        dt_ms=1.0,
        layers=tuple(layers),
        readout=_readout(rng, layers, classes),
    )


def recurrent_network(rng: Rng, **kind: Any) -> IntegerNetwork:
    """A random network with recurrent dense layers, with the same options.

    Except for dual-timescale neurons, decays are per neuron or per layer; the readout may be leaky.
    """
    network = random_network(rng, **kind)
    layers: list[IntegerLayer] = []
    for layer in network.layers:
        neurons = layer.shape[0]
        own = [
            IntegerSynapse(
                layer.name,
                random_weight(rng, (neurons, neurons)),
                exponent=int(rng.integers(0, 4)) if layer.synapses[0].graded else 0,
            )
            for _ in layer.synapses
        ]
        if isinstance(layer, IntegerLIF):
            decays: dict[str, Any] = {}
            for name in ("du", "dv"):
                if rng.random() < 0.7:
                    decays[name] = np.array([_decay(rng) for _ in range(neurons)], np.int32)
            layer = replace(layer, **decays)
        if len(layer.shape) == 1:
            weights: Any = own[0] if len(own) == 1 else tuple(own)
            layer = replace(layer, recurrent=weights)
        layers.append(layer)
    dv = _decay(rng) if rng.random() < 0.5 else None
    return replace(network, layers=tuple(layers), readout=replace(network.readout, dv=dv))


def delayed_network(rng: Rng, longest: int = 5, **kind: Any) -> IntegerNetwork:
    """A recurrent network; most dense synapses from other layers have delays."""
    network = recurrent_network(rng, **kind)

    def delayed(synapse: IntegerSynapse) -> IntegerSynapse:
        if synapse.is_convolution or rng.random() < 0.2:
            return synapse
        shape = synapse.weight.shape[rng.integers(2) :]
        return replace(synapse, delays=rng.integers(0, longest + 1, shape).astype(np.int32))

    layers: list[IntegerLayer] = []
    for layer in network.layers:
        if isinstance(layer, IntegerLIF):
            layers.append(replace(layer, synapse=delayed(layer.synapse)))
        else:
            layers.append(replace(layer, fast=delayed(layer.fast), slow=delayed(layer.slow)))
    return replace(network, layers=tuple(layers))


def random_inputs(rng: Rng, network: IntegerNetwork, batch: int, steps: int) -> Integers:
    """Sparse integers `[B, T, C, H, W]` of the network's bits, or spikes if nothing is graded."""
    limit = 1 << (network.input_bits - 1)
    graded = any(s.graded for layer in network.layers for s in layer.synapses)
    shape = (batch, steps, *network.input_shape)
    values = rng.integers(-limit, limit, shape) if graded else np.ones(shape, np.int64)
    return (values * (rng.random(shape) < 0.4)).astype(np.int32)


def random_weight(rng: Rng, shape: Shape, *, negative: bool = True) -> Integers:
    """Weights after Lava's rule: mixed signs are even, -256 .. 254; one sign keeps |w| <= 255."""
    sign = rng.choice(("mixed", "positive", "negative") if negative else ("mixed", "positive"))
    if sign == "mixed":
        weight = 2 * rng.integers(-128, 128, shape)
    else:
        weight = rng.integers(0, 256, shape) * (1 if sign == "positive" else -1)
    weight *= rng.random(shape) < 0.9
    return (weight if weight.max() > 0 else np.maximum(weight, -255)).astype(np.int32)


def _connections(rng: Rng) -> list[Connection]:
    convolutions, dense = int(rng.integers(0, 3)), int(rng.integers(0, 3))
    found: list[Connection] = ["conv"] * convolutions
    return found + ["dense"] * max(dense, 1 - convolutions)


def _map_shape(rng: Rng) -> Shape:
    return int(rng.integers(1, 4)), int(rng.integers(4, 8)), int(rng.integers(4, 8))


def _layer(
    rng: Rng,
    name: str,
    connection: Connection,
    neuron: Neuron,
    reset: Literal["subtract", "zero"] | None,
    shapes: dict[str, Shape],
    input_bits: int,
    skips: bool,
) -> IntegerLayer:
    if reset is None:
        reset = "zero" if rng.random() < 0.5 else "subtract"
    sources = [source for source in shapes if connection == "dense" or len(shapes[source]) == 3]
    if not skips:
        sources = sources[-1:]
    first = str(rng.choice(sources))
    options: dict[str, Any] = {}
    if connection == "conv":
        kernel = tuple(min(int(rng.integers(1, 4)), size) for size in shapes[first][1:])
        options["stride"] = tuple(int(s) for s in rng.integers(1, 3, 2))
        options["padding"] = tuple(int(rng.integers(0, k)) for k in kernel)
        outputs = int(rng.integers(2, 6))
        shape = outputs, *_places(shapes[first], kernel, **options)
        sources = [s for s in sources if _places(shapes[s], kernel, **options) == shape[1:]]
    else:
        outputs = int(rng.integers(4, 13))
        shape = (outputs,)

    def synapse(source: str) -> IntegerSynapse:
        if connection == "conv":
            weight_shape: Shape = (outputs, shapes[source][0], *kernel)
        else:
            weight_shape = (outputs, prod(shapes[source]))
        graded = source == "input" and input_bits > 1
        weight = random_weight(rng, weight_shape, negative=source == "input")
        return IntegerSynapse(source, weight, graded=graded, **options)

    amplitude = 1 << (input_bits - 1) if first == "input" else 1
    if neuron == "lif":
        only = synapse(first)
        mantissa, exponent = None, 0
        if rng.random() < 0.5:
            limit = 1 << (BIAS_MANTISSA_BITS - 1)
            mantissa = rng.integers(-limit, limit, outputs).astype(np.int32)
            exponent = int(rng.integers(0, 1 << BIAS_EXPONENT_BITS))
        return IntegerLIF(
            name=name,
            shape=shape,
            synapse=only,
            dv=_decay(rng),
            vth=_threshold(rng, only, amplitude),
            reset=reset,
            du=MEMORYLESS if rng.random() < 0.5 else _decay(rng),
            bias_mantissa=mantissa,
            bias_exponent=exponent,
        )
    fast = synapse(first)
    gamma = rng.integers(0, GAMMA_UNITY + 1, outputs).astype(np.int32)
    return IntegerDualLIF(
        name=name,
        shape=shape,
        fast=fast,
        slow=synapse(str(rng.choice(sources))),
        dv_fast=_decay(rng),
        dv_slow=_decay(rng),
        vth=_threshold(rng, fast, amplitude),
        gamma=gamma if neuron == "gate" else None,
        merge=neuron,
        reset=reset,
    )


def _places(
    shape: Shape, kernel: Shape, stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, ...]:
    axes = zip(shape[1:], kernel, stride, padding, strict=True)
    return tuple((size + 2 * p - k) // s + 1 for size, k, s, p in axes)


def _decay(rng: Rng) -> int:
    if rng.random() < 0.5:
        return int(rng.choice(EXTREME_DECAYS))
    return int(rng.integers(0, DECAY_UNITY))


def _threshold(rng: Rng, synapse: IntegerSynapse, amplitude: int) -> int:
    """A threshold similar to a typical sum, so that neurons are neither silent nor saturated."""
    typical = 50 * amplitude * sqrt(synapse.weight[0].size)
    return int(min(typical * 2 ** rng.uniform(-1, 3), (1 << THRESHOLD_BITS) - 1))


def _readout(rng: Rng, layers: Sequence[IntegerLayer], classes: int) -> IntegerReadout:
    read = [layer for layer in layers[:-1] if rng.random() < 0.5] + [layers[-1]]
    return IntegerReadout(
        synapses=tuple(
            IntegerSynapse(layer.name, random_weight(rng, (classes, prod(layer.shape))))
            for layer in read
        ),
        scales=tuple(float(scale) for scale in rng.uniform(1e-3, 1e-2, len(read))),
        bias=rng.normal(size=classes),
    )
