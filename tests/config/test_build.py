"""Building objects from config nodes: one message per kind of error, before construction."""

from __future__ import annotations

import math

import pytest
from pydantic import BaseModel, ConfigDict

from neuro.config.build import build, build_all, parse, parse_all
from neuro.config.values import parse_values, shortened
from neuro.data.base import DataSource
from neuro.errors import ConfigError, nearest
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from tests.components import Good, Helper, Part, Plain, Shape, check

HERE = "tests.components"


def problems(**keys):
    return check({"_target_": f"{HERE}.Good", **keys}, Part, "part")


def only(**keys):
    (problem,) = problems(**keys)
    return problem


# -- targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("node", [None, 3, "text", [], {}, {"rate": 1}])
def test_a_node_is_a_mapping_with_a_target(node):
    (problem,) = check(node, Part, "part")
    assert problem.startswith("part: expected a mapping with a `_target_`")
    assert f"subclass of {HERE}.Part, got {shortened(node)}" in problem


@pytest.mark.parametrize(
    "target, message",
    [
        ("Good", "not a dotted path"),
        ("", "not a dotted path"),
        (3, "not a dotted path"),
        ([1], "not a dotted path"),
        ("tests..Good", "not a dotted path"),
        ("tests.components.", "not a dotted path"),
        (f"{HERE}.Goood", "has no 'Goood'. Did you mean 'Good'?"),
        ("tests.compoments.Good", "no module 'tests.compoments'. Did you mean 'components'?"),
        ("neuro.models.pixel.Pixels", "no module 'neuro.models.pixel'. Did you mean 'pixels'?"),
        ("no_such_package.x.Y", "there is no module 'no_such_package'."),
        (f"{HERE}.Good.Inner", "there is no module 'tests.components.Good'"),
        (f"{HERE}.Stranger", f"is not a subclass of {HERE}.Part"),
        (f"{HERE}.function", f"is not a subclass of {HERE}.Part"),
        (f"{HERE}.HERE", "has no 'HERE'"),
        (f"{HERE}.Part", "does not implement rest, work"),
        (f"{HERE}.Half", "does not implement rest."),
        (f"{HERE}.Loose", "takes *options; a component names each of its arguments"),
        (f"{HERE}.Untyped", "does not annotate its argument 'size'"),
    ],
)
def test_targets_that_cannot_be_built(target, message):
    (problem,) = check({"_target_": target}, Part, "part")
    assert problem.startswith("part._target_: ")
    assert message in problem


def test_a_module_that_needs_a_package_which_is_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_it.py").write_text("import not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = check({"_target_": "needs_it.Thing"}, Part, "part")
    assert "needs the package 'not_there', which is not installed" in problem


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("rat", 1.0, "unknown key. Allowed: rate, count"),
        ("rat", 1.0, "Did you mean 'rate'?"),
        ("rate", "0.5", "got '0.5'; input should be a valid number"),
        ("rate", None, "got null; input should be a valid number"),
        ("rate", True, "got true; input should be a valid number"),
        ("rate", 0, "got 0; input should be greater than 0"),
        ("rate", 1.5, "got 1.5; input should be less than or equal to 1"),
        ("rate", math.nan, "got nan; input should be a finite number"),
        ("rate", math.inf, "got inf; input should be a finite number"),
        ("limit", -math.inf, "got -inf; input should be a finite number"),
        ("limit", "x", "got 'x'; input should be a valid number"),
        ("count", 1.0, "got 1.0; input should be a valid integer"),
        ("count", True, "got true; input should be a valid integer"),
        ("count", 0, "greater than 0"),
        ("name", 3, "got 3; input should be a valid string"),
        ("on", 1, "got 1; input should be a valid boolean"),
        ("on", "true", "got 'true'; input should be a valid boolean"),
        ("kind", "fats", "got 'fats'; input should be 'fast' or 'slow'. Did you mean 'fast'?"),
        ("sizes", 3, "got 3; input should be a list"),
        ("sizes", [], "at least 1 item"),
        ("memory", "atuo", "valid integer, or input should be 'auto'. Did you mean 'auto'?"),
        ("memory", 1.5, "got 1.5; input should be a valid integer, or input should be 'auto'."),
        ("shape", "round", "got 'round'; input should be a mapping"),
        ("shape", {"slope": 0.0}, "slope must be above 0"),
        ("name", "y" * 200, ""),
    ],
)
def test_errors_name_given_and_allowed_values(key, value, message):
    if not message:
        assert problems(**{key: value}) == []
        return
    problem = only(**{key: value})
    assert problem.startswith(f"part.{key}: ")
    assert message in problem


