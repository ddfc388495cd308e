"""Each key has one default: defaults of an option and of the constructor are equal.

Options that set keys of other groups (experiments, rules, readouts, sweeps) are settings, not
defaults, and are not compared.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from neuro.config.build import Node, parse
from neuro.config.classes import resolve
from neuro.config.hardware import TRAINING_KEYS
from neuro.config.opc import OPCSettings
from neuro.config.phase import PhaseConfig
from neuro.config.scenario import ScenarioSettings
from neuro.config.trainer import TrainerSettings
from neuro.config.values import parse_values
from tests.test_conf import BASES, CONF, FILES, name_of

GROUPS = (
    "callbacks", "data", "data/tokenizer", "data/transforms", "hardware", "loss", "metric", "model",
    "model/liquid", "model/neuron", "objective", "optimizer", "scheduler", "tracking",
)  # fmt: skip
OPTIONS = [
    path
    for path in FILES
    if path.parent.relative_to(CONF).as_posix() in GROUPS and path not in BASES
    if name_of(path) != "tracking/none"
]

#: (option, key) that must differ, and why
EXCEPTIONS = {
    # five models are one class; the constructor's are those of the plain one, model=lif
    ("model/ltgate", "consolidation"): "what makes it LT-Gate",
    ("model/ltgate", "readout"): "keeps old classes, since the local rule settles hidden layers",
    ("model/scnn", "channels"): "a network of a size that fits event cameras",
    ("model/scnn", "strides"): "likewise",
    ("model/scnn", "dense_units"): "likewise",
    ("model/scnn", "recurrent"): "likewise",
    ("model/scnn", "readout_tau_ms"): "likewise",
    ("model/hlop", "consolidation"): "what makes it HLOP",
    ("model/dsdsnn", "consolidation"): "what makes it DSD-SNN",
    ("model/neuron/adlif", "symplectic"): "what makes it adLIF",
    ("model/liquid/ltc", "wiring"): "the constructor's is the same, made",
    # the constructor has no default for files or layers
    ("model/soen", "layers"): "a network of a size that fits the default data",
    ("model/soen", "connections"): "likewise",
    ("model/memory_lm_small", "span"): "short spans for short tasks",
    ("model/memory_lm_small", "memory_gain"): "tasks that cannot be solved without memories",
    ("metric/top_5", "top"): "what makes it another metric than accuracy",
    ("model/ltc", "liquid.wiring"): "the same wiring, written out to be replaced",
    ("callbacks/delay_width", "shape"): "kernels shrink by equal factors in the source",
    ("callbacks/delay_width", "end_epoch"): "and over many epochs",
    # default of the environment; without one no files are written
    ("data/hdf5", "root"): "NEURO_DATA, or .data",
    ("data/arm", "root"): "likewise",
    ("data/lithography", "root"): "likewise",
    ("data/events", "root"): "likewise",
    ("data/made_shd", "root"): "likewise",
    ("data/moving_bars", "root"): "likewise",
    ("data/tonic", "root"): "likewise",
    ("data/litho_layout", "root"): "likewise",
    ("data/litho_masks", "root"): "likewise",
    ("data/temporal_digits", "root"): "likewise",
    ("data/fineweb_dclm", "root"): "likewise",
    ("data/fineweb_dclm", "shares"): "the mixture of the guide",
    ("data/stories_fineweb_dclm", "root"): "likewise",
    ("data/stories_fineweb_dclm", "shares"): "the mixture of the guide",
    ("data/stories_fineweb_dclm", "tokenizer.size"): "the vocabulary of the guide's models",
    ("data/text", "root"): "likewise",
    ("data/tinystories", "root"): "likewise",
    ("data/text_files", "root"): "likewise",
    ("data/temporal_mnist", "root"): "likewise",
}


def option(path: Path) -> dict[str, Any]:
    """The nodes of an option by path, with inherited keys and unresolved interpolations."""
    group, _, name = name_of(path).rpartition("/")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        if "@package _global_" in path.read_text():  # it overrides other groups
            node: Any = hydra.compose("config", overrides=[f"{group}={name}"])
        else:
            node = hydra.compose(name_of(path))
    for part in group.split("/"):
        node = node[part]
    assert isinstance(node, DictConfig)
    content: dict[str, Any] = OmegaConf.to_container(node)  # type: ignore[assignment]
    return content


def components(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The component of an option, or those of a group that takes several."""
    if "_target_" in node:
        yield {key: value for key, value in node.items() if key not in TRAINING_KEYS}
    else:
        yield from (value for value in node.values() if isinstance(value, dict))


def given(values: Any) -> Any:
    """Values without those that are left to the user, `???`.

    A value that is another key's, `${oc.select:key,default}`, is its default.
    """
    if isinstance(values, dict):
        return {key: given(value) for key, value in values.items() if value != "???"}
    taken = re.fullmatch(r"\$\{oc\.select:[\w.]+,(.*)\}", str(values))
    return yaml.safe_load(taken[1]) if taken else values


def differences(node: Node[Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, value of the option, default of the constructor), also of components within it."""
    for name, parameter in inspect.signature(node.cls).parameters.items():
        if name not in node.content or parameter.default is parameter.empty:
            continue
        if name in node.nested or name in node.collections:
            if parameter.default != node.content[name]:
                yield name, node.content[name], parameter.default
        elif node.arguments[name] != parameter.default:
            yield name, node.arguments[name], parameter.default
    for name, inner in node.nested.items():
        yield from ((f"{name}.{key}", *rest) for key, *rest in differences(inner))


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_options_and_constructors_agree(path: Path) -> None:
    found = {
        key: (value, default)
        for content in components(given(option(path)))
        for key, value, default in differences(
            parse(content, resolve(content["_target_"]), name_of(path))
        )
    }
    allowed = {key for name, key in EXCEPTIONS if name == name_of(path)}
    assert set(found) == allowed, found


@pytest.mark.parametrize(
    ("name", "schema", "of_the_option"),
    [
        ("trainer/default", TrainerSettings, {}),
        ("opc/default", OPCSettings, {}),
        ("scenario/base", ScenarioSettings, {}),
        ("phase/base", PhaseConfig, {"task": "all"}),  # the argument has no default
    ],
)
def test_options_and_schemas_agree(
    name: str, schema: type[BaseModel], of_the_option: dict[str, Any]
) -> None:
    values = given(option(CONF / f"{name}.yaml"))
    parsed = parse_values({**values, **of_the_option}, schema)
    for key, field in schema.model_fields.items():
        if key in values and not field.is_required():
            assert getattr(parsed, key) == field.default, key


def test_exceptions_are_options() -> None:
    names = {name_of(path) for path in OPTIONS}
    assert {name for name, _ in EXCEPTIONS} <= names
