"""NIR files and integer sidecars: exact round trips, and equal spikes in another library."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from functools import partial

import h5py
import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file

from neuro.data.base import InputSpec
from neuro.errors import DataError, ExportError
from neuro.hardware.loihi2.integer import (
    IntegerDualLIF,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from neuro.hardware.nir import interchange
from neuro.hardware.nir.interchange import read_integers, read_nir, write_integers, write_nir
from neuro.models.graph import (
    Conv2dNode,
    DenseNode,
    DualLIFNode,
    Edge,
    FlattenNode,
    InputNode,
    LayerGraph,
    LayerNode,
    LIFNode,
    ReadoutNode,
)
from neuro.models.rsnn import RSNN
from neuro.models.spiking_cnn import SpikingCNN
from tests.models.test_rsnn import NEURONS, SPEC
from tests.networks import network

STEPS = 60


def assert_same(one, other):
    """Assert bit-identical arrays of equal type and shape."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_same(tuple(one.values()), tuple(other.values()))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def normal(*shape, scale=1.0, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def everything(merge="gate", reset="subtract"):
    """All kinds of nodes, with biases, strides and paddings, and names with common prefixes."""

    def dual(shape, tau_fast_ms, tau_slow_ms, threshold):
        gamma = gate(shape[0]) if merge == "gate" else None
        return DualLIFNode(shape, tau_fast_ms, tau_slow_ms, threshold, gamma, merge, reset)

    nodes = {
        "z/input": InputNode((2, 5, 4)),
        "conv/input": Conv2dNode((2, 5, 4), normal(3, 2, 3, 3), (2, 1), (1, 0), normal(3)),
        "conv": LIFNode((3, 3, 2), 20.0, 0.3, "zero"),
        "plain/input": Conv2dNode((3, 3, 2), normal(2, 3, 1, 1)),
        "plain": LIFNode((2, 3, 2), 7.3, 0.1 + 0.2, "subtract"),
        "map/fast": Conv2dNode((2, 3, 2), normal(4, 2, 3, 3), padding=(1, 1)),
        "map/slow": Conv2dNode((2, 3, 2), normal(4, 2, 3, 3, seed=1), padding=(1, 1)),
        "map": dual((4, 3, 2), 5.0, 100.0, 0.4),
        "map/flat": FlattenNode((4, 3, 2)),
        "a/fast": DenseNode(normal(5, 24)),
        "a/slow": DenseNode(normal(5, 24, seed=1), normal(5)),
        "a": dual((5,), 4.9, 99.9, 0.6),
        "conv/flat": FlattenNode((3, 3, 2)),
        "readout/conv": DenseNode(normal(2, 18)),
        "readout/a": DenseNode(normal(2, 5), normal(2)),
        "readout": ReadoutNode(normal(2, seed=1)),
    }
    edges = [
        ("z/input", "conv/input"),
        ("conv/input", "conv"),
        ("conv", "plain/input"),
        ("plain/input", "plain"),
        ("plain", "map/fast"),
        ("plain", "map/slow"),
        ("map/fast", "map", "fast"),
        ("map/slow", "map", "slow"),
        ("map", "map/flat"),
        ("map/flat", "a/fast"),
        ("map/flat", "a/slow"),
        ("a/fast", "a", "fast"),
        ("a/slow", "a", "slow"),
        ("conv", "conv/flat"),
        ("conv/flat", "readout/conv"),
        ("readout/conv", "readout"),
        ("a", "readout/a"),
        ("readout/a", "readout"),
    ]
    return LayerGraph(nodes, tuple(Edge(*edge) for edge in edges))


def gate(channels):
    return np.random.default_rng(channels).random(channels, np.float32)


def chain(*layers, **named):
    """A chain of nodes after an input of the first node's shape."""
    named = {**{f"layer{i}": layer for i, layer in enumerate(layers)}, **named}
    nodes = {"input": InputNode(next(iter(named.values())).input_shape), **named}
    names = list(nodes)
    return LayerGraph(nodes, tuple(map(Edge, names[:-1], names[1:])))


