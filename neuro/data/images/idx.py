"""IDX, the file format of MNIST and its relatives: a magic number, the sizes, then the bytes.

Magic is 0x00000801 for labels (uint8, one dimension) and 0x00000803 for images (three). Files may
be gzipped, whatever their name says.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neuro.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"


def find(folder: Path, stem: str, rank: int) -> Path:
    """The file `<stem>-idx3-ubyte` or `<stem>.idx3-ubyte`, gzipped or not."""
    names = [f"{stem}{dot}idx{rank}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    what = "none of" if folder.is_dir() else "no such folder; expected one with"
    raise DataError(f"{folder}: {what} {', '.join(names)}.")


def read(path: Path, rank: int | None = None) -> np.ndarray[Any, Any]:
    """The array of a file, uint8 with `rank` dimensions (None: as many as it has)."""
    try:
        content = path.read_bytes()
        if content[:2] == GZIP_MAGIC:
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected an IDX file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({error}).") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or magic[3] != (rank or magic[3]):
        expected = f"0x{0x800 + rank:08x}" if rank else "0x000008.."
        raise DataError(
            f"{path}: begins with 0x{magic.hex()}; expected {expected} (IDX of uint8"
            f"{f', {rank} dimensions' if rank else ''})."
        )
    dimensions, header = magic[3], 4 + 4 * magic[3]
    if len(content) < header:
        raise DataError(f"{path}: truncated within its header of {header} bytes.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) != header + math.prod(shape):
        raise DataError(
            f"{path}: {len(content)} bytes, but shape {list(shape)} needs "
            f"{header + math.prod(shape)}; the file is "
            f"{'truncated' if len(content) < header + math.prod(shape) else 'longer than it says'}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
