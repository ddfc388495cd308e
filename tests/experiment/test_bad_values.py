"""Every key of every option with wrong values: one message with the key's path, nothing else.

Configs are composed once. A value is put at all keys at once, since a check reports every problem;
what it accepts is tried alone, and must then build an experiment or be refused by a message.
"""

from __future__ import annotations

import copy
import functools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import launch
from neuro.errors import ConfigError, NeuroError
from neuro.experiment.assembly import assemble
from neuro.experiment.experiment import parse_experiment
from tests.test_conf import (
    LISTS,
    OPTIONS,
    TINY_MODEL,
    _data_root,  # noqa: F401
    compose,
    experiments,
    merged,
    name_of,
    overrides_for,
)

Config = dict[str, Any]
Path_ = tuple[str, ...]

VALUES: dict[str, Any] = {
    "text": "a=b, \"c\" 'd' äöü",
    "leading ~": "~x",
    "no text": "",
    "digits": "3",
    "boolean": True,
    "null": None,
    "NaN": math.nan,
    "infinity": -math.inf,
    "empty list": [],
    "list": [["x"]],
    "mapping": {"unknown": 1},
    "huge": 1e300,
    "large": 1e30,
    "huge integer": 10**30,
    "large integer": 2**62,
    "negative": -1,
    "zero": 0,
    "fraction": 1.5,
}

#: groups whose options set keys of other groups
PRESETS = ("experiment", "sweep", "rule", "readout")

#: groups of components, with an option that has one of them
NESTED = {
    "data/tokenizer": "data=text",
    "data/encoder": "data=timeseries",
    "model/liquid": "model=cfc",
    "model/tier": "model=memory_lm",
}

#: options with models of more than 50 million parameters
LARGE = frozenset(
    {*(f"model/tier/{name}" for name in ("a", "a_wide", "b", "c")), "experiment/memory_lm_full"}
)

#: internal terms of pydantic, torch and others, which must not occur in messages
FOREIGN = re.compile(
    r"pydantic|ufunc|should have at least|Input should|tuple|\bdict\b|NoneType|got None|got True"
    r"|object at 0x|\bint64\b|overflow|argument \d"
)


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the test's directory, where relative paths such as data.root end up."""
    monkeypatch.chdir(tmp_path)


