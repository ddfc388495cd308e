"""Evaluation on simulated Loihi 2 arithmetic: quantization, mapping onto cores, integer simulation.

A batched engine (`engine.py`) evaluates the whole test set; Lava's process graph runs the first
samples of every task, and both must agree in every spike. Results are compared with those of the
trained model, and of the same network with rounded parameters in floating point.

Three differences between floating point and chip are handled here and in `quantize.py`:

- Decay registers depend on the time step of the data. The chip gets a set of them for each time
  step, so it is reconfigured between tasks of different steps; everything else is shared.
- In floating point neurons fire at v >= theta, on the chip strictly above vth. The scale of a layer
  is chosen so that the smallest integer that fires stands for theta exactly.
- Frames of real numbers are sent as graded spikes: integers of `input_bits` bits. Inputs that are
  spikes are sent as such.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Interval
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from neuro.data.base import Loader, TaskSpec
from neuro.errors import ConfigError, nearest
from neuro.hardware.base import HardwareReport, Measured, Target
from neuro.hardware.lava import network as lava
from neuro.hardware.loihi2 import pictures
from neuro.hardware.loihi2.details import report_details
from neuro.hardware.loihi2.energy import estimate
from neuro.hardware.loihi2.limits import ChipLimits
from neuro.hardware.loihi2.mapper import map_network
from neuro.hardware.loihi2.quantize import quantize_graph
from neuro.hardware.loihi2.trial import Networks, Trial, engine_scores
from neuro.hardware.nir.interchange import write_integers, write_nir
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.capabilities import Deployable
from neuro.ops.fixed_point import FixedPoint
from neuro.runtime.progress import progress_bar

log = logging.getLogger(__name__)

#: what a run on a real chip needs; docs/loihi2.md has the details
CHIP_NEEDS = (
    "a run on a Loihi 2 chip needs Intel's Loihi extension of Lava, a board, and neuro core models "
    "of our neurons, which do not exist yet (docs/loihi2.md). Use sim or engine, which simulate "
    "the chip's integer arithmetic"
)


def _refuse_chip(backend: Any) -> Any:
    if backend == "chip":
        raise PydanticCustomError("chip", CHIP_NEEDS)
    return backend


OFTEN = 0.01  # share of membrane potentials at the limit of their bits that is worth a warning

Backend = Annotated[Literal["sim", "engine"], BeforeValidator(_refuse_chip)]
Samples = Annotated[int, Gt(0)]


class Loihi2(Target):
    """Evaluates in the arithmetic of Loihi 2.

    backend: "sim" is Lava's fixed-point simulation and the engine, "engine" the engine only (for
        any Python).
    samples: number of test samples to run through Lava, for all tasks or by task.
    weight_bits, input_bits: widths; None is those that the model was trained with, else 8 and 6.
    chips: number of chips that the network may occupy.
    """

    own_arithmetic = True
    requires = (Deployable,)

    def __init__(
        self,
        backend: Backend = "sim",
        samples: Samples | dict[str, Samples] = 8,
        weight_bits: Annotated[int, Interval(ge=2, le=8)] | None = None,
        input_bits: Annotated[int, Interval(ge=3, le=12)] | None = None,
        chips: Annotated[int, Gt(0)] = 1,
    ):
        assert backend in ("sim", "engine"), backend  # anything else would run as "sim"
        self.backend = backend
        self.samples = samples
        self.weight_bits = weight_bits
        self.input_bits = input_bits
        self.limits = ChipLimits(chips=chips)

    # -- before training --------------------------------------------------------------------------

    def check(
        self, model: CoreModel, tasks: Mapping[str, TaskSpec], samples: Mapping[str, int]
    ) -> None:
        problems = [
            f"hardware: Loihi 2 is judged by one class per sequence; task '{task}' has targets of "
            f"kind '{spec.targets.kind}'. Use hardware=auto."
            for task, spec in tasks.items()
            if spec.targets.kind != "class"
        ]
        problems += [
            f"hardware: Loihi 2 computes in time steps; those of task '{task}' have no unit of "
            "time. Use hardware=auto."
            for task, spec in tasks.items()
            if not spec.has_time_step
        ]
        problems += [
            f"hardware.input_bits: got {self.input_bits}; inputs of task '{task}' are spikes, of "
            "one bit. Leave it out."
            for task, spec in tasks.items()
            if self.input_bits is not None and spec.inputs.coding == "spikes"
        ]
        if self.backend != "engine":
            problems += self._sample_problems(samples)
        if problems:
            raise ConfigError(problems)
        if self.backend != "engine":
            lava.check_lava()
        assert isinstance(model, Deployable)
        graph = model.layer_graph()
        timings = (timing for spec in tasks.values() for timing in spec.timings)
        # every time step has its own decay registers, which have to fit
        for dt_ms in dict.fromkeys(dt_ms for _, dt_ms in timings if dt_ms is not None):
            network = quantize_graph(graph, dt_ms, self._widths(model)).network
            core_map = map_network(network, self.limits)
            if self.backend != "engine":
                lava.check_network(network)
        cores = self.limits.chips * self.limits.cores_per_chip
        log.info("Loihi 2: the network fits, on %d of %d cores", len(core_map.cores), cores)

    def _sample_problems(self, available: Mapping[str, int]) -> Iterator[str]:
        given = self.samples if isinstance(self.samples, dict) else {}
        yield from (
            f"hardware.samples: no task '{task}' is evaluated. Tasks: {', '.join(available)}."
            + nearest(task, available)
            for task in given
            if task not in available
        )
        yield from (
            f"hardware.samples: got {self._samples(task)} for task '{task}', which has {count} "
            "test samples; give at most that many."
            for task, count in available.items()
            if self._samples(task) > count
        )

    def _samples(self, task: str) -> int:
        """Number of samples of a task to run through Lava; 0 for tasks missing in `samples`."""
        return self.samples.get(task, 0) if isinstance(self.samples, dict) else self.samples

    def _widths(self, model: Deployable) -> FixedPoint:
        """The configured widths. ConfigError if they differ from those of the training."""
        trained = model.fixed_point
        problems = [
            f"hardware.{name}: got {wanted}, but the model is trained with "
            f"model.fixed_point.{name}={getattr(trained, name)}. Leave it out."
            for name in ("weight_bits", "input_bits")
            if (wanted := getattr(self, name)) is not None
            and trained is not None
            and wanted != getattr(trained, name)
        ]
        if problems:
            raise ConfigError(problems)
        widths = trained or FixedPoint()
        return FixedPoint(
            self.weight_bits or widths.weight_bits, self.input_bits or widths.input_bits
        )

    def metric_names(self, tasks: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
        """Metrics on the integers by task and their means, cores, and bounds of energy and latency.

        Energy and latency are per inference.
        """
        names = tuple(dict.fromkeys(("accuracy", *metrics)))
        ends = ("energy_uj_low", "energy_uj_high", "latency_us_low", "latency_us_high")
        return (*(f"{t}/{name}" for t in tasks for name in names), *names, "cores", *ends)

    # -- after training ---------------------------------------------------------------------------

    def _networks(self, model: CoreModel) -> Networks:
        assert isinstance(model, Deployable)
        return Networks(model.layer_graph(), self._widths(model))

    @torch.no_grad()
    def scores(
        self, model: CoreModel, loaders: Mapping[str, Loader], objective: Objective
    ) -> dict[str, dict[str, float]]:
        """The objective's metrics by task on the engine."""
        networks = self._networks(model)
        return {task: engine_scores(networks, x, objective) for task, x in loaders.items()}

    @torch.no_grad()
    def evaluate(
        self,
        model: CoreModel,
        loaders: Mapping[str, Loader],
        objective: Objective,
        measured: Mapping[str, Measured],
    ) -> HardwareReport:
        model.eval()
        networks = self._networks(model)
        trials = {
            task: Trial(model, networks, loader, objective) for task, loader in loaders.items()
        }
        ran = "bit-exact integer engine"
        if self.backend != "engine":
            ran = f"{lava.check_lava()}; {ran}"
            self._run_lava(trials)
        core_map = map_network(networks.any.network, self.limits)
        for warning in core_map.warnings:
            log.warning("Loihi 2: %s", warning)
        for task, trial in trials.items():
            for layer, share in trial.at_limit.items():
                if share > OFTEN:
                    log.warning(
                        "Loihi 2: task %s, layer '%s': %.1f %% of the membrane potentials are at "
                        "the limit of 24 bits, which the model does not have. Fewer input bits "
                        "(hardware.input_bits) or a higher threshold leave more room.",
                        *(task, layer, 100 * share),
                    )
        scores = {
            task: {"accuracy": trial.fractions["engine"], **trial.scores["engine"]}
            for task, trial in trials.items()
        }
        estimates = {task: estimate(core_map, trial.counts) for task, trial in trials.items()}
        return HardwareReport(
            f"Loihi 2 arithmetic, simulated: {ran}",
            scores,
            report_details(trials, networks, core_map, estimates),
            metrics={
                **{f"{task}/{name}": x for task, row in scores.items() for name, x in row.items()},
                **{
                    name: fmean(row[name] for row in scores.values())
                    for name in next(iter(scores.values()))
                },
                "cores": len(core_map.cores),
                **{
                    f"{quantity}_{end}": fmean(
                        getattr(getattr(e, quantity), end) for e in estimates.values()
                    )
                    for quantity in ("energy_uj", "latency_us")
                    for end in ("low", "high")
                },
            },
            figures={
                "cores": partial(pictures.cores, core_map),
                "membranes": partial(pictures.membranes, *next(iter(trials.items()))),
                "hardware_accuracy": partial(pictures.accuracies, trials),
            },
            files={
                f"network-{dt_ms:g}ms.{suffix}": write
                for dt_ms, quantized in networks.items()
                for suffix, write in (
                    ("nir", partial(write_nir, networks.graph, dt_ms=dt_ms)),
                    ("safetensors", partial(write_integers, quantized.network)),
                )
            },
        )

    def _run_lava(self, trials: Mapping[str, Trial]) -> None:
        """Run the first samples of every task through Lava; log differences from the engine."""
        for task, trial in trials.items():
            if self._samples(task):
                with progress_bar(f"Lava, task {task}") as progress:
                    trial.run_lava(self._samples(task), progress)
                if trial.difference:
                    log.error("Lava and the engine differ on task %s: %s", task, trial.difference)