def spike_trains(*shape, rate=0.4, seed=3):
    """Random spikes `[T, ...]`."""
    return (np.random.default_rng(seed).random((STEPS, *shape)) < rate).astype(np.float32)


def euler(graph, frames, step_ms):
    """Simulate a graph by NIR's definition with Euler's method in float64.

    Recurrent inputs arrive one step later. Returns every node's outputs
    `[T, ...]`, and the least distance of a membrane potential from its threshold.
    """
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}

    def feeds(source, target, seen):
        """Whether there is a path from source to target."""
        if source in seen:
            return False
        seen.add(source)
        return any(b == target or feeds(b, target, seen) for a, b in graph.edges if a == source)

    loops = {
        (source, name)
        for name, node in graph.nodes.items()
        if isinstance(node, (nir.LI, nir.LIF, nir.CubaLIF))
        for source in sources[name]
        if not isinstance(graph.nodes[source], nir.LI) and feeds(name, source, set())
    }
    states, outputs, distance = {}, [], math.inf
    for frame in frames:
        now = {}

        def output(name, now=now, frame=frame):
            nonlocal distance
            if name in now:
                return now[name]
            node = graph.nodes[name]
            x = frame.astype(np.float64) if isinstance(node, nir.Input) else 0.0
            for source in sources[name]:
                if (source, name) not in loops:
                    x = x + output(source)
                elif outputs:
                    x = x + outputs[-1][source]
            if isinstance(node, nir.Conv2d):
                arrays = (
                    torch.from_numpy(a.astype(np.float64)) for a in (x, node.weight, node.bias)
                )
                stride, padding = tuple(map(int, node.stride)), tuple(map(int, node.padding))
                x = F.conv2d(*arrays, stride, padding).numpy()
            elif isinstance(node, (nir.Linear, nir.Affine)):
                x = node.weight @ x + getattr(node, "bias", 0)
            elif isinstance(node, nir.Flatten):
                x = x.reshape(-1)
            elif isinstance(node, nir.Scale):
                x = node.scale * x
            elif isinstance(node, nir.Delay):
                past = states.setdefault(name, [])
                past.append(x)
                late = len(past) - 1 - np.rint(node.delay / step_ms * 1e3).astype(int)
                taken = [past[t][i] if t >= 0 else 0.0 for i, t in enumerate(late)]
                x = np.array(taken)
            elif isinstance(node, (nir.LI, nir.LIF)):
                v = states.get(name, np.zeros(node.tau.shape))
                states[name] = x = v + step_ms / 1e3 / node.tau * (node.v_leak - v + node.r * x)
            elif isinstance(node, nir.CubaLIF):
                i, v = (states.get(key, np.zeros(node.r.shape)) for key in (f"{name}.i", name))
                i = i + step_ms / 1e3 / node.tau_syn * (node.w_in * x - i)
                states[f"{name}.i"] = i
                states[name] = x = v + step_ms / 1e3 / node.tau_mem * (node.v_leak - v + node.r * i)
            if isinstance(node, (nir.LIF, nir.CubaLIF, nir.Threshold)):
                resets = not isinstance(node, nir.Threshold)
                theta = node.v_threshold if resets else node.threshold
                distance = min(distance, np.abs(x - theta).min())
                x = (x > theta).astype(np.float64)
                if resets:
                    states[name] = np.where(x, node.v_reset, states[name])
            now[name] = x
            return x

        outputs.append({name: output(name) for name in graph.nodes})
    return {name: np.stack([o[name] for o in outputs]) for name in graph.nodes}, distance


def own_run(model, frames, dt_ms):
    """Spikes of every layer `[T, ...]` and the readout's values `[T, K]` of our network."""
    names = [f"{name}/spikes" for name in model.named_layers()]
    with torch.no_grad():
        out = model(torch.from_numpy(frames)[None], dt_ms=dt_ms, record=names)
    spikes = {name.split("/")[0]: out.records[name][:, 0].numpy() for name in names}
    return spikes, out.values[0].numpy()


