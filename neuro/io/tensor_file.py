"""Files with tensors and a text, in the safetensors format with a checksum over both.

Nothing is unpickled. Files are written atomically (`io/files.py`), and equal contents give equal
bytes.
"""

from __future__ import annotations

import hashlib
import json
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
        _sort_header(temporary)
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
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}).") from error
    if metadata.get("format") != kind:
        raise CheckpointError(f"{path}: a safetensors file, but not a {what} of neuro.")
    text = metadata.get("text", "")
    if _checksum(tensors, text) != metadata.get("checksum"):
        raise CheckpointError(f"{path}: the checksum does not match; the file is damaged.")
    return tensors, text


def _copied(tensor: Tensor) -> Tensor:
    """Copy a tensor to contiguous memory of the CPU; safetensors refuses tensors that share memory.

    `contiguous()` would keep the stride of a dimension of size 1, which may be 0 and which
    safetensors refuses.
    """
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _sort_header(path: Path) -> None:
    """Sort the keys of a file's header in place; safetensors writes metadata in random order.

    The format: the header's length in 8 bytes (little-endian), a JSON object padded with spaces to
    that length, then the tensors (github.com/huggingface/safetensors, "Format").
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        content = text.encode()
        assert len(content) <= length, "the order of keys does not change their length"
        file.seek(8)
        file.write(content.ljust(length))


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):  # safetensors does not keep the order
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
