"""Files with tensors and a text, in the safetensors format with a checksum over both.

Nothing is unpickled. Files are written atomically (`io/files.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuro.errors import CheckpointError
from neuro.io.files import hard_link, replacing


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    text: str,
    *,
    kind: str,
    previous: Path | None = None,
) -> None:
    """Write a file of a `kind`; an existing file is kept as `previous`, if that is given.

    StorageError leaves both as they were.
    """
    kept = {name: _copied(tensor) for name, tensor in tensors.items()}
    metadata = {"format": kind, "text": text, "checksum": _checksum(kept, text)}
    size = sum(tensor.nbytes for tensor in kept.values()) + len(text)
    with replacing(path, size) as temporary:
        save_file(kept, temporary, metadata=metadata)
        if previous is not None and path.exists():
            hard_link(path, previous)


def read(path: Path, *, kind: str, what: str) -> tuple[dict[str, Tensor], str]:
    """Read tensors and text of a file of a `kind`, which messages call `what`.

    CheckpointError if the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such {what}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}).") from error
    if metadata.get("format") != kind:
        raise CheckpointError(f"{path}: a safetensors file, but not a {what} of neuro.")
    text = metadata.get("text", "")
    if _checksum(tensors, text) != metadata.get("checksum"):
        raise CheckpointError(f"{path}: the checksum does not match; the file is damaged.")
    return tensors, text


def _copied(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU; safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):  # safetensors does not keep the order
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
