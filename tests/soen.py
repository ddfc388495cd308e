"""Small SOENs for tests, built from plain values as a config gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuro.config.build import build
from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.models.base import CoreModel
from neuro.models.soen.model import SOEN

INPUTS, OUTPUTS = 3, 2
LAYERS = (
    {"id": 0, "type": "input"},
    {"id": 1, "type": "dendrite", "params": {"dim": 5}},
    {"id": 2, "type": "dendrite"},
)
CONNECTIONS = (
    {"from": 0, "to": 1, "type": "dense"},
    {"from": 1, "to": 2, "type": "dense"},
)


def spec(inputs: int = INPUTS, outputs: int = OUTPUTS) -> TaskSpec:
    """A task of `inputs` numbers per frame."""
    targets = TargetSpec("class", classes=outputs)
    return TaskSpec("all", InputSpec((inputs,)), targets, ((6, 1.0),), tuple(range(outputs)))


def soen(
    layers: Any = LAYERS, connections: Any = CONNECTIONS, *, seed: int = 0,
    task: TaskSpec | None = None, **options: Any,
) -> SOEN:  # fmt: skip
    """A network built from a config with the usual checks."""
    torch.manual_seed(seed)
    node = {
        "_target_": "neuro.models.soen.model.SOEN",
        "layers": list(layers),
        "connections": list(connections),
        **options,
    }
    made = build(node, CoreModel, "model", spec=task or spec())
    assert isinstance(made, SOEN)
    return made


def linear_chain(*types: str, **options: Any) -> SOEN:
    """Layers of width one after the input, `linear` by default, with weights of 1."""
    layers: list[dict[str, Any]] = [{"id": 0, "type": "input"}]
    layers += [{"id": i, "type": kind, "params": {"dim": 1}} for i, kind in enumerate(types, 1)]
    one = {"type": "dense", "init": {"kind": "constant", "value": 1.0}}
    extra = [{**one, **pair} for pair in options.pop("extra", ())]
    links = [{"from": i, "to": i + 1, **one} for i in range(len(types))]
    return soen(layers, links + extra, task=spec(1, 1), **options)


def frames(steps: int = 6, batch: int = 4, inputs: int = INPUTS, seed: int = 0) -> Tensor:
    """`[B, T, inputs]`, from 0 to 1."""
    return torch.rand(batch, steps, inputs, generator=torch.Generator().manual_seed(seed))
