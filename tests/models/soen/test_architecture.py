"""Architectures: files, overrides by a config, and error messages."""

from __future__ import annotations

import pytest
import torch
import yaml

from neuro.errors import ConfigError
from neuro.layers.soen.maps import Linear
from neuro.models.soen.architecture import INITIALS, STRUCTURES
from neuro.models.soen.architecture import LAYERS as TYPES
from neuro.models.soen.files import read_source
from neuro.models.soen.model import SOEN
from tests.soen import CONNECTIONS, LAYERS, frames, soen, spec


class Doubling(Linear):
    """A user-defined layer."""

    def transform(self, phi):
        return 2 * phi


def layer(i, kind="dendrite", **params):
    return {"id": i, "type": kind, "params": params}


def link(from_, to, kind="dense", **options):
    return {"from": from_, "to": to, "type": kind, **options}


def message(layers=LAYERS, connections=CONNECTIONS, **options):
    with pytest.raises(ConfigError) as error:
        soen(layers, connections, **options)
    return str(error.value)


# -- valid architectures ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "input"])
def test_every_layer_type_between_dendrites(kind):
    model = soen([LAYERS[0], layer(1, kind, dim=4), LAYERS[2]])
    assert type(model.named_layers()["layer1"]) is TYPES[kind]
    assert model(frames(), dt_ms=1.0).values.shape == (4, 6, 2)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_every_structure_by_its_name(kind):
    params = {
        "sparse": {"density": 0.5}, "constant_fan_in": {"fan_in": 2}, "block": {"blocks": 2},
        "power_law": {"reach": 0.5}, "exponential_decay": {"length": 0.5},
        "hierarchical": {"levels": 1}, "custom": {"mask": [[0, 1, 0]] * 2 + [[1, 0, 1]]},
    }.get(kind, {})  # fmt: skip
    layers = [LAYERS[0], layer(1, dim=3), LAYERS[2]]
    model = soen(layers, [link(0, 1, kind, params=params), link(1, 2)])
    assert 0 < model.connection("layer0", "layer1").existing().sum() <= 9


@pytest.mark.parametrize("kind", INITIALS)
def test_every_initialisation_by_its_name(kind):
    values = {"kind": kind, **({"value": 0.1} if kind == "constant" else {})}
    model = soen(connections=[link(0, 1, init=values), link(1, 2)])
    assert model.connection("layer0", "layer1").weight.abs().sum() > 0


def test_the_default_initialisation_is_uniform_in_a_couplers_range():
    weight = soen([LAYERS[0], layer(1, dim=500), LAYERS[2]]).connection("layer0", "layer1").weight
    assert 0.23 < float(weight.detach().abs().max()) <= 0.24


def test_widths_of_the_ends_come_from_the_task():
    model = soen(task=spec(7, 3))
    assert [layer.dim for layer in model.named_layers().values()] == [7, 5, 3]
    given = soen([layer(0, "input", dim=3), layer(1, dim=5), layer(2, dim=2)])
    assert given.connection("layer0", "layer1").weight.shape == (5, 3)


def test_fan_out_counts_the_connections():
    layers = [LAYERS[0], layer(1, dim=2), LAYERS[2]]
    extra = link(1, 1, "custom", params={"mask": [[0, 1], [0, 1]]})
    gamma = soen(layers, [*CONNECTIONS, extra]).named_layers()["layer1"].gamma_plus()
    torch.testing.assert_close(gamma, 0.006582 / torch.tensor([2.0, 4.0]), rtol=1e-4, atol=0)


def test_ids_may_be_unordered_and_have_gaps():
    model = soen([layer(7, "input"), layer(3, dim=4), layer(10)], [link(7, 3), link(3, 10)])
    assert list(model.layers) == ["layer7", "layer3", "layer10"]
    assert list(model.named_connections) == ["7_to_3", "3_to_10"]


def test_a_user_defined_layer():
    path = f"{Doubling.__module__}.Doubling"
    model = soen([LAYERS[0], layer(1, path, dim=3), layer(2, "linear")], CONNECTIONS)
    single = soen([LAYERS[0], layer(1, "linear", dim=3), layer(2, "linear")], CONNECTIONS)
    x = frames()
    torch.testing.assert_close(model(x, dt_ms=1.0).values, 2 * single(x, dt_ms=1.0).values)


