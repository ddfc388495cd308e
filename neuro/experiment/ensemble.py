"""mode=evaluate run=[a,b,...] ensemble=mean: evaluate the averaged predictions of several runs.

Each run's pooled outputs become probabilities by a softmax over the classes, the probabilities are
averaged over the runs, and the most probable class is the decision (Hansen and Salamon 1990;
Lakshminarayanan et al. 2017). The runs may differ in everything but their test samples and
classes.
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

    - `logs`: log-probabilities `[N, ..., K]`, which do not underflow
    - `labels`: `[N, ...]`
    - `samples`: digest of the inputs, to compare runs by
    """

    logs: Tensor
    labels: Tensor
    samples: str


def evaluate_ensemble(experiment: Experiment, context: RunContext) -> None:
    """Evaluate the averaged predictions of the runs that `run` names.

    Writes report.json to a new run. ConfigError if the runs do not fit together.
    """
    directory, meta = context.directory, context.describe(experiment)
    members = read_members(context)
    first = open_finished(members[0], directory)
    _check_target(first)
    _check_classes(first)
    own: list[Metrics] = []
    checkpoints: list[Path] = []
    of_first: dict[str, Outputs] = {}  # by task
    sums: dict[str, Tensor] = {}
    for number, member in enumerate(members):
        parts = first if number == 0 else open_finished(member, directory)
        _check_fits(parts, first, members[0], member)
        results: Metrics = {}
        for task in parts.tasks:
            outputs = _outputs(parts, parts.data.loader(task, "test"))
            reference = of_first.setdefault(task, outputs)
            _check_samples(task, outputs, reference, members[0], member)
            results[task] = _metrics(parts, outputs.logs, outputs.labels)
            before = sums.get(task)
            sums[task] = outputs.logs if before is None else before.logaddexp(outputs.logs)
        own.append(results)
        checkpoints.append(parts.checkpoint)
        score = parts.objective.main_metric
        found = (f"{task} {in_words(score, values[score])}" for task, values in results.items())
        log.info("%s: %s", member.run, ", ".join(found))
    together = {
        task: _metrics(first, total - math.log(len(members)), of_first[task].labels)
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


def _outputs(parts: Finished, loader: Loader) -> Outputs:
    found = predict(parts.model, parts.objective, loader, parts.device, parts.streams())
    return Outputs(found.outputs.double().log_softmax(-1), found.targets, _digest(loader))


def _digest(loader: Loader) -> str:
    """SHA-256 of all inputs and their timing, independent of the size of batches."""
    digest = hashlib.sha256()
    for batch in loader.batches():
        for sample in batch.inputs.numpy():
            digest.update(np.ascontiguousarray(sample).tobytes())
            digest.update(f"{batch.dt_ms} {batch.frames}".encode())
    return digest.hexdigest()


def _metrics(parts: Finished, logs: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss and metrics of log-probabilities `[N, K]`."""
    measured = MetricSums(parts.objective.measures, logs.device)
    measured.add(logs, labels)
    return measured.values()


def _check_classes(parts: Finished) -> None:
    """ConfigError unless targets are classes, whose probabilities can be averaged."""
    if parts.spec.targets.kind not in CLASS_KINDS:
        raise ConfigError(
            f"ensemble: averages the probabilities of classes; task '{parts.spec.task}' has "
            f"targets of kind '{parts.spec.targets.kind}'. Evaluate its runs one by one, with "
            "ensemble=null."
        )


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
    """ConfigError if a run has other test samples or labels than the first one."""
    if outputs.samples == reference.samples and torch.equal(outputs.labels, reference.labels):
        return
    keys = ", ".join(
        f"{key} ({old!r} and {new!r})"
        for key, old, new in differences(first.data.content, member.data.content, "data")
    )
    raise ConfigError(
        f"run: {member.run} does not fit {first.run}: task '{task}' has other test samples."
        + (f" They differ in {keys}; a value given here holds for all runs." if keys else "")
    )