def rsnn(kind, reset="zero", recurrent=True, **options):
    """A small network of dense layers with neurons `kind` of tests/models/test_rsnn.py."""
    torch.manual_seed(0)
    neuron = dataclasses.replace(NEURONS[kind], reset=reset, threshold=0.25)
    options = {"hidden": (16, 12), "readout_tau_ms": None, **options}
    return with_readout(RSNN(SPEC, neuron, recurrent=recurrent, **options))


def with_readout(model):
    model.readout.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.readout.bias.data.uniform_(generator=torch.Generator().manual_seed(2))
    return model


class TestRoundTrip:
    @pytest.mark.parametrize("reset", ["subtract", "zero"])
    @pytest.mark.parametrize("merge", ["gate", "or"])
    def test_a_graph_is_restored_bit_for_bit(self, tmp_path, merge, reset):
        graph = everything(merge=merge, reset=reset)
        before = copy.deepcopy(graph)
        write_nir(graph, tmp_path / "new" / "a.nir", 3.0, reader_dt_ms=0.1)
        assert_same(graph, before)
        assert_same(read_nir(tmp_path / "new" / "a.nir"), graph)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.nir"]

    @pytest.mark.parametrize("kind", ["ltgate", "lif", "hlop", "dsdsnn"])
    @pytest.mark.parametrize("layers", ["all", ("conv1",)])
    def test_models(self, tmp_path, kind, layers):
        graph = network(kind, readout="linear", readout_layers=layers).layer_graph()
        write_nir(graph, tmp_path / "a.nir", 1.0)
        assert_same(read_nir(tmp_path / "a.nir"), graph)

    @pytest.mark.parametrize("kind", ["lif", "plif", "cuba", "dual"])
    @pytest.mark.parametrize("reset", ["subtract", "zero"])
    def test_recurrent_models(self, tmp_path, kind, reset):
        graph = rsnn(kind, reset, readout_tau_ms=20.0).layer_graph()
        write_nir(graph, tmp_path / "a.nir", 1.0)
        assert_same(read_nir(tmp_path / "a.nir"), graph)

    def test_time_constants_of_channels_of_a_map(self, tmp_path):
        model = SpikingCNN(
            dataclasses.replace(SPEC, inputs=InputSpec((1, 6, 6), coding="spikes")),
            NEURONS["plif"],
            channels=(3,),
            strides=(2,),
            dense_units=4,
            recurrent=True,
        )
        graph = model.layer_graph()
        write_nir(graph, tmp_path / "a.nir", 1.0)
        assert_same(read_nir(tmp_path / "a.nir"), graph)
        tau = nir.read(tmp_path / "a.nir").nodes["conv1.membrane"].tau
        assert tau.shape == (3, 3, 3)
        assert (tau == tau[:, :1, :1]).all() and len(np.unique(tau)) == 3

    @pytest.mark.parametrize("delay_kind", ["drawn", "synaptic"])
    def test_models_with_delays(self, tmp_path, delay_kind):
        graph = rsnn("lif", delays_ms=4.0, delay_kind=delay_kind).layer_graph()
        write_nir(graph, tmp_path / "a.nir", 1.0, reader_dt_ms=0.1)
        assert_same(read_nir(tmp_path / "a.nir"), graph)

    def test_nodes_have_the_names_of_earlier_versions(self, tmp_path):
        write_nir(everything(), tmp_path / "a.nir", 1.0)
        stored = json.loads(nir.read(tmp_path / "a.nir").metadata["neuro"])
        kinds = {node["type"] for node in stored["nodes"].values()}
        assert kinds == {"Input", "Conv2d", "Dense", "Flatten", "LIF", "DualLIF", "Readout"}

    def test_a_kernel_that_is_not_square(self, tmp_path):
        graph = chain(Conv2dNode((2, 5, 4), normal(3, 2, 3, 2)), LIFNode((3, 3, 3), 20.0, 0.5))
        write_nir(graph, tmp_path / "a.nir", 1.0)
        assert_same(read_nir(tmp_path / "a.nir"), graph)
        nir.read(tmp_path / "a.nir", type_check=False)

    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.nir"
        write_nir(everything(), path, 1.0)
        before = path.read_bytes()

        def torn(path, content):
            path.write_bytes(b"torn")
            raise KeyboardInterrupt

        monkeypatch.setattr(nir, "write", torn)
        with pytest.raises(KeyboardInterrupt):
            write_nir(everything(merge="or"), path, 1.0)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class TestMeaning:
    """The nodes of NIR by their definitions, against our kernels."""

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("lif", {"reset": "zero"}),
            ("lif", {"reset": "subtract"}),
            ("ltgate", {"merge": "gate", "gate": "variance", "gamma": 0.7}),
            ("ltgate", {"merge": "or", "reset": "zero"}),
            ("ltgate", {"merge": "or", "reset": "subtract"}),
        ],
    )
    @pytest.mark.parametrize("reader_dt_ms", [5.0, 0.1])
    def test_euler_steps_give_our_spikes(self, tmp_path, kind, options, reader_dt_ms):
        model = with_readout(network(kind, readout="linear", **options))
        frames = spike_trains(1, 6, 6)
        write_nir(model.layer_graph(), tmp_path / "a.nir", 5.0, reader_dt_ms=reader_dt_ms)
        outputs, distance = euler(nir.read(tmp_path / "a.nir"), frames, reader_dt_ms)
        assert distance > 2e-6  # spikes do not depend on rounding
        spikes, values = own_run(model, frames, 5.0)
        for layer, expected in spikes.items():
            assert 20 < expected.sum() < 0.9 * expected.size
            np.testing.assert_array_equal(outputs[layer], expected)
        np.testing.assert_allclose(outputs["output"], values, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("reset", ["subtract", "zero"])
    @pytest.mark.parametrize(
        ("kind", "recurrent", "tau_ms"),
        [("cuba", True, None), ("cuba", False, 20.0), ("plif", True, 20.0), ("lif", True, None)],
    )
    def test_recurrence_and_currents(self, tmp_path, kind, recurrent, tau_ms, reset):
        model = rsnn(kind, reset, recurrent, readout_tau_ms=tau_ms)
        frames = 2 * spike_trains(5, rate=0.3)
        write_nir(model.layer_graph(), tmp_path / "a.nir", 1.0, reader_dt_ms=0.1)
        outputs, distance = euler(nir.read(tmp_path / "a.nir"), frames, 0.1)
        assert distance > 1e-6
        spikes, values = own_run(model, frames, 1.0)
        for layer, expected in spikes.items():
            assert 20 < expected.sum() < 0.9 * expected.size
            np.testing.assert_array_equal(outputs[layer], expected)
        np.testing.assert_allclose(outputs["output"], values, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("delay_kind", ["drawn", "axonal", "synaptic"])
    def test_delays(self, tmp_path, delay_kind):
        model = rsnn("plif", delays_ms=4.0, delay_kind=delay_kind).eval()
        frames = 2 * spike_trains(5, rate=0.3)
        write_nir(model.layer_graph(), tmp_path / "a.nir", 1.0, reader_dt_ms=0.1)
        outputs, distance = euler(nir.read(tmp_path / "a.nir"), frames, 0.1)
        assert distance > 1e-6
        spikes, values = own_run(model, frames, 1.0)
        for layer, expected in spikes.items():
            assert 20 < expected.sum() < 0.9 * expected.size
            np.testing.assert_array_equal(outputs[layer], expected)
        np.testing.assert_allclose(outputs["output"], values, rtol=1e-4, atol=1e-5)

    def test_a_membrane_at_the_threshold_fires(self, tmp_path):
        graph = chain(DenseNode(np.full((1, 1), 0.3, np.float32)), LIFNode((1,), 20.0, 0.3, "zero"))
        write_nir(graph, tmp_path / "a.nir", 5.0)
        outputs, _ = euler(nir.read(tmp_path / "a.nir"), np.ones((2, 1), np.float32), 5.0)
        assert outputs["output"].all()
        read = nir.read(tmp_path / "a.nir").nodes["layer1"]
        assert np.float32(0.3) > read.v_threshold >= np.float32(0.3) * (1 - 1e-7)

    def test_decay_and_gain_are_exact_for_the_step_of_the_reader(self, tmp_path):
        graph = chain(LIFNode((2, 3, 3), 20.0, 0.5, "zero"))
        for dt_ms, reader_dt_ms in ((5.0, 5.0), (5.0, 0.1), (1e-3, 1.0), (1e4, 1.0)):
            write_nir(graph, tmp_path / "a.nir", dt_ms, reader_dt_ms=reader_dt_ms)
            node = nir.read(tmp_path / "a.nir").nodes["layer0"]
            assert node.tau.shape == (2, 3, 3)
            share = reader_dt_ms / 1e3 / node.tau.astype(np.float64)
            np.testing.assert_allclose(1 - share, math.exp(-dt_ms / 20.0), rtol=1e-7, atol=1e-7)
            np.testing.assert_allclose(share * node.r, 1, rtol=2e-7)
            assert not node.v_leak.any()
            assert not node.v_reset.any()

    def test_maps_flatten_channels_first(self, tmp_path):
        write_nir(chain(FlattenNode((2, 3, 4))), tmp_path / "a.nir", 1.0)
        read = nir.read(tmp_path / "a.nir")
        node = read.nodes["layer0"]
        assert (node.start_dim, node.end_dim) == (0, -1)
        np.testing.assert_array_equal(node.output_type["output"], [24])

    def test_an_edge_into_each_port(self, tmp_path):
        graph = everything()
        write_nir(graph, tmp_path / "a.nir", 1.0)
        edges = set(nir.read(tmp_path / "a.nir").edges)
        assert {("map.fast", "map.fast_membrane"), ("map.slow", "map.slow_membrane")} <= edges
        assert {("readout.conv", "readout"), ("readout.a", "readout")} <= edges
        assert ("readout", "output") in edges


def run_snntorch(module, frames, layers):
    """Spikes of layers and values of a module of snnTorch's, for frames `[T, ...]`."""
    spikes = {name: [] for name in layers}
    for name, train in spikes.items():
        module.get_submodule(name).register_forward_hook(
            lambda module, args, out, train=train: train.append(out.detach().numpy())
        )
    values, state = [], None
    for frame in torch.from_numpy(frames):
        value, state = module(frame, state)
        values.append(value.detach().numpy())
    return {name: np.stack(train) for name, train in spikes.items()}, np.stack(values)


class TestSnnTorch:
    """Import by snnTorch, which assumes a step of 0.1 ms without documenting it."""

    def load(self, path):
        importer = pytest.importorskip(
            "snntorch.import_nir", reason="snntorch and nirtorch are in the extra `dev`"
        )
        return importer.import_from_nir(nir.read(path))

    def test_the_same_spikes(self, tmp_path):
        model = with_readout(network("lif", reset="zero", readout="linear"))
        frames = spike_trains(1, 6, 6)
        write_nir(model.layer_graph(), tmp_path / "a.nir", 5.0, reader_dt_ms=0.1)
        assert euler(nir.read(tmp_path / "a.nir"), frames, 0.1)[1] > 2e-6
        other = self.load(tmp_path / "a.nir")
        spikes, values = run_snntorch(other, frames, model.named_layers())
        expected, own_values = own_run(model, frames, 5.0)
        for name, train in spikes.items():
            assert 20 < expected[name].sum() < 0.9 * expected[name].size
            np.testing.assert_array_equal(train, expected[name])
        np.testing.assert_allclose(values, own_values, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["plif", "cuba"])
    def test_the_same_spikes_without_recurrence(self, tmp_path, kind):
        model = rsnn(kind, recurrent=False)
        write_nir(model.layer_graph(), tmp_path / "a.nir", 1.0, reader_dt_ms=0.1)
        frames = 2 * spike_trains(5, rate=0.3)
        spikes, values = run_snntorch(self.load(tmp_path / "a.nir"), frames, model.named_layers())
        expected, own_values = own_run(model, frames, 1.0)
        for name, train in spikes.items():
            np.testing.assert_array_equal(train, expected[name])
        np.testing.assert_allclose(values, own_values, atol=1e-5)

    @pytest.mark.parametrize("kind", ["lif", "plif", "cuba"])
    def test_the_same_spikes_with_recurrence(self, tmp_path, kind):
        """With snnTorch's modules, connected by nirtorch, including loops.

        snnTorch's `import_from_nir` (1.0.0) first puts each loop into a separate graph, which
        nirtorch 2 does not accept ("'GraphModule' object has no attribute 'items'").
        """
        importer = pytest.importorskip("snntorch.import_nir")
        nirtorch = pytest.importorskip("nirtorch")
        model = rsnn(kind)
        write_nir(model.layer_graph(), tmp_path / "a.nir", 1.0, reader_dt_ms=0.1)
        convert = partial(importer._nir_to_snntorch_module, init_hidden=True)
        kinds = nir.Affine, nir.Linear, nir.LIF, nir.CubaLIF
        other = nirtorch.nir_to_torch(nir.read(tmp_path / "a.nir"), dict.fromkeys(kinds, convert))
        frames = 2 * spike_trains(5, rate=0.3)
        spikes, values = run_snntorch(other, frames[:, None], model.named_layers())
        expected, own_values = own_run(model, frames, 1.0)
        for name, train in spikes.items():
            assert 20 < expected[name].sum() < 0.9 * expected[name].size
            np.testing.assert_array_equal(train[:, 0], expected[name])
        np.testing.assert_allclose(values[:, 0], own_values, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("kind", "options", "node"),
        [
            ("lif", {"reset": "subtract"}, "LI|Threshold|Scale"),
            ("ltgate", {"merge": "gate"}, "LI|Threshold|Scale"),
            ("ltgate", {"merge": "or", "reset": "zero"}, "Threshold"),
        ],
    )
    def test_nodes_unknown_to_snntorch_are_refused(self, tmp_path, kind, options, node):
        write_nir(network(kind, **options).layer_graph(), tmp_path / "a.nir", 1.0)
        with pytest.raises(ValueError, match=f"Unknown node type .*({node})"):
            self.load(tmp_path / "a.nir")


def test_a_gated_reset_to_zero_is_refused_by_other_readers(tmp_path):
    write_nir(everything(reset="zero"), tmp_path / "a.nir", 1.0)
    with pytest.raises(AssertionError):
        nir.read(tmp_path / "a.nir")


class TestUnwritable:
    @pytest.mark.parametrize(
        ("graph", "steps", "message"),
        [
            (chain(DenseNode(normal(2, 2))), (0.0, None), "dt_ms must be above 0; got 0.0"),
            (chain(DenseNode(normal(2, 2))), (1.0, 0.0), "reader_dt_ms must be above 0; got 0.0"),
            (chain(DenseNode(normal(2, 2))), (math.nan, None), "dt_ms must be above 0; got nan"),
            (
                chain(lif=LIFNode((2,), math.inf, 0.5)),
                (1.0, None),
                "layer 'lif': a time constant of inf ms does not decay within a step of 1.0 ms",
            ),
            (
                chain(**{"a/b": DenseNode(normal(2, 2)), "a.b": DenseNode(normal(2, 2))}),
                (1.0, None),
                r"two nodes would be called 'a\.b' in NIR; rename a layer",
            ),
            (
                chain(**{"output": DenseNode(normal(2, 2))}),
                (1.0, None),
                "two nodes would be called 'output'",
            ),
        ],
    )
    def test_the_reason_is_given(self, tmp_path, graph, steps, message):
        with pytest.raises(ExportError, match=message):
            write_nir(graph, tmp_path / "a.nir", steps[0], reader_dt_ms=steps[1])
        assert not any(tmp_path.iterdir())

    def test_a_layer_of_another_kind(self, tmp_path):
        @dataclasses.dataclass(frozen=True, eq=False)
        class Pool(LayerNode):
            @property
            def input_shape(self):
                return (2,)

            output_shape = input_shape

        with pytest.raises(ExportError, match="layer 'pool': NIR has no form of a Pool"):
            write_nir(chain(pool=Pool()), tmp_path / "a.nir", 1.0)


class TestUnreadable:
    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"a\.nir: there is no such NIR file"):
            read_nir(tmp_path / "a.nir")

    def test_another_format(self, tmp_path):
        path = tmp_path / "a.nir"
        path.write_text("weights")
        with pytest.raises(DataError, match=r"a\.nir: damaged, or not a NIR graph in HDF5"):
            read_nir(path)

    def test_truncated(self, tmp_path):
        path = tmp_path / "a.nir"
        write_nir(everything(), path, 1.0)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(DataError, match=r"a\.nir: damaged, or not .*Export the model again"):
            read_nir(path)

    @pytest.mark.parametrize("content", [{}, {"node/type": "NIRGraph"}, {"node/nodes/a/x": 1}])
    def test_hdf5_that_is_not_nir(self, tmp_path, content):
        with h5py.File(tmp_path / "a.nir", "w") as file:
            for key, value in content.items():
                file[key] = value
        with pytest.raises(DataError, match=r"a\.nir: damaged, or not a NIR graph in HDF5"):
            read_nir(tmp_path / "a.nir")

    def test_from_another_program(self, tmp_path):
        nir.write(tmp_path / "a.nir", nir.NIRGraph.from_list(nir.Linear(normal(2, 3))))
        with pytest.raises(DataError, match=r"a\.nir: a NIR file from another program"):
            read_nir(tmp_path / "a.nir")

    def test_unknown_nodes_are_named(self, tmp_path):
        pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
        graph = nir.NIRGraph({"pool": pool}, [], type_check=False)
        nir.write(tmp_path / "a.nir", graph)
        message = r"nodes of a type that is not used here: 'pool' \(SumPool2d\)\. Known are Affine,"
        with pytest.raises(DataError, match=message):
            read_nir(tmp_path / "a.nir")

    def test_changed_by_another_program(self, tmp_path):
        path = tmp_path / "a.nir"
        write_nir(everything(), path, 1.0)
        graph = nir.read(path)
        graph.nodes["conv"].v_threshold *= 1.01
        nir.write(path, graph)
        with pytest.raises(DataError, match=r"v_threshold of node 'conv' is not what .* changed"):
            read_nir(path)

    def test_a_changed_weight_is_the_weight(self, tmp_path):
        path = tmp_path / "a.nir"
        write_nir(everything(), path, 1.0)
        graph = nir.read(path)
        graph.nodes["a.fast"].weight *= 2
        nir.write(path, graph)
        np.testing.assert_array_equal(read_nir(path).nodes["a/fast"].weight, 2 * normal(5, 24))

    def test_rewired(self, tmp_path):
        path = tmp_path / "a.nir"
        write_nir(everything(), path, 1.0)
        graph = nir.read(path)
        graph.edges.remove(("plain.reset", "plain.membrane"))
        nir.write(path, graph)
        with pytest.raises(DataError, match=r"the edge plain\.reset -> plain\.membrane is not"):
            read_nir(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda stored: stored.update(format="neuro-layer-graph-9"),
                "format 'neuro-layer-gr.*9",
            ),
            (lambda stored: stored.pop("dt_ms"), r"in the metadata is damaged \('dt_ms'\)"),
            (lambda stored: stored["nodes"]["conv"].pop("tau_ms"), "is damaged .*tau_ms"),
            (lambda stored: stored["nodes"]["conv"].update(type="ALIF"), "is damaged .*ALIF"),
            (lambda stored: stored["edges"].pop(0), "is damaged .*nothing is connected"),
        ],
    )
    def test_damaged_metadata(self, tmp_path, change, message):
        path = tmp_path / "a.nir"
        write_nir(everything(), path, 1.0)
        graph = nir.read(path)
        stored = json.loads(graph.metadata["neuro"])
        change(stored)
        graph.metadata["neuro"] = json.dumps(stored)
        nir.write(path, graph)
        with pytest.raises(DataError, match=message):
            read_nir(path)


