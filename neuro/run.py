"""The composition root: from a composed config to a finished run directory.

The parent process validates, prepares the directory and reports; `_work` builds and fits in every
process that a parallel strategy starts. Nothing else in neuro sees the whole config.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from neuro import models
from neuro.errors import CheckpointError, ConfigError, Interrupted
from neuro.experiment import check as overview
from neuro.experiment import summary
from neuro.experiment.assembly import Config, Parts, assemble, check_config
from neuro.experiment.deployment import phase_ends, run_on_target
from neuro.experiment.devices import make_fabric
from neuro.experiment.ensemble import evaluate_ensemble
from neuro.experiment.evaluate import evaluate_run, predict_run
from neuro.experiment.lr_find import show_rates
from neuro.experiment.repeats import Repeat, run_repeats
from neuro.io import checkpoint
from neuro.io.files import write_json
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights, load_what_fits
from neuro.runs.directory import (
    check_unused,
    checkpoint_path,
    discard_unused,
    keeping_status,
    load_checkpoint,
)
from neuro.runs.metadata import describe_run, now
from neuro.runs.naming import id_of
from neuro.runs.record import RunRecord, latest_run
from neuro.runs.resume import (
    changes_of,
    check_unfinished,
    continued_config,
    lasting,
    locate,
    plain,
    runs_of,
)
from neuro.runtime import processes
from neuro.runtime.memory import keep_freed_memory
from neuro.tracking.base import RunInfo, Trackers
from neuro.tracking.jsonl import JsonlTracker
from neuro.tracking.meta import MetaTracker
from neuro.training.trainer import Trainer

log = logging.getLogger("neuro")

#: what a training run leaves to be used without it
MODEL = "model.safetensors"


@dataclass(frozen=True)
class RunContext:
    """What the launcher knows beside the config: directory, overrides, names of the groups."""

    directory: Path
    overrides: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    group: str | None = None  #: what the runs of a multirun belong to, unless the config says
    repeat: int | None = None  #: the run's number in a set of repeats
    begin: Callable[[], None] = lambda: None  #: called when a run is about to write its first file


def run(cfg: DictConfig, context: RunContext) -> float | None:
    """Do what `cfg.mode` says; training returns its objective, lr_find its suggestion."""
    try:
        original, cfg = cfg, _composed(cfg, context)
        config = plain(cfg)
        check_config(config)
        if processes.started_by_torchrun() and config["mode"] != "train":
            raise ConfigError(f"mode={config['mode']}: takes one process; start it with python.")
        match config["mode"]:
            case "check":
                check_unused(context.directory)
                parts = assemble(config, 0, config["hardware"]["devices"])
                overview.show(config, parts, context.directory)
            case "lr_find":
                return _find_rate(config, context.directory)
            case "train" if config["repeats"] > 1 or _is_set(config["resume"]):
                return _repeats(cfg, config, context)
            case "train" if config["resume"] is not None:
                return resume(config, context)
            case "train":
                return train(config, context)
            case "evaluate" if config["ensemble"] is not None:
                members = _members(original, config, context)
                evaluate_ensemble(config, members, context.directory, _meta(config, context))
            case "evaluate":
                evaluate_run(config, context.directory, _meta(config, context))
            case "predict":
                predict_run(config, context.directory, _meta(config, context))
        return None
    finally:
        discard_unused(context.directory)


def _meta(config: Config, context: RunContext) -> dict[str, Any]:
    """The description of a new run."""
    number = {} if context.repeat is None else {"repeat": context.repeat}
    return describe_run(config, id_of(context.directory), context.overrides) | number


def _composed(cfg: DictConfig, context: RunContext) -> DictConfig:
    """The config; that of the run that `resume` or `run` names, if one does."""
    if cfg.resume is not None and cfg.mode == "train":
        return continued_config(cfg, cfg.resume, "resume", context.overrides, context.groups)
    if cfg.run is not None and cfg.mode in ("evaluate", "predict"):
        runs = runs_of(cfg.run, "run")
        if (len(runs) > 1) != (cfg.ensemble is not None):
            raise ConfigError(
                f"ensemble: run names {len(runs)} run{'s' if len(runs) > 1 else ''}; ensemble=mean "
                "with mode=evaluate is for two or more, and null for one."
            )
        return continued_config(cfg, runs[0], "run", context.overrides, context.groups)
    return cfg


def _members(cfg: DictConfig, config: Config, context: RunContext) -> list[Config]:
    """The configs of the runs of an ensemble, each with what this call changes."""
    runs = runs_of(config["run"], "run")
    of_the_first = RunRecord(locate(runs[0], "run").directory).meta["overrides"]
    changes = [override for override in context.overrides if override not in of_the_first]
    members = [continued_config(cfg, run, "run", changes, context.groups) for run in runs]
    return [{**plain(member), "run": run} for member, run in zip(members, runs, strict=True)]


def _is_set(source: str | None) -> bool:
    """Whether `resume` names a set of repeats."""
    return source is not None and RunRecord(locate(source, "resume").directory).is_set


def _repeats(cfg: DictConfig, config: Config, context: RunContext) -> float:
    """Train with several seeds, each a run of its own."""
    if config["resume"] is not None and not _is_set(config["resume"]):
        raise ConfigError(
            f"repeats: {config['resume']} is a single run; start a set of its own with repeats="
            f"{config['repeats']} and without resume."
        )

    def one(repeat: Repeat, begin: Callable[[], None]) -> float | None:
        go_on = resume if repeat.exists else train
        return go_on(
            repeat.config,
            RunContext(repeat.directory, repeat.overrides, repeat=repeat.number, begin=begin),
        )

    directory = context.directory
    if config["resume"] is not None:
        directory = locate(config["resume"], "resume").directory
    config = _settled(config)
    helper = processes.is_helper()
    return run_repeats(cfg, config, directory, context.overrides, one, quiet=helper)


def _find_rate(config: Config, directory: Path) -> float | None:
    """Search for a learning rate from the weights that training would start with."""
    check_unused(directory)
    config = _settled(config)
    parts = assemble(config)
    for note in _initialise(config, parts.model):
        log.warning(note)
    return show_rates(config, directory, parts)


# -- training -------------------------------------------------------------------------------------


class Start(NamedTuple):
    """What training starts from: a state to resume (None: from the beginning), and what to tell."""

    state: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def train(config: Config, context: RunContext) -> float:
    """Train, evaluate on the hardware target, and write the report; returns the objective."""
    config = {**_settled(config), "group": config["group"] or context.group}
    fabric = make_fabric(config["hardware"], config["trainer"].get("scaler"))
    directory = processes.join(fabric, context.directory)
    if fabric.is_global_zero:
        check_unused(directory)
    parts = _assemble(fabric, config)
    notes = _initialise(config, parts.model)
    config = {**config, "data": {**config["data"], **parts.data.measured()}}
    meta = _meta(config, context)
    context.begin()
    return _train(fabric, config, directory, parts, Start(None, notes), meta)


def resume(config: Config, context: RunContext) -> float | None:
    """Continue a run in its directory; its objective, also if it was complete already."""
    location = locate(config["resume"], "resume")
    record = RunRecord(location.directory)
    if not processes.is_helper() and context.directory.resolve() != record.path.resolve():
        raise ConfigError(
            f"hydra.run.dir: a run is resumed in its own directory, {record.path}; leave it out."
        )
    changes = changes_of(record.config, {**config, "resume": None})
    if record.status == "completed":
        check_unfinished(changes, config["phase"])
        log.info(
            "%s is complete; there is nothing left to do. init_from=%s starts a new run from it.",
            record.path, record.path,
        )  # fmt: skip
        return None if record.report is None else record.report["objective"]
    fabric = make_fabric(config["hardware"], config["trainer"].get("scaler"))
    processes.join(fabric, record.path)
    parts = _assemble(fabric, config)
    if location.checkpoint or any((record.path / "checkpoints").glob(f"*{checkpoint.SUFFIX}")):
        if fabric.is_global_zero:
            checkpoint.clean(record.path / "checkpoints")
        path = location.checkpoint or checkpoint_path(record.path, "last")
        state, notes = load_checkpoint(path)
        if "optimizer" not in state:
            raise CheckpointError(
                f"{path} holds averaged weights alone, with which training cannot go on. "
                f"Use resume={record.path}, or init_from={path} for a new run."
            )
        load_weights(parts.model, state["model"], str(path))
        finished = parts.plan[: state["progress"]["phase_index"]]
        check_unfinished(changes, [phase.name for phase in finished])
        start = Start(state, notes)
    else:
        _initialise(config, parts.model)
        start = Start(None, ("The run had no checkpoint yet; it starts from the beginning.",))
    before = record.meta
    kept: Config = {key: before[key] for key in ("repeat", "found_lr") if key in before}
    overrides = lasting(context.overrides)
    meta = {
        **describe_run(config, before["run_id"], overrides),
        "started": before["started"],
        **kept,
    }
    context.begin()
    sessions = [*before.get("resumed", []), {"time": now(), "changes": changes}]
    return _train(
        fabric, {**config, "resume": None}, record.path, parts, start, {**meta, "resumed": sessions}
    )


def _train(
    fabric: Any, config: Config, directory: Path, parts: Parts, start: Start, meta: dict[str, Any]
) -> float:
    """Fit in one process or several, and leave the report."""
    started = time.time()
    with keeping_status(directory, config, meta) if fabric.is_global_zero else nullcontext():
        for note in start.notes:
            log.warning(note)
        log.info("%s", _describe_devices(fabric, parts))
        built = None if processes.are_spawned(fabric) else parts
        report = processes.launch(fabric, _work, config, directory, meta, start.state, built)
        objective = report["metrics"][parts.settings.objective]
        report = {
            "objective": objective,
            "objective_metric": parts.settings.objective,
            "run_id": meta["run_id"],
            **report,
            "seconds": time.time() - started,
        }
        if fabric.is_global_zero:
            write_json(directory / "report.json", report)
    if fabric.is_global_zero:
        summary.show(report, directory)
    return float(objective)


def _assemble(fabric: Any, config: Config) -> Parts:
    """Build an experiment's objects; torchrun's processes after the one that makes the data."""
    if not processes.started_by_torchrun():
        return assemble(config, 0, fabric.world_size)
    with fabric.rank_zero_first(local=True):
        return assemble(config, fabric.global_rank, fabric.world_size)


def _describe_devices(fabric: Any, parts: Parts) -> str:
    """Where training runs, and how many samples one update sees."""
    size, accumulate = parts.data.batch_size, parts.settings.accumulate
    devices = f"{fabric.world_size} x " if fabric.world_size > 1 else ""
    total = f" x {accumulate} micro-batches = {size * accumulate}" if accumulate > 1 else ""
    return f"Using device: {devices}{fabric.device}, {size}{total} samples per update"


def _work(
    fabric: Any,
    config: Config,
    directory: Path,
    meta: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    parts: Parts | None,
) -> dict[str, Any]:
    """One process of a training run: build what a spawned process lacks, then fit."""
    keep_freed_memory()
    if parts is None:
        parts = assemble(config, fabric.global_rank, fabric.world_size)
        if state is None:
            _initialise(config, parts.model)
    jsonl = JsonlTracker()
    own = [jsonl, MetaTracker(), *parts.trackers.values()]
    tracker = Trackers(own if fabric.is_global_zero else [])
    info = RunInfo(
        directory=directory,
        run_id=meta["run_id"],
        name=config["name"],
        project=config["project"],
        group=config["group"],
        tags=tuple(config["tags"]),
        resumed="resumed" in meta,
        history=state["metrics_length"] if state is not None else 0,
    )
    with _signals(quiet=not fabric.is_global_zero) as interrupted:
        tracker.start(info, config)
        trainer = Trainer(
            fabric,
            parts.model,
            parts.data,
            parts.objective,
            parts.plan,
            parts.settings,
            parts.callbacks,
            tracker,
            directory,
            pretrained=config["init_from"] is not None,
            metrics_length=jsonl.length,
            interrupted=interrupted,
            compiled=config["hardware"]["compile"],
        )
        try:
            report = trainer.fit(state)
            if fabric.is_global_zero:
                models.save(directory / MODEL, trainer.model, config["model"], parts.spec)
                deployed = run_on_target(
                    parts.target,
                    trainer.model,
                    parts.data,
                    parts.objective,
                    parts.plan[-1].evaluate,
                    directory,
                    phase_ends(directory, {phase.name: phase.tasks for phase in parts.plan}),
                )
                report["hardware"] = deployed.report
                report["metrics"] |= deployed.metrics
            tracker.summary(report["metrics"])
            tracker.finish("completed")
        except BaseException as error:
            stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
            tracker.finish("interrupted" if stopped else "failed")
            raise
    return report


def _settled(config: Config) -> Config:
    """The config with the newest completed training run where it says `init_from=latest`."""
    if config["init_from"] != "latest":  # it stays the same should this one be resumed
        return config
    run = latest_run(config["runs_dir"], accept=lambda run: run.meta.get("mode") == "train")
    return {**config, "init_from": str(run.path)}


def _initialise(config: Config, model: CoreModel) -> tuple[str, ...]:
    """Put the weights of `init_from` into the model; what to tell of it."""
    if config["init_from"] is None:
        return ()
    location = locate(config["init_from"], "init_from")
    path = location.checkpoint or checkpoint_path(location.directory, config["checkpoint"])
    state, notes = load_checkpoint(path)
    left: list[str] = []
    if not config["init_strict"]:
        left = load_what_fits(model, state["model"])
    else:
        try:
            load_weights(model, state["model"], str(path))
        except CheckpointError as error:
            raise CheckpointError(f"{error} init_strict=false takes what fits.") from error
    log.info("Starting from the weights of %s", path)
    return (*notes, *(f"init_strict=false: not taken from {path}: {line}" for line in left))


@contextmanager
def _signals(quiet: bool) -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C set a flag that the trainer polls; a second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if not quiet:  # not by print, which may be in the middle of a line
            os.write(2, b"\nStopping after this update. Ctrl-C again stops at once.\n")

    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread: the launcher handles signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
