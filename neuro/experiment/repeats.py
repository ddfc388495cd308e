"""repeats=N: N runs with seeds s, s+1, ..., s+N-1, and one report over all of them.

A set of repeats has a directory like that of a run, with its runs in `repeat_0`, `repeat_1`, ... In
its config.yaml, values that depend on the seed stay interpolations, so that a resumed set can start
its missing repeats. Each repeat equals a single run with the same `seed`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from neuro.analysis.compare.cli import show_comparison
from neuro.analysis.compare.statistics import mean_ci
from neuro.config.build import build_all
from neuro.config.experiment import plain
from neuro.errors import ConfigError, CriteriaNotMet
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.runs.directory import check_unused, keeping_status
from neuro.runs.metadata import now
from neuro.runs.naming import id_of, shown
from neuro.runs.record import SET, RunRecord, is_run
from neuro.runs.report import RepeatResult, Report
from neuro.runs.resume import changes_of, check_unfinished, key_of, run_overrides
from neuro.runtime import processes

log = logging.getLogger("neuro")


class Repeat(NamedTuple):
    """One run of a set; its experiment resumes it if it exists already."""

    number: int
    experiment: Experiment
    context: RunContext


def run_repeats(
    experiment: Experiment,
    record: RunRecord | None,
    context: RunContext,
    one: Callable[[Experiment, RunContext], float | None],
) -> float:
    """Start the missing repeats of a set and resume unfinished ones; returns the mean objective.

    Raises CriteriaNotMet, after all repeats, if one does not meet the criteria of its callbacks.

    - `record`: the set to resume; None for a new one in the context's directory
    - `one`: runs or resumes one repeat, and calls its context's `begin` before it writes anything
    """
    quiet = processes.is_helper()  # another process writes and prints
    directory = context.directory if record is None else record.path
    if record is None:
        if not quiet:
            check_unused(directory)
        meta = context.describe_as(experiment, id_of(directory))
    else:
        meta = _resumed(record, experiment, context)
    meta = {**meta, "mode": SET}
    with ExitStack() as stack:
        begun: list[bool] = []

        def begin() -> None:
            if not begun and not quiet:
                saved = _seed_dependent_content(experiment)
                stack.enter_context(keeping_status(directory, saved, meta))
            begun.append(True)

        repeats = _plan(experiment, directory, context, str(meta["run_id"]), begin)
        callbacks = {} if quiet else build_all(experiment.callbacks)
        objectives, reports, missed = [], [], []
        for repeat in repeats:
            log.info(
                "Repeat %d of %d, seed %d", repeat.number + 1, len(repeats), repeat.experiment.seed
            )
            try:
                objectives.append(one(repeat.experiment, repeat.context))
            except CriteriaNotMet as error:  # the run is complete, and the set goes on
                objectives.append(Report.load(repeat.context.directory).objective)
                missed.append(f"repeat {repeat.number}: {error}")
            if quiet:
                continue
            reports.append(Report.load(repeat.context.directory))
            for callback in callbacks.values():
                callback.on_repeat_end(repeat.number, len(repeats), reports[-1])
        begin()  # if all repeats were complete and only the report was missing
        if not quiet:
            _report(repeats, reports, str(meta["run_id"])).save(directory)
    if not quiet:
        show_comparison([directory])
        print(f"runs: {shown(directory)}")
    if missed:
        raise CriteriaNotMet("\n".join(missed))
    return _mean(objectives)


def _resumed(record: RunRecord, experiment: Experiment, context: RunContext) -> dict[str, Any]:
    """The run_meta.json of a resumed set. ConfigError for changes that a set cannot make."""
    before = plain(OmegaConf.create(record.config))
    changes = changes_of(before, {**experiment.plain(), "resume": None})
    finished = record.repeats()
    if experiment.repeats < before["repeats"]:
        raise ConfigError(
            f"repeats: got {experiment.repeats}, but {record.path} has {before['repeats']}; "
            "a set can only grow when it is resumed."
        )
    if any(run.status == "completed" for run in finished):
        check_unfinished(changes, experiment.phase)
    sessions = [*record.meta.get("resumed", []), {"time": now(), "changes": changes}]
    meta = context.describe_as(experiment, record.meta["run_id"], run_overrides(context.overrides))
    return {**meta, "started": record.meta["started"], "resumed": sessions}


def _plan(
    experiment: Experiment,
    directory: Path,
    context: RunContext,
    set_id: str,
    begin: Callable[[], None],
) -> list[Repeat]:
    """All runs of a set. Existing ones are found here, before the first run begins."""
    own = [o for o in run_overrides(context.overrides) if key_of(o) not in ("seed", "repeats")]
    repeats = []
    for number in range(experiment.repeats):
        seed, path = experiment.seed + number, directory / f"repeat_{number}"
        made = experiment.changed(
            {
                "seed": seed,
                "repeats": 1,
                "resume": str(path) if is_run(path) else None,
                "group": experiment.group or set_id,
            }
        )
        overrides = (*own, f"seed={seed}")
        own_context = replace(
            context, directory=path, overrides=overrides, group=None, repeat=number, begin=begin
        )
        repeats.append(Repeat(number, made, own_context))
    return repeats


def _report(repeats: Iterable[Repeat], reports: Sequence[Report], run_id: str) -> Report:
    """Mean, standard deviation and 95 % interval of every metric that all repeats have."""
    common = [
        name
        for name in reports[0].metrics
        if all(math.isfinite(report.metrics.get(name, math.nan)) for report in reports)
    ]
    aggregate = {
        name: asdict(mean_ci([report.metrics[name] for report in reports])) for name in common
    }
    return Report(
        metrics={name: values["mean"] for name, values in aggregate.items()},
        objective=_mean([report.objective for report in reports]),
        objective_metric=reports[0].objective_metric,
        run_id=run_id,
        score=reports[0].score,
        aggregate=aggregate,
        repeats=[
            RepeatResult(repeat.context.directory.name, repeat.experiment.seed, report.objective)
            for repeat, report in zip(repeats, reports, strict=True)
        ],
        seconds=sum(report.seconds or 0.0 for report in reports),
    )


def _mean(objectives: Sequence[float | None]) -> float:
    """The mean; NaN if a value is missing or not finite."""
    numbers = [x if x is not None and math.isfinite(x) else math.nan for x in objectives]
    return sum(numbers) / len(numbers)


def _seed_dependent_content(experiment: Experiment) -> dict[str, Any]:
    """The config of the set, in which values that depend on the seed stay interpolations."""
    raw = OmegaConf.to_container(experiment.source)
    other = experiment.changed({"seed": experiment.seed + 1})
    content: dict[str, Any] = _seed_dependent(raw, experiment.plain(), other.plain())
    return {**content, "resume": None}


def _seed_dependent(raw: Any, one: Any, other: Any) -> Any:
    """The values `one`, but those of `raw` where `one` and `other`, of another seed, differ."""
    if all(isinstance(node, Mapping) for node in (raw, one, other)):
        return {key: _seed_dependent(raw.get(key), one[key], other.get(key)) for key in one}
    return one if one == other else raw
