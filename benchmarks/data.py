"""Seconds per epoch of reading temporal digits: in memory, lazily, and sample by sample.

Sample by sample is what a plain dataset class does: open the file once, then one HDF5 read per
sample of a shuffled epoch, stacked into batches. The default task `all` holds its image (one frame
per sample); poisson spikes of the task `fast` (200 frames) show reading itself. Everything is in
the page cache, so this is the cost of software, not of a disk.

Batches made ahead are measured beside a device that computes while the processor is free, as a GPU
does: here it sleeps for as long as making a batch takes. Nothing can be gained where all processors
compute.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.harness import Comparison, compare, print_table
from neuro.data.base import Loader
from neuro.data.images.digits import DigitImages
from neuro.data.images.temporal import TemporalImages
from neuro.data.parts import Part
from neuro.data.prefetch import Prefetch

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "held images, 1150 x 1 x 8 x 8": ("all", {}),
    "spikes, 577 x 200 x 8 x 8": ("fast", {"coding": "poisson"}),
    "spikes, 577 x 200 x 28 x 28": ("fast", {"coding": "poisson", "image_size": 28}),
}
BATCH_SIZE = 64


def digits(root: str, in_memory: bool, settings: dict[str, Any]) -> TemporalImages:
    """The source of a case."""
    return TemporalImages(
        images=DigitImages(), root=root, in_memory=in_memory, batch_size=BATCH_SIZE, **settings
    )


def sample_by_sample(part: Part) -> int:
    """An epoch of one read per sample; the number of samples."""
    seen = 0
    order = np.random.default_rng(0).permutation(len(part))
    with h5py.File(part.split.path) as file:
        data, labels = file["train/data"], file["train/labels"]
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            samples = np.stack([data[i] for i in chosen]).astype(np.float32) * part.encoding.scale
            inputs = torch.from_numpy(samples)
            targets = torch.tensor([int(labels[i]) for i in chosen])
            assert len(inputs) == len(targets)
            seen += len(inputs)
    return seen


def measure(rounds: int = 5) -> list[Comparison]:
    """Median seconds per training epoch: sample by sample against lazily and in memory."""
    comparisons = []
    with tempfile.TemporaryDirectory() as root:
        for name, (task, settings) in CASES.items():
            for how, in_memory in (("lazily", False), ("in memory", True)):
                source = digits(root, in_memory, settings)
                (part,) = source.parts(task, "train")
                loader = source.loader(task, "train", shuffle=True)
                comparisons.append(
                    compare(
                        f"{name}, {how}",
                        lambda part=part: sample_by_sample(part),  # type: ignore[misc]
                        lambda loader=loader: sum(len(b.targets) for b in loader.batches()),  # type: ignore[misc]
                        rounds=rounds,
                    )
                )
    return comparisons


def prefetched(rounds: int = 5) -> list[Comparison]:
    """Median seconds per lazily read epoch and step on a device: in turns, and batches ahead."""

    def epoch(loader: Loader, step_s: float) -> None:
        for _batch in loader.batches():
            time.sleep(step_s)

    comparisons = []
    with tempfile.TemporaryDirectory() as root:
        for name in [name for name in CASES if name.startswith("spikes")]:
            task, settings = CASES[name]
            source = digits(root, False, settings)
            plain = source.loader(task, "train", shuffle=True)
            ahead = Prefetch(plain, 2, torch.device("cpu"))
            epoch(plain, 0.0)
            start = time.perf_counter()
            epoch(plain, 0.0)
            step_s = (time.perf_counter() - start) / len(plain)
            comparisons.append(
                compare(
                    f"{name}, step of {1e3 * step_s:.1f} ms",
                    lambda loader=plain, step_s=step_s: epoch(loader, step_s),  # type: ignore[misc]
                    lambda loader=ahead, step_s=step_s: epoch(loader, step_s),  # type: ignore[misc]
                    rounds=rounds,
                )
            )
    return comparisons


def main() -> None:
    print_table(
        f"An epoch of temporal digits, batches of {BATCH_SIZE} in float32",
        measure(),
        baseline="per sample",
        candidate="blocks",
    )
    print()
    print_table(
        f"The same epochs, read lazily in batches of {BATCH_SIZE}, with a step on a device",
        prefetched(),
        baseline="in turns",
        candidate="2 ahead",
    )


if __name__ == "__main__":
    main()
