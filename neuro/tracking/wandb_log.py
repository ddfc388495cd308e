"""W&B's offline files (`run-<id>.wandb`), as far as a resumed run must mend them.

Such a file is a LevelDB log: a header of 7 bytes, then blocks of 32 KiB that hold chunks of
`crc32 (4) | length (2, little endian) | type (1) | payload`. A record is one chunk of type FULL,
or FIRST, MIDDLE..., LAST; what is left of a block with no room for a chunk header is padding.
What a record means is W&B's protobuf and not known here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

MAGIC = b":W&B"
_HEADER_BYTES = 7
_BLOCK_BYTES = 32768
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Each record with the offset at which it begins; ends at a torn one.

    Raises ValueError when the content is not W&B's.
    """
    if not content.startswith(MAGIC):
        raise ValueError("not a W&B log")
    position = begin = _HEADER_BYTES
    parts: list[bytes] = []
    while True:
        room = _BLOCK_BYTES - position % _BLOCK_BYTES
        if room < _CHUNK.size:
            position += room
        if position + _CHUNK.size > len(content):
            return
        _, length, kind = _CHUNK.unpack_from(content, position)
        end = position + _CHUNK.size + length
        if not _FULL <= kind <= _LAST or end > len(content):
            return
        if kind in (_FULL, _FIRST):
            begin, parts = position, []
        parts.append(content[position + _CHUNK.size : end])
        if kind in (_FULL, _LAST):
            yield begin, b"".join(parts)
        position = end


def last_step(path: Path, step_of: Callable[[bytes], int | None]) -> int:
    """The last step of which the file has a history row, -1 if it has none.

    `step_of` tells the step of a history record and None of all others.
    """
    steps = (step_of(payload) for _, payload in records(path.read_bytes()))
    return max((step for step in steps if step is not None), default=-1)


def cut_after(path: Path, step: int, step_of: Callable[[bytes], int | None]) -> None:
    """Cut the file before its first history row later than `step`."""
    for begin, payload in records(path.read_bytes()):
        found = step_of(payload)
        if found is not None and found > step:
            with path.open("r+b") as file:
                file.truncate(begin)
            return
