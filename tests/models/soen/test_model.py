"""SOENs: order of evaluation, delays, states, records, simulation settings and noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import InputSpec
from neuro.errors import ConfigError
from neuro.models.soen.architecture import LAYERS as TYPES
from neuro.ops.sources import STATE_DEPENDENT, source_function
from tests.ops.checks import step_response
from tests.soen import CONNECTIONS, LAYERS, frames, linear_chain, soen, spec

BACK = {"from": 2, "to": 1, "type": "dense"}
INTERNAL = {"from": 1, "to": 1, "type": "sparse", "params": {"density": 0.5}}
SKIP = {"from": 0, "to": 2, "type": "dense"}


def values(model, x=None, **options):
    model.eval()
    return model(frames() if x is None else x, dt_ms=1.0, **options).values


def impulse(model, steps=6):
    """Response of the last layer to an impulse in the first step."""
    x = torch.zeros(1, steps, 1)
    x[0, 0] = 1.0
    return values(model, x)[0, :, 0].tolist()


# -- order and delays -------------------------------------------------------------------------


def test_feed_forward_connections_do_not_delay():
    assert impulse(linear_chain("linear", "linear", "linear")) == [1, 0, 0, 0, 0, 0]
    gauss_seidel = linear_chain("linear", "linear", evaluation="gauss_seidel")
    assert impulse(gauss_seidel) == [1, 0, 0, 0, 0, 0]


def test_jacobi_delays_every_connection_but_the_inputs_by_a_step():
    assert impulse(linear_chain("linear", evaluation="jacobi")) == [1, 0, 0, 0, 0, 0]
    three = linear_chain("linear", "linear", "linear", evaluation="jacobi")
    assert impulse(three) == [0, 0, 1, 0, 0, 0]


def test_a_back_edge_delays_one_step():
    """x -> 1 -> 2 -> 1: the output of layer 2 arrives a step later, doubled in each cycle."""
    model = linear_chain("linear", "linear", extra=[{"from": 2, "to": 1}])
    assert impulse(model) == [1, 1, 1, 1, 1, 1]
    with torch.no_grad():
        model.connection("layer2", "layer1").weight.fill_(0.5)
    assert impulse(model) == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]


def test_under_jacobi_the_same_loop_takes_two_steps():
    model = linear_chain("linear", "linear", extra=[{"from": 2, "to": 1}], evaluation="jacobi")
    with torch.no_grad():
        model.connection("layer2", "layer1").weight.fill_(0.5)
    assert impulse(model, 8) == [0, 1, 0, 0.5, 0, 0.25, 0, 0.125]


def test_an_internal_connection_delays_one_step():
    model = linear_chain("linear", "linear", extra=[{"from": 1, "to": 1}])
    with torch.no_grad():
        model.connection("layer1", "layer1").weight.fill_(0.5)
    assert impulse(model) == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]


def test_a_back_edge_over_several_layers_makes_one_block():
    """0 -> 1 -> 2 -> 3 with 3 -> 1: layers 1 to 3 run step by step, 4 on the whole sequence."""
    model = linear_chain("linear", "linear", "linear", "linear", extra=[{"from": 3, "to": 1}])
    assert model._blocks == (("layer0",), ("layer1", "layer2", "layer3"), ("layer4",))
    assert impulse(model) == [1, 1, 1, 1, 1, 1]


def test_overlapping_loops_are_one_block_and_others_are_separate():
    extra = [{"from": 2, "to": 1}, {"from": 3, "to": 2}, {"from": 5, "to": 4}]
    model = linear_chain(*["linear"] * 5, extra=extra)
    assert model._blocks == (
        ("layer0",), ("layer1", "layer2", "layer3"), ("layer4", "layer5"),
    )  # fmt: skip
    stepped = linear_chain(*["linear"] * 5, extra=extra, evaluation="gauss_seidel")
    assert stepped._blocks == (("layer0",), tuple(f"layer{i}" for i in range(1, 6)))
    torch.testing.assert_close(torch.tensor(impulse(model)), torch.tensor(impulse(stepped)))


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "input"])
def test_layer_by_layer_equals_step_by_step(kind):
    layers = [LAYERS[0], {"id": 1, "type": kind, "params": {"dim": 5}}, LAYERS[2]]
    connections = [*CONNECTIONS, SKIP, {**INTERNAL, "from": 2, "to": 2}]
    found = [
        values(soen(layers, connections, evaluation=evaluation), frames(20))
        for evaluation in ("layerwise", "auto", "gauss_seidel")
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-5)
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("extra", [(), (INTERNAL,), (BACK,), (BACK, INTERNAL, SKIP)])
@pytest.mark.parametrize("evaluation", ["auto", "gauss_seidel", "jacobi"])
def test_a_sequence_in_chunks_equals_the_whole(extra, evaluation):
    model, x = soen(connections=[*CONNECTIONS, *extra], evaluation=evaluation), frames(9)
    whole = model(x, dt_ms=1.0)
    state, parts = None, []
    for chunk in x.split([1, 5, 3], dim=1):
        out = model(chunk, state, dt_ms=1.0)
        state = out.state
        parts.append(out.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole.values)
    torch.testing.assert_close(state, whole.state)
    rest = torch.utils._pytree.tree_leaves(model.initial_state(4))
    assert not any(leaf.any() for leaf in rest)


def test_a_network_by_hand():
    """Two layers of dendrites with an internal connection, step by step from the equations."""
    model = soen(connections=[*CONNECTIONS, INTERNAL], dt=20.0)
    x = frames(5)
    j = {name: connection.matrix() for name, connection in model.named_connections.items()}
    s1, s2 = torch.zeros(4, 5), torch.zeros(4, 2)
    fan_out = 2 + model.connection("layer1", "layer1").existing().sum(0)
    for t in range(5):
        phi1 = F.linear(x[:, t], j["0_to_1"]) + F.linear(s1, j["1_to_1"]) + 0.23
        g1 = source_function("table", phi1, 1.7 - s1)
        s1 = s1 + 20 * (0.006582 / fan_out * g1 - 1e-3 * s1)
        g2 = source_function("table", F.linear(s1, j["1_to_2"]) + 0.23, 1.7 - s2)
        s2 = s2 + 20 * (0.006582 * g2 - 1e-3 * s2)
    torch.testing.assert_close(values(model, x)[:, -1], s2, rtol=1e-3, atol=1e-5)


# -- contract ---------------------------------------------------------------------------------


def test_only_requested_records_are_made():
    model = soen()
    assert model.recordable == (
        "layer0/s", "layer0/phi", "layer1/s", "layer1/phi", "layer1/g",
        "layer2/s", "layer2/phi", "layer2/g",
    )  # fmt: skip
    for extra in ((), (BACK,)):
        model = soen(connections=[*CONNECTIONS, *extra])
        out = model(frames(), dt_ms=1.0, record=model.recordable)
        assert set(out.records) == set(model.recordable)
        widths = {"layer0": 3, "layer1": 5, "layer2": 2}
        for name, trace in out.records.items():
            assert trace.shape == (6, 4, widths[name.partition("/")[0]])
        torch.testing.assert_close(out.records["layer0/s"], frames().transpose(0, 1))
        assert torch.equal(out.records["layer2/s"], out.values.transpose(0, 1))
        assert model(frames(), dt_ms=1.0).records == {}
        one = model(frames(), dt_ms=1.0, record=("layer1/g",)).records
        assert list(one) == ["layer1/g"]
        assert torch.equal(one["layer1/g"], out.records["layer1/g"])
        # phi is the total input: offset and all kinds of connections
        sent = F.linear(out.records["layer0/s"], model.connection("layer0", "layer1").weight)
        if extra:
            before = F.pad(out.records["layer2/s"], (0, 0, 0, 0, 1, 0))[:-1]
            sent = sent + F.linear(before, model.connection("layer2", "layer1").weight)
        torch.testing.assert_close(out.records["layer1/phi"], sent + 0.23)


def test_an_unknown_record():
    with pytest.raises(ConfigError, match=r"records no 'layer1/t'.*Did you mean 'layer1/"):
        soen()(frames(), dt_ms=1.0, record=("layer1/t",))


def test_frames_of_any_shape_are_flattened():
    task = dataclasses.replace(spec(), inputs=InputSpec((1, 3)))
    x = frames()
    assert torch.equal(values(soen(task=task), x.unflatten(2, (1, 3))), values(soen(), x))


def test_activity_records_and_connections():
    model = soen(connections=[*CONNECTIONS, INTERNAL, {**SKIP, "learnable": False}])
    assert model.activity_records() == {"layer1": "layer1/s", "layer2": "layer2/s"}
    assert set(model.connection_weights()) == {"J.0_to_1", "J.1_to_2", "J.1_to_1"}
    ends = {(c.source, c.target): c.weight for c in model.connections()}
    assert ends.keys() == {
        ("layer0", "layer1"), ("layer1", "layer1"), ("layer1", "layer2"), ("layer0", "layer2"),
    }  # fmt: skip
    assert ends["layer0", "layer1"].shape == (5, 3)
    internal = model.connection("layer1", "layer1")
    assert torch.equal(ends["layer1", "layer1"], internal.weight * internal.existing())


def test_constrained_connections_are_listed_and_projected():
    assert soen().constrained == ()
    bound = {**CONNECTIONS[0], "constraints": {"maximum": 0.1}}
    model = soen(connections=[bound, CONNECTIONS[1]])
    assert model.constrained == ("J.0_to_1",)
    with torch.no_grad():
        model.connection("layer0", "layer1").weight.fill_(5.0)
    model.project()
    torch.testing.assert_close(model.connection("layer0", "layer1").weight, torch.full((5, 3), 0.1))


def test_the_seed_determines_weights_masks_and_polarities():
    connections = [
        {**CONNECTIONS[0], "constraints": {"excitatory": 0.5}}, CONNECTIONS[1],
        {**INTERNAL, "params": {"density": 0.5}},
    ]  # fmt: skip
    one, same, other = (soen(connections=connections, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name in ("J.0_to_1.weight", "J.0_to_1.low", "J.1_to_1.mask"):
        assert not torch.equal(one[name], other[name]), name


# -- simulation settings ----------------------------------------------------------------------


def test_dt_is_the_step_for_data_of_any_time_step():
    slow, fast = soen(dt=37.0), soen(dt=74.0)
    assert not torch.equal(values(slow), values(fast))
    torch.testing.assert_close(values(soen()), values(slow))
    x = frames()
    assert torch.equal(slow(x, dt_ms=1.0).values, slow(x, dt_ms=20.0).values)


def test_dt_can_be_learned_and_stays_positive():
    assert "dt.raw" not in dict(soen().named_parameters())
    model = soen(dt_learnable=True)
    optimizer = torch.optim.SGD([model.dt.raw], lr=100.0)
    for _ in range(3):
        optimizer.zero_grad()
        model(frames(), dt_ms=1.0).values.square().sum().backward()
        assert model.dt.raw.grad.abs().sum() > 0
        optimizer.step()
    assert 0 < float(model.dt().detach()) < 37
    linear = [LAYERS[0], {"id": 1, "type": "linear"}]
    with pytest.raises(ConfigError, match="dt_learnable: no layer has dynamics in steps of dt"):
        soen(linear, CONNECTIONS[:1], dt_learnable=True)


@pytest.mark.parametrize("kind", STATE_DEPENDENT)
@pytest.mark.parametrize("phi", [0.3, 0.4, 0.5])
@pytest.mark.parametrize("held", [True, False])
def test_substeps_bring_a_dendrite_within_a_percent_of_the_differential_equation(kind, phi, held):
    """The step response at dt 37, as part of the final state; without substeps within 12 %."""
    fine = step_response(kind, phi, 37.0 * np.arange(1, 61))
    layers = [
        {"id": 0, "type": "input"},
        {"id": 1, "type": "dendrite", "params": {"source": kind, "phi_offset": 0.0}},
    ]
    as_it_is = {"from": 0, "to": 1, "type": "dense", "init": {"kind": "constant", "value": 1.0}}
    frame = torch.full((1, 1, 1), phi)
    frames = frame.expand(1, 60, 1) if held else frame.repeat(1, 60, 1)
    for substeps, share in ((1, 0.12), (16, 0.01)):
        model = soen(layers, [as_it_is], task=spec(1, 1), substeps=substeps)
        with torch.no_grad():
            out = model(frames, dt_ms=1.0, record=("layer1/s",))
        s = out.values.flatten().numpy()
        assert np.abs(s - fine).max() < share * fine[-1]
        assert np.array_equal(out.records["layer1/s"].flatten().numpy(), s)
        assert out.state[1].s.item() == s[-1]


def test_substeps_are_frames_held_in_smaller_steps():
    fine, coarse = soen(substeps=3, dt=30.0), soen(dt=10.0)
    expected = values(coarse, frames().repeat_interleave(3, 1))[:, 2::3]
    torch.testing.assert_close(values(fine), expected)


def test_a_layer_without_dynamics_refuses_substeps():
    layers = [LAYERS[0], {"id": 1, "type": "gru", "params": {"dim": 2}}, *LAYERS[2:]]
    with pytest.raises(ConfigError, match="substeps: layer1 of type GRU has steps but no time"):
        soen(layers, substeps=2)
    maps = [LAYERS[0], {"id": 1, "type": "linear", "params": {"dim": 2}}, *LAYERS[2:]]
    soen(maps, substeps=2)


def test_layerwise_refuses_back_edges():
    with pytest.raises(
        ConfigError, match="evaluation: layerwise takes no back edges, and there is one from layer2"
    ):
        soen(connections=[*CONNECTIONS, BACK], evaluation="layerwise")


def test_evaluation_has_an_effect():
    loop = [*CONNECTIONS, BACK]
    auto, seidel, jacobi = (
        values(soen(connections=loop, evaluation=e), 3 * frames(20))
        for e in ("auto", "gauss_seidel", "jacobi")
    )
    torch.testing.assert_close(auto, seidel)
    assert not torch.equal(auto, jacobi)


@pytest.mark.parametrize("kind, solver", [("tanh", "scan"), ("fitted", "newton")])
def test_solvers_agree_within_1e_5(kind, solver):
    layers = [
        LAYERS[0],
        {"id": 1, "type": "dendrite", "params": {"dim": 5, "source": kind}},
        {"id": 2, "type": "dendrite", "params": {"source": kind}},
    ]
    euler, other = (values(soen(layers, solver=s), frames(30)) for s in ("euler", solver))
    torch.testing.assert_close(other, euler, rtol=0, atol=1e-5)


def test_invalid_solvers():
    tanh = [LAYERS[0], {"id": 1, "type": "dendrite", "params": {"source": "tanh"}}]
    for options, message in (
        (
            {"solver": "scan"},
            "solver: scan needs sources .* and layer1 has table; .* euler or newton",
        ),
        (
            {"solver": "newton", "layers": tanh},
            "solver: newton .* layer1 has tanh; .* euler or scan",
        ),
        ({"solver": "newton", "extra": [INTERNAL]}, "solver: newton .* layer1 has one; .* euler"),
    ):
        layers = options.pop("layers", LAYERS)
        connections = [*CONNECTIONS[: len(layers) - 1], *options.pop("extra", ())]
        with pytest.raises(ConfigError, match=message):
            soen(layers, connections, **options)
    # step by step, every layer is integrated with Euler's method
    with pytest.raises(ConfigError, match="solver: newton .* no dendrite is evaluated layerwise"):
        soen(connections=[*CONNECTIONS, BACK], solver="newton")


# -- noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["phi", "g", "s", "bias_current", "j"])
@pytest.mark.parametrize("kind", ["noise", "perturb"])
@pytest.mark.parametrize("extra", [(), (INTERNAL,), (BACK,)])
def test_each_noise_acts_in_training_only_by_default(extra, kind, place):
    connections = [*CONNECTIONS, *extra]
    quiet = values(soen(connections=connections))
    model = soen(connections=connections, **{kind: {place: 0.05}})
    assert torch.equal(values(model), quiet)
    model.train()
    one, two = (model(frames(), dt_ms=1.0).values for _ in range(2))
    assert not torch.equal(one, quiet) and not torch.equal(one, two)
    assert torch.isfinite(one).all()
    always = soen(connections=connections, **{kind: {place: 0.05}}, noise_in_evaluation=True)
    assert not torch.equal(values(always), quiet)
    absolute = soen(connections=connections, **{kind: {place: 0.05}}, noise_relative=True)
    absolute.train(), torch.manual_seed(0)
    scaled = absolute(frames(), dt_ms=1.0).values
    model.train(), torch.manual_seed(0)
    assert not torch.equal(model(frames(), dt_ms=1.0).values, scaled)


@pytest.mark.parametrize("evaluation", ["auto", "gauss_seidel", "jacobi"])
def test_a_perturbation_is_held_over_the_sequence_in_every_evaluation(evaluation):
    """A linear network with constant input has a constant output, which differs between samples."""
    model = linear_chain(
        "linear", "linear", evaluation=evaluation,
        perturb={"phi": 0.1, "s": 0.1, "j": 0.1}, noise_in_evaluation=True,
    )  # fmt: skip
    out = values(model, torch.ones(50, 6, 1))[:, 2:, 0].detach()  # jacobi delays
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    assert float(out[:, 0].std()) > 0.1
    noisy = linear_chain(
        "linear", "linear", evaluation=evaluation, noise={"phi": 0.1}, noise_in_evaluation=True,
    )  # fmt: skip
    steps = values(noisy, torch.ones(50, 6, 1))[:, 2:, 0].detach()
    assert float(steps.std(1).mean()) > 0.05


def test_noise_of_layers_is_independent():
    """Variances of independent layers add up: two layers with noise 0.3 on phi give 0.18."""
    model = linear_chain("linear", "linear", noise={"phi": 0.3}, noise_in_evaluation=True)
    out = values(model, torch.zeros(400, 50, 1)).detach()
    # the frames of the input layer have noise, too
    assert float(out.var()) == pytest.approx(3 * 0.09, rel=0.05)


def test_noise_on_tensors_that_no_layer_has():
    linear = [LAYERS[0], {"id": 1, "type": "linear"}]
    with pytest.raises(ConfigError, match=r"noise\.g: no layer has one"):
        soen(linear, CONNECTIONS[:1], noise={"g": 0.1})
    tanh = [LAYERS[0], {"id": 1, "type": "dendrite", "params": {"source": "tanh"}}]
    with pytest.raises(ConfigError, match=r"perturb\.bias_current: no layer has one"):
        soen(tanh, CONNECTIONS[:1], perturb={"bias_current": 0.1})
    model = soen(linear, CONNECTIONS[:1])
    assert set(model.noise_levels) == {
        f"{kind}.{place}" for kind in ("noise", "perturb") for place in ("phi", "s", "j")
    }


def test_levels_can_be_set():
    model = soen(noise={"phi": 0.1})
    model.set_noise({"noise.phi": 0.2, "perturb.j": 0.3})
    levels = {name: level for name, level in model.noise_levels.items() if level}
    assert levels == {"noise.phi": 0.2, "perturb.j": 0.3}
