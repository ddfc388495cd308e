"""One file per checkpoint: tensors in safetensors, everything else as JSON in its metadata.

Nothing is ever unpickled. A file is written under a temporary name, synced and moved into place
after the file that it replaces has been hard-linked to `previous-<name>`, so that at every moment
at least one complete checkpoint exists; a checksum over all of its content shows damage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuro.errors import CheckpointError
from neuro.files import clean as clean
from neuro.files import hard_link, replacing

SUFFIX = ".safetensors"
_FORMAT = "neuro-checkpoint-1"


def save(path: Path, state: Any) -> None:
    """Write a nested structure of tensors and plain values; the old file becomes `previous-`.

    Dictionaries (with string or integer keys), lists, tuples, numbers, strings, None and tensors
    are kept as they are; NamedTuples come back as tuples.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors), allow_nan=True)
    metadata = {"format": _FORMAT, "tree": tree, "checksum": _checksum(tensors, tree)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        if path.exists():
            hard_link(path, previous(path))


def load(path: Path) -> Any:
    """Read a checkpoint. CheckpointError if it is missing, foreign, truncated or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}).") from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of neuro.")
    tree = metadata.get("tree", "")
    if _checksum(tensors, tree) != metadata.get("checksum"):
        raise CheckpointError(f"{path}: the checksum does not match; the file is damaged.")
    return _unpack(json.loads(tree), tensors)


def load_or_previous(path: Path) -> tuple[Any, str | None]:
    """`load`, falling back to the previous good file; the second value then says so."""
    try:
        return load(path), None
    except CheckpointError as error:
        fallback = previous(path)
        if not fallback.is_file():
            raise
        return load(fallback), f"{error} Using {fallback.name} instead."


def previous(path: Path) -> Path:
    """Where the file goes that `path` replaces."""
    return path.with_name(f"previous-{path.name}")


def keep_copy(path: Path, step: int, keep: int) -> None:
    """Keep `path` also as `step-<n>`, and only the newest `keep` of those."""
    hard_link(path, path.with_name(f"step-{step:08d}{SUFFIX}"))
    numbered = sorted(path.parent.glob(f"step-*{SUFFIX}"))
    for old in numbered[:-keep]:
        old.unlink()


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load a model's tensors, all of them. CheckpointError lists those that differ."""
    differences = list(_differences(model.state_dict(), weights))
    if differences:
        shown = "\n".join(f"  {line}" for line in differences[:12])
        more = f"\n  ... and {len(differences) - 12} more" if len(differences) > 12 else ""
        raise CheckpointError(
            f"{source} is from another architecture; these tensors differ:\n{shown}{more}\n"
            "Use the model and data that it was trained with."
        )
    model.load_state_dict(weights)


def load_what_fits(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Load the tensors whose names and shapes fit; returns one line for each that does not."""
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(fitting, strict=False)
    return list(_differences(own, weights))


def _differences(own: dict[str, Tensor], given: dict[str, Tensor]) -> Iterator[str]:
    for name in sorted(own.keys() | given.keys()):
        if name not in given:
            yield f"{name}: missing, the model expects {tuple(own[name].shape)}"
        elif name not in own:
            yield f"{name}: {tuple(given[name].shape)}, unknown to the model"
        elif own[name].shape != given[name].shape:
            yield f"{name}: {tuple(given[name].shape)}, expected {tuple(own[name].shape)}"


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
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
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    values = [_unpack(value, tensors) for value in content]
    return values if kind == "list" else tuple(values)


def _checksum(tensors: dict[str, Tensor], tree: str) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
