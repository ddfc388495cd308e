"""Differences between configs, and labels."""

from __future__ import annotations

from neuro.analysis.compare import configs


def test_leaves_have_dotted_keys_and_lists_are_leaves() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert configs.flatten(nested) == {"a.b": 1, "a.c.d": [1, 2], "e": None, "f": {}}


def test_seeds_and_directories_are_ignored() -> None:
    flat = {
        "seed": 1,
        "data.split_seed": 1,
        "data.root": "/x",
        "data.path": "p",
        "data.shards": "text-1",
        "tags": ["a"],
        "tracking.wandb.project": "p",
        "name": "n",
        "seeded": 2,
        "hardware.device": "cpu",
    }
    assert set(configs.relevant(flat)) == {"data.path", "seeded", "hardware.device"}


def test_the_order_of_keys_is_no_difference() -> None:
    assert configs.fingerprint({"a": 1, "b": 2}) == configs.fingerprint({"b": 2, "a": 1})
    assert configs.fingerprint({"a": 1}) != configs.fingerprint({"a": "1"})


def test_keys_of_a_component_differ_only_within_its_class() -> None:
    gated = {"model._target_": "m.LTGate", "model.gate": "fixed", "model.units": 8}
    learned = {**gated, "model.gate": "learned"}
    plain = {"model._target_": "m.LIF", "model.units": 16}
    assert configs.differing([gated, plain]) == ["model._target_"]
    assert configs.differing([gated, learned, plain]) == ["model._target_", "model.gate"]
    assert configs.differing([gated, gated]) == []


def test_a_missing_term_is_a_difference() -> None:
    with_term = {"loss.ewc._target_": "l.EWC", "loss.ewc.weight": 1.0}
    assert configs.differing([with_term, {}]) == ["loss.ewc._target_"]
    assert configs.deviations([with_term, {}, {}]) == [{"loss.ewc._target_": "l.EWC"}, {}, {}]


def test_deviations_are_from_the_majority_or_a_reference() -> None:
    three = [{"lr": 0.1, "g": "a"}, {"lr": 0.1, "g": "b"}, {"lr": 0.2, "g": "c"}]
    assert configs.deviations(three) == [{"g": "a"}, {"g": "b"}, {"lr": 0.2, "g": "c"}]
    assert configs.deviations(three, three[2]) == [
        {"lr": 0.1, "g": "a"},
        {"lr": 0.1, "g": "b"},
        {},
    ]


def test_values_are_written_as_overrides() -> None:
    assert configs.as_override("model._target_", "neuro.models.lif.LIF") == "model=LIF"
    assert configs.as_override("model.fixed_point", None) == "model.fixed_point=null"
    assert configs.as_override("model.channels", [4, 8]) == "model.channels=[4,8]"
    assert configs.as_override("carry", True) == "carry=true"


def test_names_come_from_differing_overrides() -> None:
    flat = [{"a": 1}, {"a": 2}, {"a": 3}]
    given = [
        ["experiment=lif", "study=s", "seed=0", "tracking=none"],
        ["model=hlop", "study=s"],
        ["optimizer=adam", "+optimizer.lr=0.1", "study=s", "hydra.run.dir=x"],
    ]
    names = configs.labels(flat, given)
    assert names == ["lif", "hlop", "optimizer=adam, optimizer.lr=0.1"]


def test_names_use_the_config_where_overrides_are_equal() -> None:
    """An edited YAML file between two runs with the same command."""
    flat = [{"lr": 0.1, "x": 0}, {"lr": 0.2, "x": 0}, {"lr": 0.1, "x": 1}]
    given = [["model=lif"], ["model=lif"], ["model=hlop"]]
    assert configs.labels(flat, given) == ["lif", "lif, lr=0.2", "hlop"]
    assert configs.labels(flat, [[], [], []]) == ["default", "lr=0.2", "x=1"]


def test_names_are_unique() -> None:
    assert configs.labels([{"a": 1}, {"a": "1"}], [[], []]) == ["a=1", "a=1 #2"]


def test_names_of_chosen_keys_have_all_their_values() -> None:
    assert configs.values_as_labels([{"a": 1, "b": 2}, {"a": 3, "b": 2}]) == ["a=1", "a=3"]
    assert configs.values_as_labels([{"a": 1}]) == ["default"]


def test_the_name_of_a_run_names_its_configuration() -> None:
    own = [{"a": 1}, {"a": 2}, {"a": 3}]
    given = [["name=full", "a=1", "seed=0"], ["name=other", "a=2"], ["a=3"]]
    assert configs.labels(own, given) == ["full", "other", "a=3"]
    shared = [["name=x", "a=1"], ["name=x", "a=2"], ["name=x", "a=3"]]
    assert configs.labels(own, shared) == ["a=1", "a=2", "a=3"]
    twice = [["name=x", "a=1"], ["name=x", "a=2"], ["name=y", "a=3"]]
    assert configs.labels(own, twice) == ["x, a=1", "x, a=2", "y"]
