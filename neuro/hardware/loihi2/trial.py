"""Evaluation of the test samples of a task by several backends, and comparison of their results.

`model` is the trained model, `rounded` its network in floating point with rounded parameters,
`engine` the integer network on the engine, `lava` the integer network in Lava.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuro.data.base import Batch, Loader
from neuro.hardware.lava import network as lava
from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.comparison import Agreement, first_difference
from neuro.hardware.loihi2.counts import LayerTotals
from neuro.hardware.loihi2.floating import run_graph
from neuro.hardware.loihi2.quantize import Quantized, quantize_graph
from neuro.learning.metrics import MetricSums
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.graph import LayerGraph
from neuro.ops.fixed_point import STATE_LIMIT, FixedPoint


class Networks(dict[float, Quantized]):
    """Integer networks of a layer graph by time step of the data, quantized at first use."""

    def __init__(self, graph: LayerGraph, fixed: FixedPoint):
        super().__init__()
        self.graph = graph
        self.fixed = fixed

    def __missing__(self, dt_ms: float) -> Quantized:
        self[dt_ms] = quantize_graph(self.graph, dt_ms, self.fixed)
        return self[dt_ms]

    def of(self, batch: Batch) -> Quantized:
        """The integer network for the time step of a batch; `Loihi2.check` ensures there is one."""
        assert batch.dt_ms is not None
        return self[batch.dt_ms]

    @property
    def any(self) -> Quantized:
        """One of the networks; they differ in decay registers only."""
        return next(iter(self.values()))


class Sample(NamedTuple):
    """First sample of a task, for figures: frames `[1, T, ...]`."""

    frames: Tensor
    dt_ms: float


def engine_scores(networks: Networks, loader: Loader, objective: Objective) -> dict[str, float]:
    """The objective's metrics on the integer engine, without other backends."""
    sums = MetricSums(objective.metrics, torch.device("cpu"))
    for batch in loader.batches():
        _, values = _run_engine(networks, batch)
        sums.add(objective.pool(values, batch.lengths), batch.targets)
    return sums.values()


