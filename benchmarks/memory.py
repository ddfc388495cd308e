"""Peak memory of a training step.

By surrogate gradients, against the chunk length of truncated backpropagation: what autograd keeps
for backward is counted at every moment, each storage once, the part of the peak that depends on how
it is trained. On a GPU the allocator's own peak stands beside it.

By LT-Gate's local rule at the size of MNIST, with all samples of a batch at once or a few at a
time: the peak of a process of its own, without what it holds before.
"""

from __future__ import annotations

import resource
import time
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from neuro.config.trainer import Stateful, Truncation
from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.layers.gate import Gating
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.rules import ltgate
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.learning.step import TrainStep
from neuro.models import spiking
from neuro.models.spiking_cnn import SpikingCNN
from neuro.runtime.memory import keep_freed_memory
from neuro.training.sequences import SequenceRunner

FRAMES = 200
SAMPLES = 8
LARGE_SAMPLES = 64
LENGTHS = (None, 100, 50, 25, 10)  # None: the whole sequence at once


class SavedBytes:
    """Counts what autograd keeps for backward; `peak` is the most at any moment, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._held: dict[int, tuple[int, int]] = {}  # storage -> how many tensors of it, bytes
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Kept:
        storage = tensor.untyped_storage()
        count, _ = self._held.get(storage.data_ptr(), (0, 0))
        self._held[storage.data_ptr()] = count + 1, storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._held.values()))
        return _Kept(tensor, self._held)


class _Kept:
    """A saved tensor that takes itself out of the count when it is freed."""

    def __init__(self, tensor: Tensor, held: dict[int, tuple[int, int]]):
        self.tensor = tensor
        self._held = held

    def __del__(self) -> None:
        key = self.tensor.untyped_storage().data_ptr()
        count, size = self._held[key]
        if count > 1:
            self._held[key] = count - 1, size
        else:
            del self._held[key]


class Peak(NamedTuple):
    length: int | None
    saved_bytes: int
    gpu_bytes: int | None
    seconds: float


def measure() -> list[Peak]:
    """Peaks of one training step of LT-Gate by surrogate gradients, for every chunk length."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    spec = TaskSpec(
        "long",
        InputSpec((1, 8, 8)),
        TargetSpec("class", classes=10),
        ((FRAMES, 1.0),),
        tuple(range(10)),
    )
    inputs = torch.rand(SAMPLES, FRAMES, 1, 8, 8, generator=generator).to(device)
    targets = torch.randint(10, (SAMPLES,), generator=generator).to(device)
    torch.manual_seed(0)
    model = SpikingCNN(spec, DualTimescaleNeuron(gate=Gating("learned")))
    objective = Objective({"cross_entropy": CrossEntropy()})
    fabric = Fabric(accelerator=device.type, devices=1)
    step: Any = fabric.setup_module(TrainStep(model, objective))
    batch = Batch(inputs, targets, 1.0)
    counts = objective.counts(batch)
    peaks = []
    for length in LENGTHS:
        tbptt = None if length is None else Truncation(length=length)
        runner = SequenceRunner(fabric, model, objective, tbptt, Stateful())
        runner.learn(step, batch, counts, last=True)  # compiles kernels
        start = time.perf_counter()
        runner.learn(step, batch, counts, last=True)
        seconds = time.perf_counter() - start
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with SavedBytes() as saved:
            runner.learn(step, batch, counts, last=True)
        on_gpu = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        peaks.append(Peak(length, saved.peak, on_gpu, seconds))
        model.zero_grad()
    return peaks


def local_update(part_bytes: int) -> tuple[int, float]:
    """Bytes and seconds of an update of LT-Gate by its local rule, with `PART_BYTES` of this size.

    For a process of its own: the peak is that of its whole life.
    """
    keep_freed_memory()
    spiking.PART_BYTES = ltgate.PART_BYTES = part_bytes
    spec = TaskSpec(
        "large",
        InputSpec((1, 28, 28)),
        TargetSpec("class", classes=10),
        ((FRAMES, 1.0),),
        tuple(range(10)),
    )
    torch.manual_seed(0)
    model = SpikingCNN(spec, DualTimescaleNeuron(threshold=2.0), readout="discriminant")
    terms = {"hebbian": Hebbian(), "gate": GateVariance(), "discriminant": Discriminant()}
    step = TrainStep(model, Objective(terms))
    inputs = torch.rand(LARGE_SAMPLES, 1, 1, 28, 28)
    batch = Batch(inputs, torch.arange(LARGE_SAMPLES) % 10, 1.0, FRAMES)
    step(batch._replace(frames=2))  # compiles kernels
    before, start = _peak_bytes(), time.perf_counter()
    step(batch).total.backward()
    return _peak_bytes() - before, time.perf_counter() - start


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    print(f"Peak memory of a training step, {SAMPLES} x {FRAMES} frames, by trainer.tbptt.length")
    peaks = measure()
    for peak in peaks:
        name = "whole" if peak.length is None else f"{peak.length} frames"
        share = peak.saved_bytes / peaks[0].saved_bytes
        gpu = "" if peak.gpu_bytes is None else f"  {peak.gpu_bytes / 2**20:8.1f} MiB on the GPU"
        saved = f"{peak.saved_bytes / 2**20:8.1f} MiB for backward"
        print(f"{name:>10}  {saved}  {share:6.1%}{gpu}  {peak.seconds * 1e3:8.1f} ms")
    print(f"LT-Gate's local rule, {LARGE_SAMPLES} x {FRAMES} frames of 28 x 28")
    for name, part_bytes in (("at once", 1 << 40), ("in parts", spiking.PART_BYTES)):
        with get_context("spawn").Pool(1) as pool:
            used, seconds = pool.apply(local_update, (part_bytes,))
        print(f"{name:>10}  {used / 2**30:8.2f} GiB  {seconds:8.2f} s")


if __name__ == "__main__":
    main()
