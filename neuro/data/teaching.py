"""A teacher's trajectories, kept in files beside the made data.

    teachers/<task>-<split>-<part>-<digest>.h5    the layout of `store`, one split at the root
    └── data    [N, T, K] float32: the teacher's outputs at each step of each sample, in the order
                in which the task's part has them; chunked by blocks of samples

The digest covers the teacher, the samples and how they become inputs: other weights, data, splits
or limits give another file. Files are read like the samples: into memory, or lazily in blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from neuro.data import store
from neuro.data.base import Batch, Loader
from neuro.data.made import Content, digest, made, write
from neuro.data.parts import Part, all_rows

#: part of every digest; raise it when the same teacher and samples give other files than before
RECIPE = 1
FOLDER = "teachers"


def trajectories(
    part: Part, loader: Loader, root: Path, name: str, key: str, run: Callable[[Batch], Tensor]
) -> Part:
    """What `run` makes of a part's samples, read from its file or computed now.

    `loader` gives exactly these samples in order; `key` tells the teacher from others.
    """
    shaping = {
        "recipe": RECIPE,
        "teacher": key,
        "samples": part.split.fingerprint,
        "rows": hashlib.sha256(part.rows.astype(np.int64).tobytes()).hexdigest(),
        "encoding": part.encoding,
        "rate_hz": part.rate_hz,
    }
    label = "".join(c if c.isalnum() or c == "-" else "_" for c in name)
    path = root / FOLDER / f"{label}-{digest(shaping)}.h5"
    shape = len(part), part.split.frames

    def make() -> None:
        blocks: Iterator[store.Array] = (
            run(batch).float().cpu().numpy() for batch in loader.batches()
        )
        write(
            path,
            {store.ROOT: Content(blocks, None, samples=len(part))},
            rate_hz=part.rate_hz,
            generator=f"a teacher's outputs over {part.split.where}",
        )

    def expected(splits: Mapping[str, store.Split]) -> str:
        found = splits[store.ROOT].shape[:2] if store.ROOT in splits else None
        return "" if found == shape else f"holds {found} samples and steps instead of {shape}."

    return all_rows(made(path, make, expected)[store.ROOT])