def test_connections_that_are_not_learnable():
    model = soen(connections=[{**CONNECTIONS[0], "learnable": False}, CONNECTIONS[1]])
    assert "J.0_to_1.weight" not in dict(model.named_parameters())
    assert "J.0_to_1.weight" in model.state_dict()


# -- files ------------------------------------------------------------------------------------


def written(tmp_path, content):
    path = tmp_path / "net.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def document(**simulation):
    return {
        "simulation": simulation, "layers": list(LAYERS), "connections": list(CONNECTIONS)
    }  # fmt: skip


def test_a_file_gives_the_same_network(tmp_path):
    path = written(tmp_path, document())
    one, other = soen((), (), architecture=path), soen()
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.mark.parametrize(
    "name, value",
    [
        ("dt", 20.0), ("dt_learnable", True), ("substeps", 4),
        ("evaluation", "jacobi"), ("solver", "newton"),
        ("noise_relative", True), ("noise_in_evaluation", True),
    ],
)  # fmt: skip
def test_the_config_overrides_the_simulation_of_a_file(tmp_path, name, value):
    path = written(tmp_path, document(**{name: value}))
    default = getattr(soen().simulation, name)
    assert default != value
    assert getattr(soen((), (), architecture=path).simulation, name) == value
    again = soen((), (), architecture=path, **{name: default})
    assert getattr(again.simulation, name) == default


@pytest.mark.parametrize("kind", ["noise", "perturb"])
def test_noise_of_a_file_and_of_the_config(tmp_path, kind):
    path = written(tmp_path, document(**{kind: {"phi": 0.1, "j": 0.2}}))
    model = soen((), (), architecture=path)
    assert model.noise_levels[f"{kind}.phi"] == 0.1
    model = soen((), (), architecture=path, **{kind: {"phi": 0.3}})
    assert model.noise_levels[f"{kind}.phi"] == 0.3


def test_a_config_changes_entries_and_adds_others(tmp_path):
    content = document()
    content["layers"][1] = layer(1, dim=5, bias_current=1.9, source="tanh")
    path = written(tmp_path, content)
    model = soen(
        [{"id": 1, "params": {"dim": 4, "source": "fitted"}}],
        [{"from": 0, "to": 1, "init": {"kind": "constant", "value": 0.5}}, link(2, 1)],
        architecture=path,
    )
    changed = model.named_layers()["layer1"]
    assert changed.dim == 4 and changed.source == "fitted"
    torch.testing.assert_close(changed.bias_current(), torch.full((4,), 1.9))  # not changed
    assert torch.equal(model.connection("layer0", "layer1").weight, torch.full((4, 3), 0.5))
    assert ("layer2", "layer1") in {(c.source, c.target) for c in model.connections()}


@pytest.mark.parametrize("params", [{}, {"params": {"bias": True}}])
def test_another_layer_type_keeps_only_the_width(tmp_path, params):
    content = document()
    content["layers"][1] = layer(1, dim=5, bias_current=1.9)
    content["connections"][0] = link(0, 1, "sparse", params={"density": 0.5})
    content["connections"][1] = link(1, 2, init={"kind": "normal", "std": 0.2})
    model = soen(
        [{"id": 1, "type": "linear", **params}],
        [{"from": 0, "to": 1, "type": "dense"}, {"from": 1, "to": 2, "init": {"kind": "kaiming"}}],
        architecture=written(tmp_path, content),
    )
    changed = model.named_layers()["layer1"]
    assert changed.dim == 5 and (changed.bias is not None) == bool(params)
    assert model.connection("layer0", "layer1").mask is None


def test_all_of_a_connection_can_be_changed(tmp_path):
    path = written(tmp_path, document())
    change = link(
        0, 1, "sparse", params={"density": 0.5}, constraints={"sign": "positive"}, learnable=False
    )
    made = soen([], [change], architecture=path).connection("layer0", "layer1")
    assert made.mask is not None and made.weight.min() >= 0 and not made.learnable


@pytest.mark.parametrize(
    "content, text",
    [
        ("layers: [", "is no YAML"),
        ("- 1", "holds list; expected a mapping with layers and connections"),
        ({**document(), "seed": 3}, "has a seed; that of the run decides, remove it"),
        ({**document(), "layer": []}, "layer: unknown key. Allowed: simulation, layers, connec"),
        (document(dts=3.0), "Did you mean 'dt'"),
        (document(dt=-1.0), "simulation.dt: got -1.0; input should be greater than 0"),
        ({"layers": list(LAYERS)}, "connections"),
    ],
)  # fmt: skip
def test_invalid_files(tmp_path, content, text):
    found = message((), (), architecture=written(tmp_path, content))
    assert found.startswith("model.architecture:") and "net.yaml" in found
    assert text in found


