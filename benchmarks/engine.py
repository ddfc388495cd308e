"""Sample-steps per second of the integer engine on two networks, and of Lava.

A sample-step is one sample of a batch advanced by one time step through all layers. Images are held
for 200 steps, as in the default data. Weights are random, thresholds such that every layer fires
at a tenth of its neurons' steps or so; the engine's work grows with the spikes.

The second network is recurrent, with spikes of the size of SHD's in 100 steps as inputs. Its steps
run one by one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from math import prod

import numpy as np
import torch

from neuro.errors import BackendUnavailable
from neuro.hardware.lava import network as lava
from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.integer import (
    IntegerDualLIF,
    IntegerLayer,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    Integers,
    IntegerSynapse,
)
from neuro.models.graph import Shape
from neuro.ops.fixed_point import decay_register
from neuro.runtime.memory import keep_freed_memory

keep_freed_memory()  # as in training

FRAMES = 200
SAMPLES = 256


def default_network(seed: int = 0) -> IntegerNetwork:
    """Dual-timescale convolutions 32-32-64 and 256 dense neurons on 8x8 images, read by 10."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Integers:
        return 2 * rng.integers(-60, 64, shape).astype(np.int32)

    def layer(name: str, shape: Shape, vth: int, fast: IntegerSynapse) -> IntegerLayer:
        slow = IntegerSynapse(
            fast.source, weight(*fast.weight.shape), fast.stride, fast.padding, fast.graded
        )
        return IntegerDualLIF(
            name=name,
            shape=shape,
            fast=fast,
            slow=slow,
            dv_fast=decay_register(5.0, 1.0),
            dv_slow=decay_register(100.0, 1.0),
            vth=vth,
            gamma=np.full(shape[0], 128, np.int32),
            merge="gate",
            reset="subtract",
        )

    layers = (
        layer(
            "conv1",
            (32, 8, 8),
            8_000,
            IntegerSynapse("input", weight(32, 1, 3, 3), (1, 1), (1, 1), graded=True),
        ),
        layer(
            "conv2",
            (32, 4, 4),
            1_000,
            IntegerSynapse("conv1", weight(32, 32, 3, 3), (2, 2), (1, 1)),
        ),
        layer(
            "conv3",
            (64, 2, 2),
            700,
            IntegerSynapse("conv2", weight(64, 32, 3, 3), (2, 2), (1, 1)),
        ),
        layer("dense", (256,), 800, IntegerSynapse("conv3", weight(256, 256))),
    )
    heads = tuple(IntegerSynapse(m.name, weight(10, prod(m.shape))) for m in layers)
    readout = IntegerReadout(heads, (0.01,) * len(heads), np.zeros(10))
    return IntegerNetwork((1, 8, 8), 6, 16, 1.0, layers, readout)


def recurrent_network(seed: int = 0) -> IntegerNetwork:
    """256 CuBa neurons that lead to themselves, from 140 channels of spikes, read by 20."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Integers:
        return 2 * rng.integers(-40, 41, shape).astype(np.int32)

    layer = IntegerLIF(
        name="hidden1",
        shape=(256,),
        synapse=IntegerSynapse("input", weight(256, 140)),
        dv=decay_register(40.0, 10.0),
        vth=500,
        reset="subtract",
        du=decay_register(10.0, 10.0) - 1,
        recurrent=IntegerSynapse("hidden1", weight(256, 256)),
    )
    heads = IntegerReadout((IntegerSynapse("hidden1", weight(20, 256)),), (0.01,), np.zeros(20))
    return IntegerNetwork((140,), 2, 1, 10.0, (layer,), heads)


def recurrent_rate(network: IntegerNetwork, *, samples: int = SAMPLES, rounds: int = 5) -> float:
    """Median sample-steps per second for sequences of 100 steps, a spike in one of twenty."""
    rng = np.random.default_rng(0)
    inputs = (rng.random((samples, 100, *network.input_shape)) < 0.05).astype(np.int32)
    return samples * 100 / _median_seconds(lambda: engine.run(network, inputs), rounds)


def _median_seconds(run: Callable[[], object], rounds: int) -> float:
    """After one run to warm up."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def engine_rate(
    network: IntegerNetwork, *, samples: int = SAMPLES, frames: int = FRAMES, rounds: int = 5
) -> float:
    """Median sample-steps per second for held random frames."""
    rng = np.random.default_rng(0)
    inputs = network.encode(rng.random((samples, 1, *network.input_shape)))
    seconds = _median_seconds(lambda: engine.run(network, inputs, frames=frames), rounds)
    return samples * frames / seconds


def lava_rate(network: IntegerNetwork, *, frames: int = FRAMES) -> float:
    """The same of Lava's process graph, which streams one sample; BackendUnavailable without it."""
    rng = np.random.default_rng(0)
    held = network.encode(rng.random((1, 1, *network.input_shape))).repeat(frames, axis=1)
    output = lava.simulate(network, held, record_spikes=False)
    return output.steps / output.seconds


def main() -> None:
    network = default_network()
    rate = engine_rate(network)
    print(
        f"Integer engine on {torch.get_num_threads()} CPU threads, default network, "
        f"{SAMPLES} samples of {FRAMES} steps\n{rate:,.0f} sample-steps per second"
    )
    print(f"{recurrent_rate(recurrent_network()):,.0f} of the recurrent network")
    try:
        other = lava_rate(network)
    except BackendUnavailable as error:
        print(f"Lava was not measured. {error}")
    else:
        print(
            f"{other:,.1f} by Lava on all CPUs, {1e3 / other:.1f} ms each: "
            f"the engine is {rate / other:,.0f} times as fast"
        )


if __name__ == "__main__":
    main()
