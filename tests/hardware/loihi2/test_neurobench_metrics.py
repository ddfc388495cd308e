"""NeuroBench's metrics by hand, and against the package.

The second part needs the package and is skipped without it; to run it:

    pip install -e '.[neurobench]'
    python -m pytest tests/hardware/loihi2/test_neurobench_metrics.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.counts import READOUT, LayerCounts
from neuro.hardware.loihi2.integer import IntegerLIF, IntegerNetwork, IntegerReadout, IntegerSynapse
from neuro.hardware.loihi2.neurobench_metrics import neurobench_metrics
from tests.hardware.loihi2.test_mapper import dense, dual, lif, network


def test_metrics_by_hand():
    weight = np.array([[2, 0, 4, 0], [0, 0, 6, 2]], np.int32)
    layer = lif("hidden", (2,), IntegerSynapse("input", weight), bias_mantissa=np.ones(2, np.int32))
    counts = [
        LayerCounts("hidden", 5, 6, 7, 0, 80, 15, 2, 10),
        LayerCounts(READOUT, 6, 0, 0, 18, 60, 30, 3, 10),
    ]
    assert neurobench_metrics(network(layer), counts) == {
        "Footprint": 8 + 6 + (2 * 2 + 3) + 2 * 2,  # weights, du, dv and vth, biases
        "ConnectionSparsity": pytest.approx(4 / 14),
        "ActivationSparsity": pytest.approx(1 - 6 / 20),
        "ActivationSparsityByLayer": {"hidden": pytest.approx(1 - 6 / 20)},
        "SynapticOperations": {"Effective_MACs": 7, "Effective_ACs": 18, "Dense": 140},
        "MembraneUpdates": 15,
        "NeuronOperations": {"Effective Neuron Ops": 15 * 4, "Neuron Dense Ops": 20 * 4},
    }


def test_a_dual_neuron_loads_two_sets_of_weights_and_its_gate():
    layer = dual("hidden", (2,), dense("input", 2, 4))
    counts = [LayerCounts(name, 1, 0, 0, 0, 8, 2, 2, 1) for name in ("hidden", READOUT)]
    found = neurobench_metrics(network(layer), counts)
    assert found["Footprint"] == 2 * 8 + 6 + (2 * 2 + 3) + 2 * 2
    assert found["NeuronOperations"]["Neuron Dense Ops"] == 2 * 2 * 4


@pytest.mark.parametrize(("reset", "operations"), [("subtract", 6), ("zero", 8)])
def test_currents_and_recurrence_by_hand(reset, operations):
    weight = np.array([[2, 0], [0, 0]], np.int32)
    layer = lif("hidden", (2,), dense("input", 2, 4), du=np.array([5, 6], np.int32), reset=reset)
    layer = replace(layer, recurrent=IntegerSynapse("hidden", weight))
    counts = [LayerCounts(name, 1, 0, 0, 0, 8, 3, 2, 4) for name in ("hidden", READOUT)]
    found = neurobench_metrics(network(layer), counts)
    assert found["Footprint"] == (8 + 4 + 6) + (3 * 2 + 3)  # weights; 3 decays and a threshold
    assert found["ConnectionSparsity"] == pytest.approx(3 / 18)
    assert found["NeuronOperations"] == {
        "Effective Neuron Ops": 3 * operations,
        "Neuron Dense Ops": 8 * operations,
    }


def small_network(rng: np.random.Generator) -> IntegerNetwork:
    """A padded convolution with a stride, a dense layer and a readout, without leak."""

    def weight(*shape: int) -> np.ndarray:
        return (2 * rng.integers(-20, 30, shape) * (rng.random(shape) < 0.8)).astype(np.int32)

    first = IntegerSynapse("input", weight(4, 2, 3, 3), (2, 2), (1, 1), graded=True)
    second = IntegerSynapse("conv", weight(6, 4 * 3 * 3))
    layers = (
        IntegerLIF("conv", (4, 3, 3), first, dv=0, vth=2000, reset="zero"),
        IntegerLIF("dense", (6,), second, dv=0, vth=60, reset="zero"),
    )
    heads = IntegerReadout((IntegerSynapse("dense", weight(3, 6)),), (1.0,), np.zeros(3))
    return IntegerNetwork((2, 5, 5), 8, 127, 1.0, layers, heads)


class Counter:
    """Run a layer in plain torch over a batch and count its operations."""

    def __init__(self, name: str, synapse: IntegerSynapse, vth: float):
        self.name, self.synapse, self.vth = name, synapse, vth
        self.weight = torch.tensor(synapse.weight, dtype=torch.float32)
        self.totals = dict.fromkeys(
            (
                "inputs",
                "spikes",
                "synaptic_macs",
                "synaptic_acs",
                "dense_synaptic_operations",
                "neuron_updates",
            ),
            0.0,
        )
        self.v: Tensor | None = None

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.synapse.is_convolution:
            return x.flatten(1) @ weight.T
        return torch.conv2d(x, weight, None, self.synapse.stride, self.synapse.padding)

    def step(self, x: Tensor) -> Tensor:
        kind = "synaptic_macs" if self.synapse.graded else "synaptic_acs"
        events = (x != 0).float()
        self.totals["inputs"] += events.sum().item()
        self.totals[kind] += self.apply(events, (self.weight != 0).float()).sum().item()
        ones = self.apply(torch.ones_like(x), torch.ones_like(self.weight))
        self.totals["dense_synaptic_operations"] += ones.sum().item()
        total = self.apply(x, self.weight)
        v = total if self.v is None else self.v + total
        spikes = (v > self.vth).float()
        v = v * (1 - spikes)
        changed = torch.ones_like(v) if self.v is None else v != self.v
        self.v = v
        self.totals["neuron_updates"] += changed.sum().item()
        self.totals["spikes"] += spikes.sum().item()
        return spikes

    def counts(self, neurons: int, steps: int, batch: int) -> LayerCounts:
        means = {name: total / batch for name, total in self.totals.items()}
        return LayerCounts(name=self.name, neurons=neurons, steps=steps, **means)


def test_metrics_equal_those_of_the_package():
    pytest.importorskip("neurobench", reason="pip install -e '.[neurobench]'")
    import snntorch as snn
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import (
        ActivationSparsity,
        MembraneUpdates,
        SynapticOperations,
    )
    from neurobench.models import SNNTorchModel, TorchModel

    rng = np.random.default_rng(0)
    net = small_network(rng)
    batch, steps = 5, 12
    frames = rng.integers(2, 100, (batch, steps, 2, 5, 5)) * (
        rng.random((batch, steps, 1, 1, 1)) < 0.8
    )
    x_BT = torch.tensor(frames, dtype=torch.float32)  # exact: sums stay below 2^24

    counters = [Counter(m.name, m.synapse, m.vth) for m in net.layers]
    heads = Counter(READOUT, net.readout.synapses[0], float("inf"))
    for t in range(steps):
        x = x_BT[:, t]
        for counter in (*counters, heads):
            x = counter.step(x)
    counts = [
        c.counts(n, steps, batch) for c, n in zip((*counters, heads), (36, 6, 3), strict=True)
    ]
    ours = neurobench_metrics(net, counts)
    assert 0.1 < ours["ActivationSparsity"] < 0.9

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            first, second = net.layers
            neuron = {
                "beta": 1.0,
                "init_hidden": True,
                "reset_mechanism": "zero",
                "reset_delay": False,
            }
            self.conv = nn.Conv2d(2, 4, 3, 2, 1, bias=False)
            self.lif1 = snn.Leaky(threshold=first.vth, **neuron)
            self.dense = nn.Linear(36, 6, bias=False)
            self.lif2 = snn.Leaky(threshold=second.vth, **neuron)
            self.readout = nn.Linear(6, 3, bias=False)
            modules = self.conv, self.dense, self.readout
            for module, counter in zip(modules, (*counters, heads), strict=True):
                module.weight.data = counter.weight.clone()

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            spikes = self.lif2(self.dense(self.lif1(self.conv(x)).flatten(1)))
            return self.readout(spikes), None

    model = SNNTorchModel(Model())
    model.register_hooks()
    with torch.no_grad():
        predictions = model(x_BT)
    data = x_BT, torch.zeros(batch)
    sparsity = ActivationSparsity()(model, predictions, data)
    updates = MembraneUpdates()(model, predictions, data)
    operations = SynapticOperations()(model, predictions, data)

    assert ours["ActivationSparsity"] == pytest.approx(sparsity, abs=1e-12)
    assert ours["SynapticOperations"] == pytest.approx(operations)
    assert ours["MembraneUpdates"] == pytest.approx(updates)
    assert ours["ConnectionSparsity"] == pytest.approx(ConnectionSparsity()(model), abs=5e-5)

    class Loaded(nn.Module):
        """The chip's bytes as buffers: weights, and decays and a threshold for each layer."""

        def __init__(self):
            super().__init__()
            for i, synapse in enumerate([*(m.synapse for m in net.layers), *net.readout.synapses]):
                self.register_buffer(
                    f"weight{i}", torch.zeros(synapse.weight.size, dtype=torch.uint8)
                )
            for i in range(len(net.layers)):
                self.register_buffer(f"decays{i}", torch.zeros(2, dtype=torch.int16))
                self.register_buffer(f"threshold{i}", torch.zeros(3, dtype=torch.uint8))

    assert ours["Footprint"] == Footprint()(TorchModel(Loaded()))