@pytest.mark.parametrize(
    "shape, place, message",
    [
        ({"knid": "round"}, "part.shape.knid", "Allowed: kind, slope. Did you mean 'kind'?"),
        ({"kind": "ruond"}, "part.shape.kind", "Did you mean 'round'?"),
        ({"slope": "1"}, "part.shape.slope", "valid number"),
        ({"slope": math.nan}, "part.shape.slope", "finite"),
    ],
)  # fmt: skip
def test_nested_dataclasses_are_checked_too(shape, place, message):
    problem = only(shape=shape)
    assert problem.startswith(f"{place}: ")
    assert message in problem


def test_the_item_of_a_list_is_named():
    assert only(sizes=[1, "2"]).startswith("part.sizes.1: got '2'; ")
    assert only(sizes=[["x"]]).startswith("part.sizes.0: got ['x']; ")


def test_long_values_are_shortened():
    assert len(only(rate="y" * 500)) < 140


def test_all_problems_of_a_node_are_reported_at_once():
    found = problems(rat=1, rate=-1, kind="x", shape={"slop": 1}, helper={"_target_": "y"}, spec=1)
    starts = ("spec", "rat:", "rate", "kind", "shape.slop", "helper._target_")
    assert len(found) == len(starts)
    for start in starts:
        assert any(problem.startswith(f"part.{start}") for problem in found)


def test_supplied_arguments_cannot_be_set():
    assert only(spec="mine") == "part.spec: is set by the program; remove it."
    node = {"_target_": "neuro.learning.objective.Objective", "terms": {}}
    assert check(node, Objective, "objective") == [
        "objective.terms: is set by the program; remove it."
    ]


def test_required_arguments():
    found = check({"_target_": f"{HERE}.Needy"}, Part, "part")
    assert found == ["part.size: required, but not given."]


def test_components_that_are_required_cannot_be_null():
    node = {"_target_": "neuro.data.tokens.text.Text", "sources": None, "tokenizer": None}
    expected = "got null; expected a component, a mapping with a `_target_`."
    assert check(node, DataSource, "data") == [
        f"data.sources: {expected}", f"data.tokenizer: {expected}",
    ]  # fmt: skip


def test_a_class_without_arguments():
    node = {"_target_": f"{HERE}.Plain"}
    assert isinstance(build(node, Part, "part"), Plain)
    assert "unknown key. Allowed: none." in check({**node, "x": 1}, Part, "part")[0]


# -- building ---------------------------------------------------------------------------------


def test_values_arrive_as_annotated():
    node = {
        "_target_": f"{HERE}.Good", "rate": 1, "sizes": [2, 3], "memory": 5,
        "shape": {"kind": "square", "slope": 2}, "limit": None,
    }  # fmt: skip
    copy = {**node, "sizes": [2, 3]}
    good = build(node, Part, "part", spec="given", unwanted=1)
    assert isinstance(good, Good)
    assert good.spec == "given"
    assert good.rate == 1.0 and isinstance(good.rate, float)
    assert good.sizes == (2, 3)
    assert good.memory == 5
    assert good.shape == Shape("square", 2.0)
    assert good.limit is None
    assert good.kind == "fast"  # the constructor's default
    assert node == copy


def test_nested_components_are_built_by_the_same_rules():
    node = {"_target_": f"{HERE}.Good", "helper": {"_target_": f"{HERE}.Helper", "level": 2}}
    good = build(node, Part, "part", spec="outer")
    assert isinstance(good.helper, Helper)
    assert (good.helper.level, good.helper.spec) == (2, "own")
    node["helper"] = {"_target_": f"{HERE}.Helper", "level": 0}
    assert check(node, Part, "part") == [
        "part.helper.level: got 0; input should be greater than 0."
    ]
    assert build({**node, "helper": None}, Part, "part", spec="x").helper is None


def test_build_reports_everything_before_it_constructs():
    with pytest.raises(ConfigError) as caught:
        build({"_target_": f"{HERE}.Good", "name": "refused", "rate": 2, "on": 3}, Part, "part")
    assert len(caught.value.problems) == 2
    assert str(caught.value).startswith("2 problems in the configuration:\n  1. part.rate")


