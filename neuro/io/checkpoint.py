"""Checkpoint files: nested structures of tensors and plain values in one safetensors file.

The file that a checkpoint replaces is hard-linked to `previous-<name>`, as a fallback in case the
new one is damaged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from neuro.errors import CheckpointError
from neuro.io import tensor_file
from neuro.io.files import clean as clean
from neuro.io.files import hard_link

SUFFIX = ".safetensors"
_KIND = "neuro-checkpoint-2"


def save(path: Path, state: Any) -> None:
    """Write a nested structure of tensors and plain values; an existing file becomes `previous-`.

    Allowed are dictionaries (with string or integer keys), lists, tuples, numbers, strings, None
    and tensors. NamedTuples are read back as tuples. TypeError for other values.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors), allow_nan=True)  # metrics may be NaN; Python reads it
    tensor_file.write(path, tensors, tree, kind=_KIND, previous=previous(path))


def load(path: Path) -> Any:
    """Read a checkpoint. CheckpointError if it is missing, damaged or another kind of file."""
    tensors, tree = tensor_file.read(path, kind=_KIND, what="checkpoint")
    return _unpack(json.loads(tree), tensors)


def load_or_previous(path: Path) -> tuple[Any, str | None]:
    """Read a checkpoint, or the previous one if it is damaged.

    The second value is then a message that says so. CheckpointError if there is no valid file.
    """
    try:
        return load(path), None
    except CheckpointError as error:
        fallback = previous(path)
        if not fallback.is_file():
            raise
        return load(fallback), f"{error} Using {fallback.name} instead."


def previous(path: Path) -> Path:
    """Path to which the file replaced by `path` is moved."""
    return path.with_name(f"previous-{path.name}")


def keep_copy(path: Path, step: int, keep: int) -> None:
    """Keep a copy of `path` as `step-<step>`, and delete all but the newest `keep` copies."""
    hard_link(path, path.with_name(f"step-{step:08d}{SUFFIX}"))
    numbered = sorted(path.parent.glob(f"step-*{SUFFIX}"))
    for old in numbered[:-keep]:
        old.unlink()


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Convert a structure to JSON values; its tensors are added to `tensors`.

    Containers are tagged with their type: JSON has no tuples, and only string keys.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(k), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _key(key: Any) -> Any:
    if not isinstance(key, (str, int)):
        raise TypeError(f"a checkpoint cannot hold a dictionary key {key!r}")
    return key


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_pack`."""
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    values = [_unpack(value, tensors) for value in content]
    return values if kind == "list" else tuple(values)