def integers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(-256, 256, shape, np.int32)


def integer_network():
    """Every kind of layer and synapse."""
    first = IntegerSynapse("input", integers(3, 2, 3, 2), (2, 1), (1, 0), graded=True)
    dual = {"dv_fast": 740, "dv_slow": 40, "vth": 131071, "reset": "subtract"}
    return IntegerNetwork(
        (2, 5, 4),
        9,
        255,
        0.1 + 0.2,
        (
            IntegerLIF("conv", (3, 3, 3), first, 200, 900, "zero", 12, integers(3), 5),
            IntegerDualLIF(
                "map",
                (4, 3, 3),
                IntegerSynapse("conv", integers(4, 3, 1, 1)),
                IntegerSynapse("conv", integers(4, 3, 1, 1, seed=1)),
                gamma=np.array([0, 1, 255, 256], np.int32),
                merge="gate",
                **dual,
            ),
            IntegerDualLIF(
                "dense",
                (5,),
                IntegerSynapse("map", integers(5, 36)),
                IntegerSynapse("map", integers(36, 5).T),
                gamma=None,
                merge="or",
                **dual,
            ),
        ),
        IntegerReadout(
            (IntegerSynapse("conv", integers(2, 27)), IntegerSynapse("dense", integers(2, 5))),
            (1 / 3, 2.0**-7),
            np.array([0.1, -1e-300]),
        ),
    )