def test_a_constructors_value_error_has_its_path():
    with pytest.raises(ConfigError, match=r"^part\.x: this name is taken$"):
        build({"_target_": f"{HERE}.Good", "name": "refused"}, Part, "part.x", spec="")
    with pytest.raises(ConfigError, match=r"^part\.x\.name: got 'odd'; expected an even name$"):
        build({"_target_": f"{HERE}.Good", "name": "odd"}, Part, "part.x", spec="")


def test_mappings_leave_out_null():
    nodes = {"a": {"_target_": f"{HERE}.Plain"}, "b": None}
    built = build_all(parse_all(nodes, Part, "parts"))
    assert list(built) == ["a"]
    with pytest.raises(ConfigError, match=r"^parts\.a\.x: unknown key"):
        parse_all({"a": {"_target_": f"{HERE}.Plain", "x": 1}}, Part, "parts")


def test_a_component_keeps_its_config_node():
    content = {"_target_": f"{HERE}.Good", "helper": {"_target_": f"{HERE}.Helper", "level": 2}}
    node = parse(content, Part, "part")
    assert (node.path, node.cls, node.content) == ("part", Good, content)
    assert node.nested["helper"].path == "part.helper"
    assert node.build(spec="a") is not node.build(spec="a")


def test_an_instance_is_built_once_and_not_sent_to_other_processes():
    import pickle

    node = parse({"_target_": f"{HERE}.Plain"}, Part, "part")
    assert node.instance is node.instance
    copy = pickle.loads(pickle.dumps(node))
    assert "instance" not in vars(copy)
    assert (copy.path, copy.cls) == ("part", Plain)


# -- plain values -----------------------------------------------------------------------------


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    level: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    rate: float
    inner: Inner | None = None


def test_plain_nodes():
    found = parse_values({"rate": 1, "inner": {"level": 2}}, Outer, "x")
    assert found == Outer(rate=1.0, inner=Inner(level=2))
    assert isinstance(found.rate, float)
    with pytest.raises(ConfigError) as caught:
        parse_values({"inner": {"levl": 2}}, Outer, "x")
    assert caught.value.problems == [
        "x.rate: required, but not given.",
        "x.inner.levl: unknown key. Allowed: level. Did you mean 'level'?",
    ]
    with pytest.raises(ConfigError, match=r"^rate: got nan; input should be a finite number\.$"):
        parse_values({"rate": math.nan}, Outer)


# -- components of neuro ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, place, message",
    [
        ("neuron.surrogate", {"slop": 3.0}, "model.neuron.surrogate.slop", "Did you mean 'slope'?"),
        ("neuron.surrogate", {"kind": "atn"}, "model.neuron.surrogate.kind", "mean 'atan'?"),
        ("neuron.surrogate", {"slope": -1.0}, "model.neuron.surrogate", "above 0"),
        ("channels", [8, 0], "model.channels.1", "greater than 0"),
        ("channels", [], "model.channels", "at least 1 item"),
        ("readout_layers", "al", "model.readout_layers", "'all'"),
        ("neuron.gate", {"kind": "learnt"}, "model.neuron.gate.kind", "Did you mean 'learned'?"),
        ("neuron.gate", {"gamma": 1.5}, "model.neuron.gate.gamma", "less than or equal to 1"),
        ("neuron.gate", {"kind": "learned", "gamma": 0.0}, "model.neuron.gate", "cannot start"),
        ("spec", {}, "model.spec", "is set by the program"),
        ("neuron.tau_fats_ms", 3.0, "model.neuron.tau_fats_ms", "Did you mean 'tau_fast_ms'?"),
        ("tau_fast_ms", 3.0, "model.tau_fast_ms", "is called model.neuron.tau_fast_ms now."),
        ("consolidation", 0.5, "model.consolidation", "model.consolidation.share"),
    ],
)
def test_a_models_keys(key, value, place, message):
    neuron = {"_target_": "neuro.layers.dual_timescale.DualTimescaleNeuron"}
    node = {"_target_": "neuro.models.spiking_cnn.SpikingCNN", "neuron": neuron}
    parent = neuron if key.startswith("neuron.") else node
    parent[key.removeprefix("neuron.")] = value
    (problem,) = check(node, CoreModel, "model")
    assert problem.startswith(f"{place}: ")
    assert message in problem


def test_nearest():
    assert nearest("ltgat", ["ltgate", "lif"]) == " Did you mean 'ltgate'?"
    assert nearest("xyz", ["ltgate", "lif"]) == ""
    assert nearest("x", []) == ""


def test_config_errors_can_be_sent_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(ConfigError(["a", "b"])))
    assert error.problems == ["a", "b"]
