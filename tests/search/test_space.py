"""Search spaces: ranges, conditions, grids, and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from neuro.errors import ConfigError
from neuro.search.space import Space, difference, parse_space

GATE = {"model.gate": "choice(variance,fixed,learned)"}
ONLY_FIXED = [{"when": {"model.gate": "fixed"}, "params": {"model.gamma": "interval(0.1,0.9)"}}]


def space(
    params: Mapping[str, str],
    conditional: Sequence[Mapping[str, Any]] = (),
    arguments: Sequence[str] = (),
) -> Space:
    return parse_space(params, conditional, arguments)


def proposed(searched: Space, trials: int = 12) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [searched.suggest(study.ask()) for _ in range(trials)]


def test_a_conditional_parameter_exists_if_its_condition_holds() -> None:
    found = proposed(space(GATE, ONLY_FIXED))
    assert {values["model.gate"] for values in found} == {"variance", "fixed", "learned"}
    for values in found:
        assert ("model.gamma" in values) is (values["model.gate"] == "fixed")


def test_a_condition_may_name_several_values_and_depend_on_another_one() -> None:
    chain = [
        {
            "when": {"model.gate": ["fixed", "learned"]},
            "params": {"model.merge": "choice(gate,or)"},
        },
        {"when": {"model.merge": "or"}, "params": {"model.gamma": "interval(0.1,0.9)"}},
    ]
    for values in proposed(space(GATE, chain), 30):
        assert ("model.merge" in values) is (values["model.gate"] != "variance")
        assert ("model.gamma" in values) is (values.get("model.merge") == "or")


def test_a_condition_may_name_null_which_a_parameter_is_fixed_to() -> None:
    null = [{"when": {"a": None}, "params": {"b": "interval(0.0,1.0)"}}]
    assert set(space({"c": "choice(0,1)"}, null, ["a=null"]).ranges) == {"b", "c"}
    assert set(space({"c": "choice(0,1)"}, null, ["a=1"]).ranges) == {"c"}
    with pytest.raises(ConfigError, match=r"when\.a: got null; allowed: 1, 2"):
        space({"a": "choice(1,2)"}, null)


def test_fixing_the_parameter_of_a_condition_decides_it() -> None:
    held = space(GATE, ONLY_FIXED, ["model.gate=fixed"])
    assert set(held.ranges) == {"model.gamma"}
    assert held.conditions == ()
    assert held.fixed == {"model.gate": "model.gate=fixed"}
    free = space({**GATE, "seed": "choice(0,1)"}, ONLY_FIXED, ["model.gate=variance"])
    assert set(free.ranges) == {"seed"}
    assert free.conditions == ()


def test_the_command_line_overrides_the_file() -> None:
    searched = space(
        {"seed": "choice(0,1)", "x": "interval(0.0,1.0)"}, (), ["x=0.5", "~callbacks.a"]
    )
    assert set(searched.ranges) == {"seed"}
    assert list(searched.fixed.values()) == ["x=0.5", "~callbacks.a"]
    again = space({"x": "choice(1,2)"}, (), ["x=interval(0.0,1.0)"])
    assert type(again.ranges["x"]) is optuna.distributions.FloatDistribution


def test_spaces_stored_by_optuna_2_are_equal() -> None:
    stored = {
        "lr": '{"name": "LogUniformDistribution", "attributes": {"low": 0.001, "high": 0.1}}',
        "n": '{"name": "IntUniformDistribution", "attributes": {"low": 1, "high": 9, "step": 2}}',
        "x": '{"name": "DiscreteUniformDistribution", "attributes": '
        '{"low": 0.0, "high": 1.0, "q": 0.25}} when model.gate=fixed',
    }
    today = space(
        {"lr": "tag(log,interval(0.001,0.1))", "n": "range(1,9,2)", **GATE},
        [{"when": {"model.gate": "fixed"}, "params": {"x": "range(0.0,1.0,0.25)"}}],
    ).as_text()
    assert difference({**stored, "model.gate": today["model.gate"]}, today) == ""
    assert difference(stored | {"n": stored["lr"], "model.gate": today["model.gate"]}, today) == (
        "n has another range"
    )


def test_covering_values_contain_every_end_choice_and_condition() -> None:
    searched = space({**GATE, "lr": "tag(log,interval(0.001,0.1))"}, ONLY_FIXED)
    shown = list(searched.covering_values())
    assert {values["model.gate"] for values in shown} == {"variance", "fixed", "learned"}
    assert {values["lr"] for values in shown} == {0.001, 0.1}
    with_gamma = [values for values in shown if "model.gamma" in values]
    assert [values["model.gamma"] for values in with_gamma] == [0.1, 0.9]
    assert all(values["model.gate"] == "fixed" for values in with_gamma)


def test_a_grid_has_every_combination_that_its_conditions_allow() -> None:
    searched = space(
        {"model.gate": "choice(variance,fixed)", "n": "range(1,3)"},
        [{"when": {"model.gate": "fixed"}, "params": {"model.gamma": "range(0.0,0.6,0.3)"}}],
    )
    combinations = searched.grid()
    assert len(combinations) == 3 + 3 * 3
    assert {values["n"] for values in combinations} == {1, 2, 3}  # Optuna's ranges include the end
    assert {values.get("model.gamma") for values in combinations} == {None, 0.0, 0.3, 0.6}


@pytest.mark.parametrize(
    "params, conditional, expected",
    [
        ({}, (), "hydra.sweeper.params: no parameter to search"),
        ({"x": "interval(1,0)"}, (), "hydra.sweeper.params.x: got 'interval(1,0)'"),
        (
            {"x": "tag(log,interval(0,1))"},
            (),
            "a logarithmic interval must begin above 0, not at 0",
        ),
        ({"x": "interval(nan,1)"}, (), "ends must be finite numbers of at most 63 bits"),
        ({"x": "interval(0.0,inf)"}, (), "ends must be finite numbers of at most 63 bits"),
        ({"x": "range(0,1e30)"}, (), "ends must be finite numbers of at most 63 bits"),
        ({"x": "range(0,1,-1)"}, (), "the step must be above 0, not -1"),
        ({"x": "range(5,1)"}, (), "the first end (5) is above the second (1)"),
        ({"x": "interval(0,x)"}, (), "ends must be numbers, and choices cannot be null"),
        ({"x": "choice()"}, (), "empty choice is not legal"),
        ({"x": "glob(*)"}, (), "got 'glob(*)'; this is not a range"),
        (GATE, [{"if": {}, "params": {}}], "conditional[0]: needs the keys when and params"),
        (
            GATE,
            [{"when": {"model.gate": "fixt"}, "params": {"y": "choice(1,2)"}}],
            "when.model.gate: got fixt; allowed: variance, fixed, learned. Did you mean 'fixed'?",
        ),
        (
            GATE,
            [{"when": {"model.gat": "fixed"}, "params": {"y": "choice(1,2)"}}],
            "when.model.gat: not a parameter that is searched before this condition. "
            "Allowed: model.gate. Did you mean",
        ),
        (
            {"x": "interval(0.0,1.0)"},
            [{"when": {"x": "0.5"}, "params": {"y": "choice(1,2)"}}],
            "when.x: a condition needs choice(...), not a range",
        ),
        (
            GATE,
            [{"when": {"model.gate": "fixed"}, "params": {"y": "0.5"}}],
            "conditional[0].params.y: not a range",
        ),
        (
            {**GATE, "y": "choice(1,2)"},
            [{"when": {"model.gate": "fixed"}, "params": {"y": "choice(1,2)"}}],
            "conditional[0].params.y: is searched already",
        ),
    ],
)
def test_invalid_spaces(
    params: dict[str, str], conditional: Sequence[Mapping[str, Any]], expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        space(params, conditional)
    assert expected in str(error.value)


def test_a_continuous_range_has_no_grid() -> None:
    with pytest.raises(ConfigError, match="sampler=grid: lr is continuous"):
        space({"lr": "interval(0.1,0.2)"}).grid()


def test_differences_between_stored_spaces() -> None:
    one = space(GATE, ONLY_FIXED).as_text()
    other = space(
        {**GATE, "seed": "range(0,3)"},
        [{"when": {"model.gate": "learned"}, "params": {"model.gamma": "interval(0.1,0.9)"}}],
    ).as_text()
    assert difference(one, other) == "seed is new, model.gamma has another range"
    assert difference(other, one) == "seed is missing, model.gamma has another range"


@pytest.mark.parametrize(
    "text", ["interval(8,16)", "tag(log, interval(8, 64))", "interval(start=8,end=9)"]
)
@pytest.mark.parametrize("written", ["params", "arguments", "conditional"])
def test_intervals_between_integers_have_whole_numbers(text: str, written: str) -> None:
    params = {"a": "choice(1,2)"} if written != "params" else {"n": text}
    given = {"params": params, "arguments": [], "conditional": ()}
    if written == "arguments":
        given["arguments"] = [f"n={text}"]
    if written == "conditional":
        given["conditional"] = [{"when": {"a": [1, 2]}, "params": {"n": text}}]
    searched = space(**given)  # type: ignore[arg-type]
    assert all(type(values["n"]) is int for values in proposed(searched))
    assert all(type(v["n"]) is int for v in searched.covering_values() if "n" in v)


def test_a_key_with_a_float_has_floats_between_integers() -> None:
    config = OmegaConf.create({"lr": 0.1, "units": 16, "off": None})
    params = dict.fromkeys(config, "interval(1,3)")
    searched = parse_space(params, (), (), config)
    kinds = {key: type(value) for key, value in proposed(searched)[0].items()}
    assert kinds == {"lr": float, "units": int, "off": int}
    for text in ("interval(1.0,3)", "interval(1,3e0)", "float(interval(1,3))"):
        assert type(proposed(space({"n": text}))[0]["n"]) is float


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"optimizer.lr": 0.5}, "enqueue.optimizer.lr: got 0.5; allowed: a number between 0.001"),
        ({"n": 1.5}, "enqueue.n: got 1.5"),
        ({"model.gate": "varianc"}, "allowed: one of variance, fixed, learned"),
        ({"model.gat": "fixed"}, "enqueue.model.gat: not a parameter that is searched"),
    ],
)
def test_invalid_enqueued_values(values: dict[str, Any], expected: str) -> None:
    ranges = {**GATE, "optimizer.lr": "tag(log,interval(0.001,0.1))", "n": "interval(1,9)"}
    searched = space(ranges, ONLY_FIXED)
    searched.check({"optimizer.lr": 0.01, "n": 3, "model.gate": "fixed", "model.gamma": 0.5}, "k")
    with pytest.raises(ConfigError) as error:
        searched.check(values, "enqueue")
    assert expected in str(error.value)
