"""Floating-point simulation of the layer graph against its model."""

from __future__ import annotations

import pytest
import torch

from neuro.hardware.loihi2.floating import run_graph
from neuro.models.graph import DenseNode
from neuro.models.spiking_cnn import SpikingCNN
from tests.models.test_rsnn import inputs, made
from tests.networks import MODELS, network

LAYERS = ("conv1", "conv2", "dense")


def frames(held: bool, steps: int = 30) -> torch.Tensor:
    """[5, T, 1, 6, 6], held or different at each step."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(5, 1 if held else steps, 1, 6, 6, generator=generator)
    return x.expand(-1, steps, -1, -1, -1)


def trained(model: SpikingCNN) -> SpikingCNN:
    """The network with a random readout instead of the initial zeros."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        model.readout.weight.normal_(generator=generator)
        model.readout.bias.normal_(generator=generator)
    return model.eval()


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_the_graph_equals_the_model(kind: str, held: bool) -> None:
    model = trained(network(kind, readout="linear"))
    x = frames(held)
    expected = model(x, dt_ms=2.0, record=[f"{name}/spikes" for name in LAYERS])
    found = run_graph(model.layer_graph(), x, 2.0, record_spikes=True)
    for name in LAYERS:
        spikes = expected.records[f"{name}/spikes"]
        assert 0.01 < spikes.mean() < 0.99
        assert torch.equal(found.spikes[name], spikes)
    torch.testing.assert_close(found.values, expected.values)


@pytest.mark.parametrize("merge", ["gate", "or"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("gate", ["variance", "learned", "fixed"])
def test_every_kind_of_dual_neuron(merge: str, reset: str, gate: str) -> None:
    model = trained(network("ltgate", readout="linear", merge=merge, reset=reset, gate=gate))
    x = frames(held=True)
    record = ["conv1/spikes", "conv2/fast_membrane", "conv2/slow_membrane"]
    expected = model(x, dt_ms=2.0, record=record)
    found = run_graph(model.layer_graph(), x, 2.0, record_spikes=True, membranes=["conv2"])
    torch.testing.assert_close(found.values, expected.values)
    assert torch.equal(found.spikes["conv1"], expected.records["conv1/spikes"])
    for i, trace in enumerate(record[1:]):
        torch.testing.assert_close(found.membranes["conv2"][:, :, i], expected.records[trace])
    assert set(found.membranes) == {"conv2"}


def test_records_are_none_unless_requested() -> None:
    found = run_graph(network("lif").layer_graph(), frames(held=True), 2.0)
    assert found.spikes == {}
    assert found.membranes == {}


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    ("kind", "tau_ms"), [("lif", None), ("plif", 20.0), ("cuba", None), ("dual", 20.0)]
)
def test_networks_of_dense_layers(kind: str, tau_ms: float | None, recurrent: bool) -> None:
    """Recurrent synapses, synaptic currents, time constants per neuron, and leaky readouts."""
    model = made(kind, recurrent=recurrent, readout_tau_ms=tau_ms).eval()
    x = 2 * inputs(5, 40)
    traces = ["fast_membrane", "slow_membrane"] if kind == "dual" else ["membrane"]
    spikes = ["hidden1/spikes", "hidden2/spikes"]
    record = [*spikes, *(f"hidden1/{trace}" for trace in traces)]
    with torch.no_grad():
        expected = model(x, dt_ms=1.0, record=record)
    found = run_graph(model.layer_graph(), x, 1.0, record_spikes=True, membranes=["hidden1"])
    for name in spikes:
        assert 0.01 < expected.records[name].mean() < 0.95
        assert torch.equal(found.spikes[name.removesuffix("/spikes")], expected.records[name])
    torch.testing.assert_close(found.values, expected.values)
    for i, trace in enumerate(traces):
        own = expected.records[f"hidden1/{trace}"]
        torch.testing.assert_close(found.membranes["hidden1"][:, :, i], own)


@pytest.mark.parametrize("delay_kind", ["drawn", "axonal", "synaptic"])
@pytest.mark.parametrize("kind", ["cuba", "dual"])
def test_delays(kind: str, delay_kind: str) -> None:
    """Delays of inputs and of synapses, which evaluation rounds to steps."""
    model = made(kind, delays_ms=5.0, delay_kind=delay_kind).eval()
    x = 2 * inputs(5, 40)
    with torch.no_grad():
        expected = model(x, dt_ms=1.0, record=["hidden1/spikes", "hidden2/spikes"])
    graph = model.layer_graph()
    node = graph.nodes["hidden2/input" if kind == "cuba" else "hidden2/slow"]
    assert isinstance(node, DenseNode) and node.delays_ms is not None
    assert node.delays_ms.shape == ((6, 8) if delay_kind == "synaptic" else (8,))
    found = run_graph(graph, x, 1.0, record_spikes=True)
    for name in ("hidden1", "hidden2"):
        spikes = expected.records[f"{name}/spikes"]
        assert 0.01 < spikes.mean() < 0.95
        assert torch.equal(found.spikes[name], spikes)
    torch.testing.assert_close(found.values, expected.values)