def test_metrics_of_a_recurrent_network_equal_those_of_the_package():
    """A recurrent layer and one with synaptic currents, with the engine's counts.

    Decays are 1 or 1/2, and weights multiples of 64, so that integers and floats agree. The package
    counts the recurrent synapse like any layer. It would count that of snnTorch's `RLeaky` twice
    for reset "zero", because `RLeaky` then computes its state twice.
    """
    pytest.importorskip("neurobench", reason="pip install -e '.[neurobench]'")
    import snntorch as snn
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.workload import (
        ActivationSparsity,
        ActivationSparsityByLayer,
        MembraneUpdates,
        NeuronOperations,
        SynapticOperations,
    )
    from neurobench.models import SNNTorchModel

    rng = np.random.default_rng(1)
    first, own, second, heads = (
        (64 * rng.integers(-2, 4, shape) * (rng.random(shape) < 0.8)).astype(np.int32)
        for shape in ((8, 6), (8, 8), (5, 8), (3, 5))
    )
    layers = (
        IntegerLIF(
            *("recurrent", (8,), IntegerSynapse("input", first, graded=True)),
            *(0, 3000, "zero"),
            recurrent=IntegerSynapse("recurrent", own),
        ),
        IntegerLIF("current", (5,), IntegerSynapse("recurrent", second), 0, 800, "zero", du=2047),
    )
    readout = IntegerReadout((IntegerSynapse("current", heads),), (1.0,), np.zeros(3))
    net = IntegerNetwork((6,), 8, 127, 1.0, layers, readout)
    batch, steps = 7, 12
    frames = rng.integers(2, 30, (batch, steps, 6)) * (rng.random((batch, steps, 1)) < 0.8)
    counts = [layer.per_inference() for layer in engine.run(net, frames).counts]
    ours = neurobench_metrics(net, counts)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            options = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
            self.first = nn.Linear(6, 8, bias=False)
            self.own = nn.Linear(8, 8, bias=False)
            self.recurrent = snn.Leaky(beta=1.0, threshold=3000, **options)
            self.second = nn.Linear(8, 5, bias=False)
            self.current = snn.Synaptic(alpha=0.5, beta=1.0, threshold=800, **options)
            self.heads = nn.Linear(5, 3, bias=False)
            modules = self.first, self.own, self.second, self.heads
            for module, weight in zip(modules, (first, own, second, heads), strict=True):
                module.weight.data = torch.tensor(weight, dtype=torch.float32)
            self.spikes = torch.zeros(batch, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            self.spikes = self.recurrent(self.first(x) + self.own(self.spikes))
            return self.heads(self.current(self.second(self.spikes))), None

    model = SNNTorchModel(Model())
    model.register_hooks()
    x_BT = torch.tensor(frames, dtype=torch.float32)
    with torch.no_grad():
        predictions = model(x_BT)
    data = x_BT, torch.zeros(batch)
    assert 0.1 < ours["ActivationSparsity"] < 0.9
    for metric in (
        ActivationSparsity,
        ActivationSparsityByLayer,
        MembraneUpdates,
        SynapticOperations,
        NeuronOperations,
    ):
        found = metric()(model, predictions, data)
        assert ours[metric.__name__] == pytest.approx(found), metric.__name__
    assert ours["ConnectionSparsity"] == pytest.approx(ConnectionSparsity()(model), abs=5e-5)
