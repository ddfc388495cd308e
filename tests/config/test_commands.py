"""Printed commands are parsed correctly by the shell and Hydra."""

from __future__ import annotations

import random
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from neuro.config import commands

AWKWARD = (
    "", " a b ", "it's", '"x"', "~/data", "a=b", "a,b", "[a]", "{a: b}", "${seed}", r"\${seed}",
    "C:\\dir\\", "\\'", "größe", "null", "True", "nan", "1e3", "-1", "a#b", "(x)", "a\tb", "$HOME",
)  # fmt: skip


def read_back(override: str) -> object:
    """The value of `key=...` as Hydra and OmegaConf read it."""
    value = OverridesParser.create().parse_override(override).value()
    return OmegaConf.create({"key": str(value) if isinstance(value, str) else value}).key


@pytest.mark.parametrize("value", AWKWARD)
def test_strings_are_read_back(value):
    command = commands.launch([commands.override("key", value)])
    (override,) = shlex.split(command)[2:]
    assert read_back(override) == value
    assert commands.unquoted(override.removeprefix("key=")) == value


def test_strings_of_random_letters_are_read_back():
    draw = random.Random(0)
    for _ in range(300):
        value = "".join(draw.choices("ab1 ~=,'\"\\${}[]():#ü/.-+*?@|%&;!<>", k=draw.randint(0, 8)))
        assert read_back(commands.override("key", value)) == value


def test_ordinary_values_need_no_quotes():
    assert commands.launch(["resume=outputs/lif-task1/20260101-000000-ab12"]) == (
        "python launch.py resume=outputs/lif-task1/20260101-000000-ab12"
    )
    assert commands.override("k", [1, None, True, 0.5, {"a": "x,y"}]) == (
        "k=[1,null,true,0.5,{a:'x,y'}]"
    )
