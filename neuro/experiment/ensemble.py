"""mode=evaluate run=[a,b,...] ensemble=mean: evaluate the averaged predictions of several runs.

For classes, each run's pooled outputs become probabilities by a softmax, the probabilities are
averaged over the runs, and the most probable class is the decision (Hansen and Salamon 1990;
Lakshminarayanan et al. 2017). Values and images are averaged as they are. The runs may differ in
everything but their test samples and targets.
"""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuro.data.base import Loader
from neuro.errors import ConfigError
from neuro.experiment import summary
from neuro.experiment.context import RunContext, read_members
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import Finished, open_finished
from neuro.experiment.summary import in_words
from neuro.learning.evaluation import predict
from neuro.learning.metrics import CLASS_KINDS, MetricSums
from neuro.runs.directory import keeping_status
from neuro.runs.report import MemberResult, Report
from neuro.runs.resume import differences
from neuro.training.report import test_metrics

log = logging.getLogger("neuro")

Metrics = dict[str, dict[str, float]]


class Outputs(NamedTuple):
    """Predictions of one run for a task's test samples.

    - `values`: `[N, ..., K]`, of classes log-probabilities, which do not underflow
    - `targets`: `[N, ...]`
    - `samples`: digest of the inputs, to compare runs by
    """

    values: Tensor
    targets: Tensor
    samples: str


def evaluate_ensemble(experiment: Experiment, context: RunContext) -> None:
    """Evaluate the averaged predictions of the runs that `run` names.

    Writes report.json to a new run. ConfigError if the runs do not fit together.
    """
    directory, meta = context.directory, context.describe(experiment)
    members = read_members(context)
    first = open_finished(members[0], directory)
    _check_target(first)
    of_classes = first.spec.targets.kind in CLASS_KINDS
    own: list[Metrics] = []
    checkpoints: list[Path] = []
    of_first: dict[str, Outputs] = {}  # by task
    sums: dict[str, Tensor] = {}
    for number, member in enumerate(members):
        parts = first if number == 0 else open_finished(member, directory)
        _check_fits(parts, first, members[0], member)
        results: Metrics = {}
        for task in parts.tasks:
            outputs = _outputs(parts, parts.data.loader(task, "test"), of_classes)
            reference = of_first.setdefault(task, outputs)
            _check_samples(task, outputs, reference, members[0], member)
            results[task] = _metrics(parts, outputs.values, outputs.targets)
            if task not in sums:
                sums[task] = outputs.values
            elif of_classes:
                sums[task] = sums[task].logaddexp(outputs.values)
            else:
                sums[task] = sums[task] + outputs.values
        own.append(results)
        checkpoints.append(parts.checkpoint)
        score = parts.objective.main_metric
        found = (f"{task} {in_words(score, values[score])}" for task, values in results.items())
        log.info("%s: %s", member.run, ", ".join(found))
    count = len(members)
    together = {
        task: _metrics(
            first, total - math.log(count) if of_classes else total / count, of_first[task].targets
        )
        for task, total in sums.items()
    }
    wanted = experiment.trainer.for_metrics(first.objective.directions).objective
    metrics = test_metrics(together)
    report = Report(
        metrics=metrics,
        objective=metrics.get(wanted),
        objective_metric=wanted,
        run_id=meta["run_id"],
        score=first.objective.main_metric,
        evaluated=[str(path) for path in checkpoints],
        ensemble=experiment.ensemble,
        members=[
            MemberResult(str(member.run), test_metrics(results))
            for member, results in zip(members, own, strict=True)
        ],
    )
    with keeping_status(directory, experiment.plain(), meta):
        report.save(directory)
    summary.show(report, directory)


def _outputs(parts: Finished, loader: Loader, of_classes: bool) -> Outputs:
    found = predict(parts.model, parts.objective, loader, parts.device, parts.streams())
    values = found.outputs.double()
    return Outputs(values.log_softmax(-1) if of_classes else values, found.targets, _digest(loader))


def _digest(loader: Loader) -> str:
    """SHA-256 of all inputs and their timing, independent of the size of batches."""
    digest = hashlib.sha256()
    for batch in loader.batches():
        for sample in batch.inputs.numpy():
            digest.update(np.ascontiguousarray(sample).tobytes())
            digest.update(f"{batch.dt_ms} {batch.frames}".encode())
    return digest.hexdigest()


def _metrics(parts: Finished, values: Tensor, targets: Tensor) -> dict[str, float]:
    """Loss and metrics of predictions `[N, ..., K]`."""
    measured = MetricSums(parts.objective.measures, values.device)
    measured.add(values, targets)
    return measured.values()


def _check_target(parts: Finished) -> None:
    """ConfigError for targets that evaluate one network."""
    if parts.target.own_arithmetic:
        raise ConfigError(
            "hardware: an ensemble is several networks, which no chip runs as one; evaluate it "
            "with hardware=cpu or hardware=auto."
        )


def _check_fits(
    parts: Finished, first: Finished, reference: Experiment, member: Experiment
) -> None:
    """ConfigError if a run has other tasks, outputs or mapping than the first one."""
    problems = []
    where = f"run: {member.run} does not fit {reference.run}: "
    if parts.tasks != first.tasks:
        problems.append(
            f"{where}it is tested on {', '.join(parts.tasks)} instead of {', '.join(first.tasks)}."
        )
    if parts.spec.outputs != first.spec.outputs:
        problems.append(
            f"{where}it has {parts.spec.outputs} outputs instead of {first.spec.outputs}."
        )
    if parts.objective.mapping != first.objective.mapping:
        problems.append(
            f"{where}objective.mapping is {parts.objective.mapping} instead of "
            f"{first.objective.mapping}."
        )
    if problems:
        raise ConfigError(problems)


def _check_samples(
    task: str, outputs: Outputs, reference: Outputs, first: Experiment, member: Experiment
) -> None:
    """ConfigError if a run has other test samples or targets than the first one."""
    if outputs.samples == reference.samples and torch.equal(outputs.targets, reference.targets):
        return
    keys = ", ".join(
        f"{key} ({old!r} and {new!r})"
        for key, old, new in differences(first.data.content, member.data.content, "data")
    )
    raise ConfigError(
        f"run: {member.run} does not fit {first.run}: task '{task}' has other test samples."
        + (f" They differ in {keys}; a value given here holds for all runs." if keys else "")
    )