class Trial:
    """Evaluation of all samples of a task by `model`, `rounded` and `engine`; `lava` on request."""

    def __init__(self, model: CoreModel, networks: Networks, loader: Loader, objective: Objective):
        self.networks = networks
        self.loader = loader
        self.objective = objective
        self.correct = dict.fromkeys(("model", "rounded", "engine"), 0)
        self.samples = dict.fromkeys(self.correct, 0)
        self._sums = {way: self._no_sums() for way in self.correct}
        self.difference: str | None = None
        self._agreement = {"engine_with_model": Agreement(), "engine_with_rounded": Agreement()}
        first = next(loader.batches())  # test loaders have a fixed order: the first batch below
        steps = None if first.lengths is None else int(first.lengths[0])
        self.first = Sample(first.sequence()[:1, :steps], networks.of(first).network.dt_ms)
        counts = [self._evaluate(model, batch) for batch in loader.batches()]
        totals = [reduce(add, layer) for layer in zip(*counts, strict=True)]
        self.counts = [layer.per_inference() for layer in totals]
        self.lava_report: dict[str, Any] | None = None

    def _evaluate(self, model: CoreModel, batch: Batch) -> tuple[LayerTotals, ...]:
        quantized = self.networks.of(batch)
        layers = [layer.name for layer in quantized.network.layers]
        here = batch._replace(inputs=batch.inputs.to(model.device))
        # models need not record every layer; agreement is over those that both sides have
        record = [f"{name}/spikes" for name in layers if f"{name}/spikes" in model.recordable]
        output = model(here.sequence(), dt_ms=batch.dt_ms, record=record)
        rounded = run_graph(
            quantized.rounded, batch.sequence(), quantized.network.dt_ms, record_spikes=True
        )
        integer, integer_values = _run_engine(self.networks, batch, record_spikes=True)
        scores = {"model": output.values.cpu(), "rounded": rounded.values, "engine": integer_values}
        for way, values in scores.items():
            self._count(way, values, batch)
            self.samples[way] += len(batch.targets)
        decisions = {
            way: self.objective.decode(values, batch.lengths) for way, values in scores.items()
        }
        fired = {
            "model": {n.removesuffix("/spikes"): s.cpu() for n, s in output.records.items()},
            "rounded": rounded.spikes,
        }
        for way, spikes in fired.items():
            self._agreement[f"engine_with_{way}"].add(
                decisions["engine"], decisions[way], integer.spikes, spikes, batch.lengths
            )
        return integer.counts

    @cached_property
    def at_limit(self) -> dict[str, float]:
        """Share of membrane potentials that saturate in the task's first sample, by layer."""
        frames, dt_ms = self.first
        network = self.networks[dt_ms].network
        recorded = {layer.name: None for layer in network.layers}
        output = engine.run(network, network.encode(frames.numpy()), membranes=recorded)
        return {
            name: float((np.abs(v) >= STATE_LIMIT - 1).mean())
            for name, v in output.membranes.items()
        }

    def run_lava(self, samples: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Run the first samples through Lava, and compare every spike with the engine's.

        progress: called with the number of time steps done and their total.
        """
        agreement = self._agreement["lava_with_engine"] = Agreement()
        self.correct["lava"] = 0
        self._sums["lava"] = self._no_sums()
        self.samples["lava"] = samples
        steps, seconds = 0, 0.0
        for batch in _first(self.loader, samples):
            network = self.networks.of(batch).network
            integers = network.encode(batch.sequence().numpy())
            ran = lava.simulate(network, integers, progress=progress)
            values = torch.from_numpy(engine.values(network.readout, ran.readout))
            # padding too is compared
            whole = batch._replace(lengths=None)
            expected, expected_values = _run_engine(self.networks, whole, record_spikes=True)
            self._count("lava", values, batch)
            decode = self.objective.decode
            decisions = decode(values, batch.lengths), decode(expected_values, batch.lengths)
            agreement.add(*decisions, ran.spikes, expected.spikes)
            # Spikes first: a difference in them is the cause of one in the sums.
            sums = zip(ran.readout, expected.readout, strict=True)
            if self.difference is None and (
                difference := first_difference(ran.spikes, expected.spikes)
            ):
                self.difference = str(difference)
            elif self.difference is None and not all((a == b).all() for a, b in sums):
                self.difference = "the sums of the readout, at equal spikes"
            steps += ran.steps
            seconds += ran.seconds
        self.lava_report = {
            "samples": samples,
            "steps": steps,
            "seconds": seconds,
            "equals_engine": self.difference is None,
            "first_difference": self.difference,
        }

    def _no_sums(self) -> MetricSums:
        return MetricSums(self.objective.metrics, torch.device("cpu"))

    def _count(self, way: str, values: Tensor, batch: Batch) -> None:
        """Add correct decisions and metric sums for a batch's outputs `[B, T, K]`."""
        pooled = self.objective.pool(values, batch.lengths)
        self.correct[way] += int((self.objective.decide(pooled) == batch.targets).sum())
        self._sums[way].add(pooled, batch.targets)

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The objective's metrics by backend."""
        return {way: sums.values() for way, sums in self._sums.items()}

    @property
    def fractions(self) -> dict[str, float]:
        """Accuracy by backend."""
        return {way: self.correct[way] / self.samples[way] for way in self.correct}

    @property
    def agreement(self) -> dict[str, Any]:
        """Fractions of equal decisions and spikes, as plain JSON values."""
        return {name: found.as_json() for name, found in self._agreement.items()}


def _run_engine(
    networks: Networks, batch: Batch, *, record_spikes: bool = False
) -> tuple[engine.EngineOutput, Tensor]:
    """Run a batch on the engine; returns its output and class scores `[B, T, K]`."""
    network = networks.of(batch).network
    integers = network.encode(batch.inputs.numpy())
    lengths = None if batch.lengths is None else batch.lengths.tolist()
    output = engine.run(
        network, integers, frames=batch.frames, lengths=lengths, record_spikes=record_spikes
    )
    return output, torch.from_numpy(engine.values(network.readout, output.readout))


def _first(loader: Loader, samples: int) -> Iterator[Batch]:
    """Batches with the first `samples` samples; the last batch is truncated."""
    for batch in loader.batches():
        if samples <= 0:
            return
        taken = min(samples, len(batch.targets))
        samples -= taken
        yield batch.rows(slice(taken))
