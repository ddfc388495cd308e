"""Files with the architecture of a SOEN: YAML as below, or a model file (`models/file.py`).

simulation: {dt: 37.0}
layers:
  - {id: 0, type: input}
  - {id: 1, type: dendrite, params: {dim: 64}}
  - {id: 2, type: dendrite}
connections:
  - {from: 0, to: 1, type: dense}
  - {from: 1, to: 1, type: sparse, params: {density: 0.1}}
  - {from: 1, to: 2, type: dense, init: {kind: uniform}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from torch import Tensor

from neuro.config.values import parse_values
from neuro.errors import ConfigError
from neuro.models.file import read
from neuro.models.soen.architecture import (
    Architecture,
    ConnectionSpec,
    Entry,
    LayerSpec,
    Simulation,
)


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as Hydra does. In YAML 1.1 a number with an exponent has a dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class ArchitectureFile(Entry):
    """Content of an architecture file."""

    simulation: Simulation = Simulation()
    layers: tuple[LayerSpec, ...]
    connections: tuple[ConnectionSpec, ...]

    @property
    def architecture(self) -> Architecture:
        """Layers and connections together."""
        return Architecture(self.layers, self.connections)


class Source(NamedTuple):
    """Content of a file: architecture, simulation, and the weights of a model file."""

    architecture: Architecture
    simulation: Simulation
    weights: dict[str, Tensor] | None


def read_source(path: Path) -> Source:
    """Read an architecture file (YAML) or a model file. ConfigError for invalid content."""
    if path.suffix == ".safetensors":
        stored = read(path)
        names = ArchitectureFile.model_fields.keys() | Simulation.model_fields.keys()
        content = {name: value for name, value in stored.node.items() if name in names}
        if not content.keys() >= {"layers", "connections"}:
            raise ConfigError(
                f"model.architecture: {path} holds a model of {stored.node['_target_']}, which has "
                "no layers and connections of this kind."
            )
        simulation = {name: content.pop(name) for name in Simulation.model_fields}
        found = ArchitectureFile.model_validate_json(
            json.dumps(content | {"simulation": simulation})
        )
        return Source(found.architecture, found.simulation, stored.weights)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"model.architecture: cannot read {path} ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.architecture: {path} is no YAML ({error}).") from error
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"model.architecture: {path} holds {type(content).__name__}; expected a mapping with "
            "layers and connections."
        )
    if "seed" in content:
        raise ConfigError(
            f"model.architecture: {path} has a seed; that of the run decides, remove it."
        )
    try:
        found = parse_values(content, ArchitectureFile)
    except ConfigError as error:
        raise ConfigError(
            f"model.architecture: {path}: {problem}" for problem in error.problems
        ) from error
    return Source(found.architecture, found.simulation, None)


def describe(architecture: Architecture, simulation: Simulation) -> dict[str, Any]:
    """Layers, connections and simulation as a config may give them."""

    def entries(specs: Sequence[BaseModel]) -> list[dict[str, Any]]:
        return [spec.model_dump(mode="json", by_alias=True, exclude_unset=True) for spec in specs]

    return {
        "layers": entries(architecture.layers),
        "connections": entries(architecture.connections),
        **simulation.model_dump(mode="json"),
    }