def keys(node: Mapping[str, Any], path: Path_ = ()) -> Iterator[Path_]:
    """The paths of all values that are not mappings, or empty ones, without the groups' own."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from keys(value, (*path, name))
        elif name != "_target_" and (path or not isinstance(value, Mapping)):
            yield (*path, name)


def owner(config: Config, path: Path_) -> tuple[str, str]:
    """The component of a key, which identifies the same key in several configs."""
    node = at(config, path[:-1])
    return node.get("_target_", ".".join(path[:-1])), path[-1]


def at(config: Config, path: Sequence[str]) -> Any:
    return functools.reduce(lambda node, name: node[name], path, config)


def with_value(config: Config, paths: Sequence[Path_], value: Any) -> Config:
    changed = copy.deepcopy(config)
    for path in paths:
        at(changed, path[:-1])[path[-1]] = copy.deepcopy(value)
    return changed


def is_about(problem: str, path: Path_) -> bool:
    """Whether a message begins with a key's path, or with the path of what the key belongs to,
    or of another key of it, and then names the key.
    """
    key = ".".join(path)
    if problem.startswith(key):
        return problem[len(key)] in ":."
    begins = problem.partition(":")[0]
    above, _, name = key.rpartition(".")
    beside = begins.rpartition(".")[0]
    return name in problem and f"{above}.".startswith((f"{begins}.", f"{beside}."))


def walk(config: Config, paths: Sequence[Path_]) -> Iterator[tuple[Path_, Any]]:
    """Put each value at all keys; yields the keys and values that no problem is about."""
    for kind, value in VALUES.items():
        try:
            parse_experiment(with_value(config, paths, value), compare_tasks=False)
            problems = []
        except ConfigError as error:
            problems = error.problems
        for problem in problems:
            assert not FOREIGN.search(problem), problem
            assert "\n" not in problem
        for path in paths:
            if not any(is_about(problem, path) for problem in problems):
                # a phase's changes of these are checked once the phase itself is right
                if path[0] != "phase" or path[2] not in ("flags", "optimizer", "scheduler"):
                    assert kind not in ("NaN", "infinity", "huge", "huge integer"), path
                yield path, value


#: keys whose values take away what another key names, by the beginning of the message
ELSEWHERE = {"data.held_out": "phase.main.evaluate: the data has no task 'unseen'"}


def check_alone(config: Config, path: Path_, value: Any) -> None:
    """One value must give an experiment that can be built, or a message about it."""
    key = ".".join(path)
    try:
        assemble(parse_experiment(with_value(config, [path], value)))
    except NeuroError as error:
        problems = getattr(error, "problems", [str(error)])
        # a phase of all splits is one phase for each; a value may have consequences for other keys
        texts = [re.sub(r"^phase\.split_\d", "phase.split", text) for text in problems]
        named = any(is_about(text, path) or key in text or str(value) in text for text in texts)
        named |= texts[0].startswith(ELSEWHERE.get(key, ":"))
        assert named, f"{key}={value!r}: {texts}"
        assert not FOREIGN.search("\n".join(texts)), f"{key}={value!r}: {texts}"
    except Exception as error:
        raise AssertionError(f"{key}={value!r}: {type(error).__name__}: {error}") from error


def every_option() -> Iterator[Config]:
    """Few configs that together have every option of every group; not all fit together."""
    options: dict[str, list[str]] = {}
    for option in OPTIONS:
        group, _, choice = option.rpartition("/")
        if group not in (*PRESETS, "model/neuron", *NESTED):
            options.setdefault(group, []).append(choice)
    options["data"].sort(key=lambda name: name != "hdf5")  # the first one takes transforms
    listed = {group: options.pop(group) for group in (*LISTS, "data/transforms")}
    for i in range(max(map(len, options.values()))):
        chosen = [f"{group}={names[i % len(names)]}" for group, names in options.items()]
        if i == 0:
            for group, names in listed.items():
                chosen.append(f"{group}=[{','.join(n for n in names if n != 'none')}]")
        yield compose(*chosen)
    for group, beside in NESTED.items():
        for path in sorted((launch.CONF / group).glob("*.yaml")):
            yield compose(beside, f"{group}={path.stem}")


def test_every_key_of_every_option_refuses_wrong_values() -> None:
    seen: set[tuple[str, str]] = set()
    count = 0
    for config in every_option():
        new = [path for path in keys(config) if owner(config, path) not in seen]
        seen |= {owner(config, path) for path in new}
        accepted = sum(1 for _ in walk(config, new))
        count += len(new) * len(VALUES) - accepted
    assert len(seen) > 400
    assert count > 5000


def small(*overrides: str) -> Config:
    config = compose(*overrides)
    if "channels" in config["model"]:
        config["model"] |= TINY_MODEL
    return config


def few(split: str) -> list[str]:
    return [f"data.limit_train={split}", f"data.limit_val={split}", f"data.limit_test={split}"]


@pytest.mark.parametrize("experiment", ["lif", "soen_digits_4bit"])
def test_accepted_values_build(experiment: str) -> None:
    """A sample; `test_every_accepted_value_builds` has all."""
    config = small(f"experiment={experiment}", *few("20"), "tracking=[]")
    accepted = list(walk(config, list(keys(config))))
    for path, value in random.Random(0).sample(accepted, 15):
        check_alone(config, path, value)


# -- everything -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((launch.CONF / "experiment").glob("*.yaml")), ids=name_of)
def test_every_key_of_every_experiment(path: Path) -> None:
    config = compose(f"experiment={path.stem}")
    list(walk(config, list(keys(config))))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_accepted_value_builds(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    failures: list[str] = []
    # keys that large models share with small ones are tried with the small ones
    for i, options in enumerate(sorted(experiments(), key=LARGE.isdisjoint, reverse=True)):
        folder = tmp_path / f"data-{i}"
        folder.mkdir()
        config = small(*merged([overrides_for(option, folder) for option in options]))
        new = [path for path in keys(config) if owner(config, path) not in seen]
        seen |= {owner(config, path) for path in new}
        for path, value in walk(config, new):
            try:
                check_alone(config, path, value)
            except AssertionError as error:
                failures.append(str(error))
    assert not failures, "\n".join(failures)