def test_numbers_of_a_file_may_have_an_exponent_without_a_dot(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text("""
layers:
  - {id: 0, type: input}
  - {id: 1, type: dendrite, params: {dim: 4, gamma_plus: 1e-3, phi_offset: +2E-1}}
connections: [{from: 0, to: 1, type: dense}]
""")
    layer = read_source(path).architecture.layers[1]
    assert (layer.params["gamma_plus"], layer.params["phi_offset"]) == (0.001, 0.2)


def test_a_missing_file(tmp_path):
    found = message((), (), architecture=str(tmp_path / "none.yaml"))
    assert "model.architecture: cannot read" in found and "No such file" in found


def test_exact_weights_need_a_model_file(tmp_path):
    found = message((), (), architecture=written(tmp_path, document()), load_exact_state=True)
    assert "load_exact_state: takes the weights of a model file" in found
    assert "load_exact_state" in message(load_exact_state=True)


# -- mistakes ---------------------------------------------------------------------------------

INPUT = LAYERS[0]
CASES = {
    "one layer": (([INPUT], []), "model.layers: give at least two"),
    "none": (([], []), "model.layers: give at least two, of the inputs and of the outputs"),
    "an id twice": (
        ([INPUT, layer(1, dim=2), layer(1)], CONNECTIONS[:1]),
        "model.layers: the id 1 is given twice",
    ),
    "no input": (
        ([layer(0), layer(1)], CONNECTIONS[:1]),
        "model.layers: the first layer is of type dendrite; expected input",
    ),
    "a second input": (
        ([INPUT, layer(1, "input", dim=3), layer(2)], CONNECTIONS),
        "layer 1 is of type input, which only the first layer can be",
    ),
    "no type": (([INPUT, {"id": 1}], CONNECTIONS[:1]), "layer 1 has no type. Allowed: input, dend"),
    "an unknown type": (
        ([INPUT, layer(1, "dendrit", dim=2), layer(2)], CONNECTIONS),
        "layer 1: there is no type 'dendrit'. Allowed: input, dendrite, readout, wicc",
    ),
    "its nearest": (
        ([INPUT, layer(1, "dendrit", dim=2), layer(2)], CONNECTIONS), "Did you mean 'dendrite'?"
    ),
    "a path to nowhere": (
        ([INPUT, layer(1, "tests.soen.Nothing", dim=2), layer(2)], CONNECTIONS), "Nothing"
    ),
    "a path to something else": (
        ([INPUT, layer(1, "torch.nn.Linear", dim=2), layer(2)], CONNECTIONS), "SoenLayer"
    ),
    "an unknown parameter": (
        ([INPUT, layer(1, dim=2, gama_plus=1.0), layer(2)], CONNECTIONS),
        "Did you mean 'gamma_plus'?",
    ),
    "where it stands": (
        ([INPUT, layer(1, dim=2, gama_plus=1.0), layer(2)], CONNECTIONS),
        "model.layers: layer 1: params",
    ),
    "an unknown source": (
        ([INPUT, layer(1, dim=2, source="tabel"), layer(2)], CONNECTIONS),
        "model.layers: layer 1: params.source: got 'tabel'",
    ),
    "a list of the wrong length": (
        ([INPUT, layer(1, dim=2, gamma_minus=[0.1] * 3), layer(2)], CONNECTIONS),
        "gamma_minus: got 3 values for 2 nodes; give one for each",
    ),
    "a negative rate": (
        ([INPUT, layer(1, dim=2, gamma_minus=-0.1), layer(2)], CONNECTIONS),
        "gamma_minus: got -0.1; must be positive",
    ),
    "no width": (
        ([INPUT, layer(1), layer(2)], CONNECTIONS),
        "model.layers: layer 1: params.dim is missing; give its number of nodes",
    ),
    "no number": (
        ([INPUT, layer(1, dim="many"), layer(2)], CONNECTIONS),
        "layer 1: params.dim: got 'many'; expected a number of nodes, at least 1",
    ),
    "another width than the data's": (
        ([layer(0, "input", dim=4), layer(1, dim=2), layer(2)], CONNECTIONS),
        "layer 0: params.dim: got 4; the data's frames need 3",
    ),
    "another width than the targets'": (
        ([INPUT, layer(1, dim=2), layer(2, dim=9)], CONNECTIONS),
        "layer 2: params.dim: got 9; the targets need 2",
    ),
    "a connection twice": (
        (LAYERS, [*CONNECTIONS, CONNECTIONS[0]]), "model.connections: from 0 to 1 is given twice"
    ),
    "no such layer": (
        (LAYERS, [*CONNECTIONS, link(1, 9)]),
        "from 1 to 9: there is no layer 9. Layers: 0, 1, 2",
    ),
    "into the inputs": (
        (LAYERS, [*CONNECTIONS, link(1, 0)]),
        "from 1 to 0: the first layer holds the inputs and receives nothing",
    ),
    "no structure": (
        (LAYERS, [CONNECTIONS[0], {"from": 1, "to": 2}]), "from 1 to 2 has no type. Allowed: dense"
    ),
    "an unknown structure": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, "spare")]), "Did you mean 'sparse'?"
    ),
    "an unknown parameter of it": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, "sparse", params={"densty": 0.5})]),
        "Did you mean 'density'?",
    ),
    "a structure that does not fit": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, "one_to_one")]),
        "model.connections: from 1 to 2: one_to_one needs equal widths; got 5 and 2",
    ),
    "an unknown start": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, init={"kind": "xavir"})]),
        "from 1 to 2: init.kind: got 'xavir'. Allowed: normal",
    ),
    "an unknown parameter of a start": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, init={"kind": "normal", "sdt": 1.0})]),
        "Did you mean 'std'?",
    ),
    "an unknown key of a constraint": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, constraints={"min": 0.0})]), "constraints"
    ),
    "constraints without a weight between": (
        (LAYERS, [CONNECTIONS[0], link(1, 2, constraints={"minimum": 1.0, "maximum": 0.0})]),
        "must be below maximum",
    ),
    "a layer without inputs": (
        (LAYERS, [CONNECTIONS[0], link(1, 1), link(2, 2)]),
        "model.connections: layer 2 receives nothing from another layer",
    ),
    "a layer that leads nowhere": (
        (LAYERS, [CONNECTIONS[0], link(0, 2)]),
        "model.connections: layer 1 leads to no other layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_mistakes_are_reported(name):
    (layers, connections), text = CASES[name]
    assert text in message(layers, connections)


def test_duplicate_ids_in_a_file_or_in_the_config(tmp_path):
    content = document()
    content["layers"].append(layer(1, dim=4))
    found = message((), (), architecture=written(tmp_path, content))
    assert "model.layers: the id 1 is given twice" in found
    twice = [{"id": 1, "params": {"dim": 4}}] * 2
    found = message(twice, (), architecture=written(tmp_path, document()))
    assert "model.layers: the id 1 is given twice" in found


def test_all_mistakes_are_reported_at_once():
    found = message(
        [layer(0), layer(1, "dendrit", dim=2), layer(2)], [CONNECTIONS[0], link(1, 2, "spare")]
    )
    assert all(text in found for text in ("expected input", "'dendrite'", "'sparse'"))


def test_keys_of_the_model_are_checked():
    assert "Did you mean 'solver'?" in message(sover="euler")
    for key, value in {"dt": 0.0, "evaluation": "stepwise", "solver": "rk4"}.items():
        assert f"model.{key}: got {value!r}" in message(**{key: value})
    assert "noise.phy" in message(noise={"phy": 0.1})
    assert "Did you mean" in message([{"ids": 0, "type": "input"}, *LAYERS[1:]])


def test_a_network_is_restored_from_its_config():
    connections = [
        link(0, 1, "sparse", params={"density": 0.5}, init={"kind": "normal"}),
        link(1, 2, constraints={"sign": "positive"}), link(2, 1, learnable=False),
    ]  # fmt: skip
    model = soen(LAYERS, connections, dt=20.0, noise={"phi": 0.1})
    node = model.portable_config({"_target_": "neuro.models.soen.model.SOEN"})
    again = soen(**{name: value for name, value in node.items() if name != "_target_"})
    assert isinstance(again, SOEN)
    assert again.simulation == model.simulation and again.architecture == model.architecture
    x = frames()
    model.eval(), again.eval()
    assert torch.equal(again(x, dt_ms=1.0).values, model(x, dt_ms=1.0).values)
