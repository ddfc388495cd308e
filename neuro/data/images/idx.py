"""IDX, the file format of MNIST and its relatives: a magic number, the sizes, then the bytes.

Magic is two zeros, the type of the numbers and how many dimensions there are: 0x00000801 for labels
(uint8, one dimension) and 0x00000803 for images (three). Files may be gzipped, whatever their name
says. The format is described at the end of yann.lecun.com/exdb/mnist.
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
UINT8 = 0x08
#: other types of numbers, of which neuro reads none
_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def find(folder: Path, stem: str, rank: int) -> Path:
    """The file `<stem>-idx3-ubyte` or `<stem>.idx3-ubyte`, gzipped or not.

    Archives of Kaggle unpack to folders of these names, with the file of the same name in each.
    """
    names = [f"{stem}{dot}idx{rank}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    for name in names:
        for path in (folder / name, *(folder / name / inner for inner in names)):
            if path.is_file():
                return path
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; expected a folder with {', '.join(names)}.")
    found = sorted(path.name for path in folder.iterdir())
    raise DataError(
        f"{folder}: none of {', '.join(names)}. It holds {', '.join(found[:8]) or 'nothing'}"
        f"{', ...' if len(found) > 8 else ''}. Images in CSV, PNG or NumPy files are not read."
    )


def is_idx(start: bytes) -> bool:
    """Whether a file that begins with these 4 bytes may be IDX, of any numbers, or gzip."""
    known = len(start) > 3 and start[:2] == b"\0\0" and start[2] in (UINT8, *_TYPES)
    return known or start[:2] == GZIP_MAGIC


def read(path: Path, rank: int | None = None) -> np.ndarray[Any, Any]:
    """The array of a file, uint8 with `rank` dimensions (None: as many as it has)."""
    try:
        content = path.read_bytes()
        if content[:2] == GZIP_MAGIC:
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected an IDX file.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; expected an IDX file.") from None
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({error}).") from error
    magic = content[:4]
    if len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES:
        raise DataError(
            f"{path}: IDX of {_TYPES[magic[2]]}; expected uint8 (0x08 as the third byte). Convert "
            "the values to 0 to 255, or write an HDF5 file for data=hdf5, which takes floats."
        )
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UINT8]) or magic[3] != (rank or magic[3]):
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
    if 0 in shape:
        raise DataError(f"{path}: holds nothing (shape {list(shape)}).")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
