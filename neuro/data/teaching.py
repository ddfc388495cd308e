"""Files for distillation: a teacher's trajectories, and mixtures of samples without labels.

    teachers/<task>-<split>-<part>-<digest>.h5    the layout of `store`, one split at the root
    └── data    [N, T, K] float32: the teacher's outputs at each step of each sample, in the order
                in which the task's part has them; chunked by blocks of samples

    teachers/<task>-<split>-<part>-mixed-<digest>.h5   mixtures of two samples each, which have no
                label; the same layout
    ├── data    [N, T, ...] float32, as samples become inputs; [N, 1, ...] where frames are held
    └── labels  [N] or [N, T], all -100

The digest depends on the teacher, the samples and their conversion to inputs: other weights, data,
splits or limits give another file. Files are read like samples: into memory, or lazily in blocks.
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
from neuro.errors import ConfigError

#: part of every digest; to be raised when equal teachers and samples give other files than before
RECIPE = 1
FOLDER = "teachers"


def trajectories(
    part: Part, loader: Loader, root: Path, name: str, key: str, run: Callable[[Batch], Tensor]
) -> Part:
    """Results of `run` for the samples of a part, from a file or computed now.

    `loader` yields these samples in their order; `key` identifies the teacher.
    """
    path = _path(root, name, part, teacher=key)
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


def mixed(part: Part, root: Path, name: str, copies: int, seed: int, batch_size: int) -> Part:
    """Mixtures of a part's samples, `copies` per sample, from a file or made now.

    A mixture is share * a + (1 - share) * b of two samples' inputs, the share uniform in [0, 1)
    (mixup, Zhang et al. 2018). Mixtures have no label; the teacher provides the target (Beyer et
    al. 2022). Both samples are near each other in the file, so that a large file is read in blocks.
    ConfigError unless targets are integer classes, since only these can be missing (-100).
    """
    labels = part.labels
    if part.encoding.symbols is not None or labels is None or labels.dtype.kind != "i":
        raise ConfigError(
            f"teacher_mixtures: {part.split.where} holds no samples with integer classes, and "
            "mixtures are samples without a class. Set teacher_mixtures=0."
        )
    path = _path(root, f"{name}-mixed", part, copies=copies, seed=seed)
    missing = np.full((len(part) * copies, *labels.shape[1:]), store.NO_LABEL, np.int64)

    def make() -> None:
        blocks = _mixtures(part, copies, np.random.default_rng([seed, 2]), batch_size)
        write(
            path,
            {store.ROOT: Content(blocks, missing, frames=part.split.held_frames)},
            rate_hz=part.rate_hz,
            generator=f"mixtures of {part.split.where}",
        )

    def expected(splits: Mapping[str, store.Split]) -> str:
        found = splits[store.ROOT].shape[0] if store.ROOT in splits else None
        return "" if found == len(missing) else f"holds {found} samples, not {len(missing)}."

    return all_rows(made(path, make, expected)[store.ROOT])


def _mixtures(
    part: Part, copies: int, rng: np.random.Generator, batch_size: int
) -> Iterator[store.Array]:
    """Batches of mixtures of neighbours in random orders of a part."""
    with part.reader(in_memory=False) as rows:
        for _ in range(copies):
            order = part.order(rng)
            partners, shares = np.roll(order, 1), rng.random(len(order), np.float32)
            for start in range(0, len(order), batch_size):
                batch = slice(start, start + batch_size)
                first, second = (part.inputs(rows.gather(x[batch])) for x in (order, partners))
                share = shares[batch].reshape(-1, *(1,) * (first.ndim - 1))
                yield share * first + (1 - share) * second


def _path(root: Path, name: str, part: Part, **shaping: object) -> Path:
    """The file of data that is derived from a part's samples."""
    common = {
        "recipe": RECIPE,
        "samples": part.split.fingerprint,
        "rows": hashlib.sha256(part.rows.astype(np.int64).tobytes()).hexdigest(),
        "encoding": part.encoding[:3] if part.encoding.one_hot else part.encoding,
        "rate_hz": part.rate_hz,
    }
    label = "".join(c if c.isalnum() or c == "-" else "_" for c in name)
    return root / FOLDER / f"{label}-{digest({**common, **shaping})}.h5"
