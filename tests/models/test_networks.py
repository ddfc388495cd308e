"""The contract of all spiking networks, and LT-Gate against a step-by-step reference."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neuro.config.build import build
from neuro.data.base import InputSpec
from neuro.errors import ConfigError
from neuro.layers import dual_timescale, lif
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.layers.gate import Gating
from neuro.learning.rules.ltgate import plasticity
from neuro.models.base import CoreModel
from neuro.models.capabilities import connection_weights
from neuro.models.consolidation import DSDSNN, HLOP, structure
from neuro.models.graph import DualLIFNode, LIFNode
from neuro.models.spiking_cnn import SpikingCNN
from tests.fakes import FakeData
from tests.networks import MODELS, NEURONS, network

LAYERS = ("conv1", "conv2", "dense")
SHAPES = {"conv1": (3, 6, 6), "conv2": (4, 3, 3), "dense": (6,)}


def frames(steps=6, batch=3, seed=0):
    return torch.rand(batch, steps, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def trained(kind, **options):
    """A network whose readout is not zero."""
    model = network(kind, readout="linear", **options)
    model.readout.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.readout.bias.data.uniform_(generator=torch.Generator().manual_seed(2))
    return model


@pytest.mark.parametrize("kind", MODELS)
class TestContract:
    def test_values_have_a_row_of_outputs_per_step(self, kind):
        out = trained(kind)(frames(), dt_ms=1.0)
        assert out.values.shape == (3, 6, 4)
        assert out.values.abs().sum() > 0
        assert out.records == {}

    def test_a_run_in_chunks_equals_the_whole(self, kind):
        model, x = trained(kind), frames()
        whole = model(x, dt_ms=2.0)
        state, parts = None, []
        for chunk in x.split([1, 3, 2], dim=1):
            out = model(chunk, state, dt_ms=2.0)
            state = out.state
            parts.append(out.values)
        torch.testing.assert_close(torch.cat(parts, 1), whole.values)
        torch.testing.assert_close(state, whole.state)

    @torch.no_grad()
    def test_batches_in_parts_equal_the_whole(self, kind, monkeypatch):
        model, x = trained(kind), frames()
        state = model(frames(seed=1), dt_ms=1.0).state
        for inputs in (x, x[:, :1].expand(-1, 6, -1, -1, -1)):
            arguments = inputs, state
            options = {"dt_ms": 1.0, "record": model.recordable, "lengths": torch.tensor([6, 2, 4])}
            monkeypatch.setattr("neuro.models.spiking.PART_BYTES", 1 << 25)
            whole = model(*arguments, **options)
            monkeypatch.setattr("neuro.models.spiking.PART_BYTES", 1)
            parts = model(*arguments, **options)
            torch.testing.assert_close(parts, whole)

    def test_no_state_is_the_initial_state_and_the_model_keeps_none(self, kind):
        model, x = trained(kind), frames()
        first = model(x, dt_ms=1.0)
        again = model(x, model.initial_state(3), dt_ms=1.0)
        assert torch.equal(first.values, again.values)
        rest = torch.utils._pytree.tree_leaves(model.initial_state(3))
        assert not any(leaf.any() for leaf in rest)
        assert [leaf.shape for leaf in rest] == [
            leaf.shape for leaf in torch.utils._pytree.tree_leaves(first.state)
        ]

    def test_the_time_step_matters(self, kind):
        model, x = trained(kind), frames()
        assert not torch.equal(model(x, dt_ms=1.0).values, model(x, dt_ms=20.0).values)

    def test_held_frames_equal_repeated_ones(self, kind):
        model, x = trained(kind), frames(steps=1)
        held = model(x.expand(-1, 5, -1, -1, -1), dt_ms=1.0)
        torch.testing.assert_close(held.values, model(x.repeat(1, 5, 1, 1, 1), dt_ms=1.0).values)

    def test_records_have_their_shapes(self, kind):
        model = trained(kind)
        out = model(frames(), dt_ms=1.0, record=model.recordable)
        assert set(out.records) == set(model.recordable)
        for layer, shape in SHAPES.items():
            assert out.records[f"{layer}/spikes"].shape == (6, 3, *shape)
        assert out.records["conv2/inputs"].shape == (6, 3, 3, 6, 6)
        assert torch.equal(out.records["conv2/inputs"], out.records["conv1/spikes"])
        assert out.records["features"].shape == (3, 3 * 4 + 4 * 4 + 6)
        assert set(out.records["dense/spikes"].unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(
            out.records["features"][:, -6:], out.records["dense/spikes"].mean(0)
        )
        torch.testing.assert_close(
            out.records["features"][:, :12],
            F.adaptive_avg_pool2d(out.records["conv1/spikes"].mean(0), 2).flatten(1),
        )

    def test_recording_does_not_change_outputs_and_gives_requested_records_only(self, kind):
        model, x = trained(kind), frames()
        out = model(x, dt_ms=1.0, record=("dense/spikes",))
        assert list(out.records) == ["dense/spikes"]
        assert torch.equal(out.values, model(x, dt_ms=1.0).values)

    def test_values_are_the_readout_of_the_features(self, kind):
        model = trained(kind)
        out = model(frames(), dt_ms=1.0, record=("features",))
        torch.testing.assert_close(out.values.mean(1), model.readout(out.records["features"]))

    def test_an_unknown_record(self, kind):
        with pytest.raises(ConfigError, match=r"records no 'conv1/spike'.*Did you mean 'conv1/sp"):
            network(kind)(frames(), dt_ms=1.0, record=("conv1/spike",))

    def test_an_unknown_switch(self, kind):
        with pytest.raises(ConfigError, match="has no phase flag 'lifelong'. Allowed: none"):
            network(kind).set_phase(lifelong=True)

    def test_thresholds_of_layers_can_be_changed_and_are_saved(self, kind):
        model, other = trained(kind), trained(kind)
        assert list(model.thresholds) == list(LAYERS)
        before = model(frames(), dt_ms=1.0).values
        model.thresholds["conv1"].mul_(0.2)
        after = model(frames(), dt_ms=1.0).values
        assert not torch.equal(before, after)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(frames(), dt_ms=1.0).values, after)

    def test_gradients_reach_every_weight_that_is_used(self, kind):
        model = trained(kind, **({"gate": "learned"} if kind == "ltgate" else {}))
        model(frames(), dt_ms=1.0).values.square().sum().backward()
        without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert not without

    def test_statistics_name_their_layers(self, kind):
        model = network(kind)
        for name, value in model.statistics().items():
            assert name.rpartition("/")[0] in LAYERS
            assert value.ndim == 1

    def test_its_layer_graph_is_the_network(self, kind):
        graph = network(kind).layer_graph()
        neurons = {
            n: node for n, node in graph.nodes.items() if isinstance(node, (LIFNode, DualLIFNode))
        }
        assert tuple(neurons) == LAYERS
        assert {n: node.shape for n, node in neurons.items()} == {
            n: layer.shape for n, layer in network(kind).named_layers().items()
        }
        assert graph.sources("readout") == tuple(f"readout/{name}" for name in LAYERS)

    def test_its_layer_graph_is_a_snapshot(self, kind):
        model = network(kind)
        graph = model.layer_graph()
        weights = {
            n: node.weight.copy() for n, node in graph.nodes.items() if hasattr(node, "weight")
        }
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        for name, weight in weights.items():
            np.testing.assert_array_equal(graph.nodes[name].weight, weight)

    @pytest.mark.parametrize(
        "option, value",
        [
            ("threshold", 0.9), ("reset", "zero"), ("channels", (3, 5)), ("strides", (2, 2)),
            ("dense_units", 7), ("readout_layers", ("dense",)), ("readout_grid", 1),
            ("readout", "discriminant"),
        ],
    )  # fmt: skip
    def test_every_shared_option_has_an_effect(self, kind, option, value):
        base, changed = trained(kind), network(kind, **{"readout": "linear", option: value})
        if hasattr(changed.readout, "weight"):
            changed.readout.weight.data.normal_(generator=torch.Generator().manual_seed(1))
            changed.readout.bias.data.uniform_(generator=torch.Generator().manual_seed(2))
        assert not torch.equal(
            base(frames(), dt_ms=1.0).values, changed(frames(), dt_ms=1.0).values
        )

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"channels": (3,)}, "channels has 1 entries and strides 2"),
            ({"readout_layers": ("dens",)}, "no layer 'dens'.*conv1, conv2, dense.*mean 'dense'"),
            ({"readout_layers": ()}, "readout_layers is empty"),
        ],
    )
    def test_options_that_do_not_fit(self, kind, options, message):
        with pytest.raises(ValueError, match=message):
            network(kind, **options)

    def test_inputs_without_spatial_dimensions(self, kind):
        spec = dataclasses.replace(FakeData().spec("fast"), inputs=InputSpec((5,)))
        with pytest.raises(ValueError, match=r"frames of shape .* task 'fast' has \[5\]"):
            SpikingCNN(spec, NEURONS[kind]())

    def test_a_readout_layer_named_twice_counts_once(self, kind):
        model = network(kind, readout_layers=("dense", "dense"))
        assert model.readout_layers == ("dense",)
        assert model(frames(), dt_ms=1.0).values.shape == (3, 6, 4)


def test_surrogates_change_gradients_not_spikes():
    from neuro.ops.surrogate import Surrogate

    grads = {}
    for slope in (1.0, 10.0):
        model = trained("lif", surrogate=Surrogate("atan", slope))
        out = model(frames(), dt_ms=1.0)
        out.values.sum().backward()
        grads[slope] = (out.values.detach(), model.layers["conv1"].synapse.weight.grad)
    assert torch.equal(grads[1.0][0], grads[10.0][0])
    assert not torch.equal(grads[1.0][1], grads[10.0][1])


@pytest.mark.parametrize("kind", MODELS)
def test_traces_are_recorded_on_request_only(kind, monkeypatch):
    """The kernels record the requested layers only."""
    asked = []
    for module, name in ((lif, "lif"), (dual_timescale, "dual_lif")):
        kernel = getattr(module, name)

        def watch(*args, kernel=kernel, **options):
            asked.append({k for k, v in options.items() if k.startswith("record") and v})
            return kernel(*args, **options)

        monkeypatch.setattr(module, name, watch)
    model = network(kind)
    model(frames(), dt_ms=1.0)
    assert asked == [set(), set(), set()]
    asked.clear()
    membrane = next(n for n in model.recordable if n.startswith("conv2") and "membrane" in n)
    model(frames(), dt_ms=1.0, record=(membrane,))
    assert [bool(found) for found in asked] == [False, True, False]


# -- LT-Gate ----------------------------------------------------------------------------------


def reference(model: SpikingCNN, x: Tensor, dt_ms: float, merge: str, reset: str) -> Tensor:
    """The network frame by frame in plain torch, from the equations of the specification."""
    state: dict[str, list[Tensor]] = {}
    weight, bias = model.readout.linear()
    scores = []
    for frame in x.unbind(1):
        spikes, features = frame, []
        for name, layer in model.layers.items():
            if name == "dense":
                currents = [
                    spikes.flatten(1) @ branch.weight.T for branch in (layer.fast, layer.slow)
                ]
            else:
                stride = layer.fast.stride
                currents = [
                    F.conv2d(spikes, branch.weight, stride=stride, padding=1)
                    for branch in (layer.fast, layer.slow)
                ]
            before = state.get(name, [torch.zeros_like(current) for current in currents])
            taus = (layer.neuron.tau_fast_ms, layer.neuron.tau_slow_ms)
            u = [
                math.exp(-dt_ms / tau) * old + current
                for tau, old, current in zip(taus, before, currents, strict=True)
            ]
            theta = layer.threshold
            if merge == "gate":
                gamma = layer.gate.gamma().view(-1, *(1,) * (u[0].ndim - 2))
                s = (gamma * u[0] + (1 - gamma) * u[1] >= theta).float()
                each = [s, s]
            else:
                each = [(v >= theta).float() for v in u]
                s = 1 - (1 - each[0]) * (1 - each[1])
            state[name] = [
                v - theta * e if reset == "subtract" else v * (1 - e)
                for v, e in zip(u, each, strict=True)
            ]
            spikes = s
            pooled = F.adaptive_avg_pool2d(s, 2) if s.ndim == 4 else s
            features.append(pooled.flatten(1))
        scores.append(torch.cat(features, 1) @ weight.T + bias)
    return torch.stack(scores, 1)


@pytest.mark.parametrize("merge", ["gate", "or"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("gate", ["variance", "learned", "fixed"])
def test_ltgate_frame_by_frame(merge, reset, gate):
    model = trained("ltgate", merge=merge, reset=reset, gate=gate, gamma=0.3, tau_slow_ms=40.0)
    if gate == "variance":
        for layer in model.layers.values():
            layer.gate.fast_variance[1:] = 1.0  # the first channel is fast, the others slow
    x = frames(steps=8)
    torch.testing.assert_close(
        model(x, dt_ms=3.0).values, reference(model, x, 3.0, merge, reset), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "option, value",
    [
        ("tau_fast_ms", 50.0), ("tau_slow_ms", 5.0), ("merge", "or"), ("gate", "variance"),
    ],
)  # fmt: skip
def test_every_option_of_ltgate_has_an_effect(option, value):
    x = frames(steps=8)
    base = {"tau_fast_ms": 5.0, "gamma": 0.5, "gate": "fixed"}
    one = trained("ltgate", **base)(x, dt_ms=3.0).values
    assert not torch.equal(one, trained("ltgate", **{**base, option: value})(x, dt_ms=3.0).values)


def test_gamma_of_fixed_and_learned_gates():
    assert network("ltgate", gate="fixed", gamma=0.25).statistics()["dense/gamma"].unique() == 0.25
    learned = network("ltgate", gate="learned", gamma=0.25)
    torch.testing.assert_close(learned.statistics()["dense/gamma"], torch.full((6,), 0.25))
    with pytest.raises(ValueError, match="a learned gate cannot start at gamma 0 or 1"):
        network("ltgate", gate="learned", gamma=1.0)
    assert network("ltgate", gate_rate=0.5).layers["dense"].gate.rate == 0.5


def test_plasticity_ends_phase_by_phase():
    model = network("ltgate", share=0.75)
    for expected in (1.0, 0.25, 0.0625):
        assert model.plasticity == expected
        model.consolidate([])
    assert "plasticity" in model.state_dict()


# -- the other baselines ----------------------------------------------------------------------


def batches():
    return FakeData().loader("fast", "train").batches()


def test_hlop_protects_the_subspace_of_its_lateral_neurons():
    model = network("hlop", lateral_neurons=3)
    synapse = model.layers["dense"].synapse
    assert synapse.lateral.shape == (3, 4 * 3 * 3)
    found = torch.linalg.qr(synapse.lateral.T)[0]
    model.consolidate(batches())
    torch.testing.assert_close(synapse.projector, found @ found.T, atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(model.layers["conv1"].synapse.projector) == 3


def test_dsdsnn_grows_neurons_per_task_and_prunes_weak_ones():
    model = network("dsdsnn", growth=0.5, prune_below=0.5)
    synapses = structure(model.named_layers())
    owners = {name: synapse.owner.tolist() for name, synapse in synapses.items()}
    assert owners == {"conv1": [0, 0, -1], "conv2": [0, 0, -1, -1], "dense": [0, 0, 0, -1, -1, -1]}
    model.layers["dense"].synapse.synapse.weight.data[1].zero_()  # the neuron never fires
    model.consolidate(batches())
    dense = synapses["dense"].owner.tolist()
    assert dense[1] != 0
    assert dense.count(1) == 3
    input_owners = synapses["dense"].listens_to
    assert torch.equal(input_owners.view(4, 9)[:, 0], synapses["conv2"].owner)
    assert (input_owners.view(4, 9) == input_owners.view(4, 9)[:, :1]).all()
    grown = model.statistics()["dense/grown"]
    assert torch.equal(grown > 0, synapses["dense"].owner >= 0)


def test_dsdsnn_without_pruning_keeps_all_neurons():
    model = network("dsdsnn", growth=0.5, prune_below=0.0)
    model.consolidate(batches())
    assert structure(model.named_layers())["dense"].owner.tolist() == [0, 0, 0, 1, 1, 1]


def test_dsdsnn_spikes_of_an_earlier_task_never_change():
    model = network("dsdsnn", readout="linear", growth=0.5, prune_below=0.0)
    x = frames()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)

    def learn():
        model.readout.weight.data.normal_(generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            optimizer.zero_grad()
            model(x, dt_ms=1.0).values.square().sum().backward()
            optimizer.step()

    def spikes():
        return model(x, dt_ms=1.0, record=("dense/spikes",)).records["dense/spikes"]

    learn()
    before = spikes()
    model.consolidate(batches())
    learn()
    assert torch.equal(spikes()[..., :3], before[..., :3])
    assert spikes()[..., 3:].any()


@pytest.mark.parametrize("kind", MODELS)
def test_connection_weights_are_the_learnable_matrices_and_kernels(kind):
    model = network(kind, readout="linear")
    weights = connection_weights(model)
    assert all(weight.ndim >= 2 for weight in weights.values())
    assert "readout.weight" in weights and "readout.bias" not in weights
    assert {name.split(".")[1] for name in weights if name != "readout.weight"} == set(model.layers)
    frozen = next(iter(weights))
    weights[frozen].requires_grad_(False)
    assert frozen not in connection_weights(model)


def test_activity_is_the_spikes_and_convolutions_are_no_matrices():
    model = network("lif")
    assert model.activity_records() == {name: f"{name}/spikes" for name in model.layers}
    assert set(model.activity_records().values()) <= set(model.recordable)


@pytest.mark.parametrize("method", [HLOP(), DSDSNN()], ids=lambda method: type(method).__name__)
def test_a_consolidation_that_needs_one_synapse_per_neuron(method):
    with pytest.raises(ValueError, match=f"{type(method).__name__} needs neurons with one comp"):
        network("ltgate", consolidation=method)


def test_other_neurons_in_the_same_network():
    """LT-Gate's neurons without its consolidation, as `model=lif model/neuron=dual_timescale`."""
    model = SpikingCNN(FakeData().spec("fast"), DualTimescaleNeuron(gate=Gating("fixed")))
    assert "plasticity" not in model.state_dict()
    assert plasticity(model) == 1
    model.consolidate([])
    assert plasticity(model) == 1


def test_a_user_defined_neuron():
    neuron = {"_target_": "tests.e2e.plugins.UnequalThresholds", "tau_ms": 5.0, "spread": 0.1}
    node = {"_target_": "neuro.models.spiking_cnn.SpikingCNN", "channels": [3], "strides": [1]}
    spec = FakeData().spec("fast")
    model = build({**node, "neuron": neuron}, CoreModel, "model", spec=spec)
    assert len({float(threshold) for threshold in model.thresholds.values()}) == 2
    assert {layer.neuron.tau_ms for layer in model.named_layers().values()} == {5.0}
    other = {"_target_": "neuro.models.consolidation.HLOP"}
    with pytest.raises(ConfigError, match=r"model.neuron._target_: .* not a subclass of .*Neuron"):
        build({**node, "neuron": other}, CoreModel, "model", spec=spec)