class TestIntegers:
    def test_a_network_is_restored_bit_for_bit(self, tmp_path):
        network = integer_network()
        before = copy.deepcopy(network)
        write_integers(network, tmp_path / "new" / "20ms.safetensors")
        assert_same(network, before)
        read = read_integers(tmp_path / "new" / "20ms.safetensors")
        assert_same(read, network)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["20ms.safetensors"]
        assert read.depths() == {"input": 0, "conv": 1, "map": 2, "dense": 3}

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"a\.safetensors: there is no such file of integers"):
            read_integers(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"weights": [1, 2]})])
    def test_another_format(self, tmp_path, content):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match="a: damaged, or not a safetensors file"):
            read_integers(tmp_path / "a")

    def test_truncated(self, tmp_path):
        path = tmp_path / "a"
        write_integers(integer_network(), path)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"a: damaged, .*Export the model again"):
            read_integers(path)

    def test_one_changed_bit(self, tmp_path):
        path = tmp_path / "a"
        write_integers(integer_network(), path)
        content = path.read_bytes()
        path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
        with pytest.raises(DataError, match="a: the checksum does not match"):
            read_integers(path)

    def test_changed_text(self, tmp_path):
        path = tmp_path / "a"
        write_integers(integer_network(), path)
        path.write_bytes(path.read_bytes().replace(b"131071", b"131070"))
        with pytest.raises(DataError, match="a: the checksum does not match"):
            read_integers(path)

    @pytest.mark.parametrize(("metadata", "given"), [(None, "none"), ({"format": "x-2"}, "x-2")])
    def test_from_another_program(self, tmp_path, metadata, given):
        save_file({"weight": integers(2, 3)}, tmp_path / "a", metadata=metadata)
        with pytest.raises(DataError, match=f"expected .* 'neuro-integers-1', got '{given}'"):
            read_integers(tmp_path / "a")

    @pytest.mark.parametrize(
        ("one", "other", "message"),
        [
            ('"dv": 200', '"dv": 4096', "layer 'conv': dv is 4,096; its register holds 0 to 4,095"),
            (
                '"source": "map"',
                '"source": "dense"',
                "layer 'dense': its source 'dense' is not among",
            ),
            ('"dv": 200', '"tau": 200', "unexpected keyword argument 'tau'"),
            ('"type": "IntegerLIF"', '"type": "IntegerALIF"', "IntegerALIF"),
            ('{"array": "network.readout.bias"}', '{"array": "bias"}', "'bias'"),
            ('"layers": ', '"layers": 3, "more": ', "more"),
            ('"dt_ms": ', '"dt_ms" ', "delimiter"),
        ],
    )
    def test_an_inconsistent_network(self, tmp_path, one, other, message):
        """A file of another program with a valid checksum."""
        write_integers(integer_network(), tmp_path / "a")
        with safe_open(tmp_path / "a", framework="np") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert one in metadata["network"]
        metadata["network"] = metadata["network"].replace(one, other)
        metadata["sha256"] = interchange._sha256(metadata["network"], arrays)
        save_file(arrays, tmp_path / "a", metadata=metadata)
        with pytest.raises(DataError, match=f"a: the network in it is damaged .*{message}"):
            read_integers(tmp_path / "a")
