"""Self-contained model files: architecture, the task that it was built for, and weights.

    model = neuro.models.load("net.safetensors")
    values = model(frames, dt_ms=20.0).values

Tensors have the names of the model's `state_dict`; the rest is JSON in the file's metadata.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from torch import Tensor

from neuro.config.build import build
from neuro.config.renamed import model_of_today, spec_of_today
from neuro.data.base import TaskSpec
from neuro.errors import CheckpointError, ConfigError
from neuro.io import tensor_file
from neuro.models.base import CoreModel
from neuro.models.capabilities import Portable
from neuro.models.weights import load_weights

_KIND = "neuro-model-1"


class StoredModel(NamedTuple):
    """Content of a model file: the model's config node, its task and its tensors."""

    node: dict[str, Any]
    spec: TaskSpec
    weights: dict[str, Tensor]


def save(path: str | Path, model: CoreModel, node: Mapping[str, Any], spec: TaskSpec) -> None:
    """Write a model that was built from the config node `node` for the task `spec`."""
    config = model.portable_config(node) if isinstance(model, Portable) else dict(node)
    content = {"model": config, "spec": dataclasses.asdict(spec)}
    text = json.dumps(content, allow_nan=False)
    tensor_file.write(Path(path), model.state_dict(), text, kind=_KIND)


def read(path: str | Path) -> StoredModel:
    """Read a model file. CheckpointError if it is missing, of another format, or damaged."""
    tensors, text = tensor_file.read(Path(path), kind=_KIND, what="model file")
    content = json.loads(text)
    spec = TypeAdapter(TaskSpec).validate_python(spec_of_today(content["spec"]))
    return StoredModel(model_of_today(content["model"]), spec, tensors)


def load(path: str | Path) -> CoreModel:
    """Load a model, in evaluation mode. CheckpointError if this version cannot build it."""
    stored = read(path)
    try:
        model = build(stored.node, CoreModel, "model", spec=stored.spec)
    except ConfigError as error:
        raise CheckpointError(f"{path}: was saved by another version of neuro: {error}") from error
    load_weights(model, stored.weights, str(path))
    return model.eval()
