"""Reads and truncates W&B's offline files (`run-<id>.wandb`), which a resumed run needs.

Such a file is in LevelDB's log format
(https://github.com/google/leveldb/blob/main/doc/log_format.md) after a header of 7 bytes: blocks
of 32 KiB that hold chunks of `crc32 (4) | length (2, little endian) | type (1) | payload`. A record
is one chunk of type FULL, or FIRST, MIDDLE..., LAST; the end of a block that has no room for a
chunk header is padding. The payload is a protobuf message that only the caller decodes.
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
    """Yield each record with the offset of its first byte, up to an incomplete one.

    ValueError if the content does not begin with W&B's header.
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
    """The largest step of the file's history records; -1 if there are none.

    - `step_of`: maps a record's payload to its step, or to None if it is not a history record

    ValueError if the file is not a W&B log.
    """
    steps = (step_of(payload) for _, payload in records(path.read_bytes()))
    return max((step for step in steps if step is not None), default=-1)


def cut_after(path: Path, step: int, step_of: Callable[[bytes], int | None]) -> None:
    """Truncate the file before its first history record later than `step`.

    ValueError if the file is not a W&B log.
    """
    for begin, payload in records(path.read_bytes()):
        found = step_of(payload)
        if found is not None and found > step:
            with path.open("r+b") as file:
                file.truncate(begin)
            return
