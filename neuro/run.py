"""The composition root: from a composed config to a finished run directory.

The parent process validates, prepares the directory and reports; `_work` builds and fits in every
process that a parallel strategy starts. Nothing else in neuro sees the whole config.
"""

from __future__ import annotations

import csv
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from neuro import overview, summary
from neuro.analysis.runs import latest_run
from neuro.build import build, build_mapping
from neuro.continuation import check_resumable, continued_config, locate
from neuro.data.base import DataSource, TaskSpec
from neuro.devices import make_fabric
from neuro.errors import ConfigError, Interrupted
from neuro.files import replacing, write_json, write_text
from neuro.hardware.base import Target
from neuro.learning.evaluation import evaluate, predict
from neuro.learning.objective import Objective, Term
from neuro.metadata import describe_run
from neuro.models.base import CoreModel
from neuro.schema import check_metrics, problems_of
from neuro.tracking.base import RunInfo, Tracker, Trackers
from neuro.tracking.jsonl import JsonlTracker
from neuro.training import checkpoint
from neuro.training.callbacks.base import Callback
from neuro.training.phases import PhasePlan, check_phases, resolve
from neuro.training.randomness import seed_everything
from neuro.training.settings import TrainerSettings
from neuro.training.trainer import Trainer

log = logging.getLogger("neuro")

Config = dict[str, Any]


@dataclass(frozen=True)
class RunContext:
    """What the launcher knows beside the config: directory, overrides, names of the groups."""

    directory: Path
    overrides: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()


class Parts(NamedTuple):
    """The objects of an experiment, built and checked against each other."""

    data: DataSource
    spec: TaskSpec
    model: CoreModel
    objective: Objective
    settings: TrainerSettings
    plan: tuple[PhasePlan, ...]
    target: Target


def run(cfg: DictConfig, context: RunContext) -> float | None:
    """Do what `cfg.mode` says; a training run returns its objective."""
    source = cfg.get("resume") or (cfg.run if cfg.mode in ("evaluate", "predict") else None)
    if source is not None:
        cfg = continued_config(cfg, source, context.overrides, context.groups)
    config: Config = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config["phase"] = {name: p for name, p in config["phase"].items() if p is not None}
    problems = problems_of(config)
    if problems:
        raise ConfigError(problems)
    match config["mode"]:
        case "check":
            overview.show(config, assemble(config))
        case "train":
            return train(config, context)
        case "evaluate":
            evaluate_run(config, context)
        case "predict":
            predict_run(config, context)
    return None


def assemble(config: Config, rank: int = 0, world_size: int = 1) -> Parts:
    """Build an experiment's objects. ConfigError lists what does not fit together."""
    data = build(config["data"], DataSource, "data")
    problems = check_phases(config["phase"], config["optimizer"], config["scheduler"], data.tasks)
    if problems:
        raise ConfigError(problems)
    data.prepare()
    tasks = list(dict.fromkeys(_phase_tasks(config["phase"])))
    spec = data.spec(tasks[0])
    seed_everything(config["seed"])
    model = build(config["model"], CoreModel, "model", spec=spec)
    terms = build_mapping(config["loss"], Term, "loss")
    objective = build(config["objective"], Objective, "objective", terms=terms)
    settings = TrainerSettings.model_validate(config["trainer"], strict=False)
    target = build(config["hardware"]["target"], Target, "hardware.target")
    plan = resolve(
        config["phase"],
        optimizer=config["optimizer"],
        scheduler=config["scheduler"],
        data=data,
        model=model,
        accumulate=settings.accumulate,
        seed=config["seed"],
        rank=rank,
        world_size=world_size,
    )
    evaluated = tuple(dict.fromkeys(t for phase in plan for t in phase.evaluate))
    problems = check_metrics(settings, evaluated, continual=len(plan) > 1)
    for task in dict.fromkeys([*tasks, *evaluated]):
        problems += _misfits(data.spec(task), spec, model, objective)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    target.check(model, spec)
    return Parts(data, spec, model, objective, settings, plan, target)


def _misfits(
    spec: TaskSpec, built_for: TaskSpec, model: CoreModel, objective: Objective
) -> Iterator[str]:
    """Why a task, the model and the objective cannot work together."""
    if spec.input_shape != built_for.input_shape:
        yield (
            f"data: task '{spec.task}' has inputs of shape {list(spec.input_shape)}, but task "
            f"'{built_for.task}' {list(built_for.input_shape)}; one model cannot learn both."
        )
    try:
        objective.check(model, spec)
    except ConfigError as error:
        yield from error.problems


def _phase_tasks(phases: Mapping[str, Any]) -> Iterator[str]:
    for phase in phases.values():
        yield from [phase["task"]] if isinstance(phase["task"], str) else phase["task"]


# -- training -------------------------------------------------------------------------------------


def train(config: Config, context: RunContext) -> float:
    """Train, evaluate on the hardware target, and write the report; returns the objective."""
    started = time.time()
    fabric = make_fabric(config["hardware"])
    log.info("Using device: %s", fabric.device)
    parts = assemble(config)
    state, notes = _starting_state(config, parts.model)
    directory = _prepare_directory(config, context, resumed=config["resume"] is not None)
    for note in notes:
        log.warning(note)
    with _status(directory, config) as meta:
        if fabric.world_size == 1:
            report = _work(fabric, config, directory, state, parts)
        else:
            report = fabric.launch(_work, config, directory, state, None)
        objective = report["metrics"][parts.settings.objective]
        report = {
            "objective": objective,
            "objective_metric": parts.settings.objective,
            "run_id": meta["run_id"],
            **report,
            "seconds": time.time() - started,
        }
        write_json(directory / "report.json", report)
    summary.show(report, directory)
    return float(objective)


def _work(
    fabric: Any,
    config: Config,
    directory: Path,
    state: Mapping[str, Any] | None,
    parts: Parts | None,
) -> dict[str, Any]:
    """One process of a training run: build what a spawned process lacks, then fit."""
    if parts is None:
        parts = assemble(config, fabric.global_rank, fabric.world_size)
    jsonl = JsonlTracker()
    tracker = Trackers()
    if fabric.is_global_zero:
        members = build_mapping(config["tracking"], Tracker, "tracking")
        tracker = Trackers([jsonl, *members.values()])
    info = RunInfo(
        directory=directory,
        run_id=directory.name,
        name=config["name"],
        project=config["project"],
        group=config["group"],
        tags=tuple(config["tags"]),
        resumed=state is not None,
        history=state["metrics_length"] if state is not None else 0,
    )
    tracker.start(info, config)
    with _signals() as interrupted:
        trainer = Trainer(
            fabric,
            parts.model,
            parts.data,
            parts.objective,
            parts.plan,
            parts.settings,
            build_mapping(config["callbacks"], Callback, "callbacks"),
            tracker,
            directory,
            pretrained=config["init_from"] is not None,
            metrics_length=jsonl.length,
            interrupted=interrupted,
        )
        try:
            report = trainer.fit(state)
            report["hardware"] = _on_target(parts, trainer.model)
            tracker.summary(report["metrics"])
            tracker.finish("completed")
        except BaseException as error:
            tracker.finish("interrupted" if isinstance(error, Interrupted) else "failed")
            raise
    return report


def _on_target(parts: Parts, model: CoreModel) -> dict[str, Any]:
    tasks = parts.plan[-1].evaluate
    loaders = {task: parts.data.loader(task, "test") for task in tasks}
    result = parts.target.evaluate(model, loaders, parts.objective.decode)
    return {"backend": result.backend, "accuracy": dict(result.accuracy), **result.details}


def _starting_state(config: Config, model: CoreModel) -> tuple[Mapping[str, Any] | None, list[str]]:
    """What training starts from: a state to resume, or weights put into the model."""
    notes: list[str] = []
    if config["resume"] is not None:
        location = locate(config["resume"])
        path = location.checkpoint or _checkpoint_path(location.directory, "last")
        checkpoint.clean(location.directory / "checkpoints")
        state, warning = checkpoint.load_or_previous(path)
        notes += [warning] if warning else []
        return state, notes
    if config["init_from"] is not None:
        source = config["init_from"]
        if source == "latest":
            source = str(latest_run(config["runs_dir"]).path)
        location = locate(source)
        path = location.checkpoint or _checkpoint_path(location.directory, config["checkpoint"])
        state, warning = checkpoint.load_or_previous(path)
        notes += [warning] if warning else []
        if config["init_strict"]:
            checkpoint.load_weights(model, state["model"], str(path))
        else:
            left = checkpoint.load_what_fits(model, state["model"])
            notes += [f"init_strict=false: not taken from {path}: {line}" for line in left]
        log.info("Starting from the weights of %s", path)
    return None, notes


def _checkpoint_path(directory: Path, name: str) -> Path:
    """A checkpoint by name (`best`, `last`, `<phase>-final`, `step-...`) or as a file."""
    if name.endswith(checkpoint.SUFFIX):
        return Path(name)
    path = directory / "checkpoints" / f"{name}{checkpoint.SUFFIX}"
    if not path.is_file():
        available = sorted(p.stem for p in path.parent.glob(f"*{checkpoint.SUFFIX}"))
        raise ConfigError(
            f"checkpoint: {directory} has no '{name}'. It has: {', '.join(available) or 'none'}."
        )
    return path


def _prepare_directory(config: Config, context: RunContext, resumed: bool) -> Path:
    """Make the run directory and put the config and the run's description into it."""
    directory = Path(context.directory)
    meta_path = directory / "run_meta.json"
    meta = describe_run(config, directory, context.overrides)
    if resumed:
        saved = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
        changes = check_resumable(saved, {**config, "mode": "train"})  # type: ignore[arg-type]
        before = json.loads(meta_path.read_text())
        new = [o for o in context.overrides if o not in before["overrides"]]
        meta |= {
            "run_id": before["run_id"],
            "started": before["started"],
            "overrides": [*before["overrides"], *(o for o in new if not o.startswith("resume="))],
            "resumed": [
                *before.get("resumed", []),
                {"time": meta["started"], "changes": dict(changes)},
            ],
        }
        config = {**config, "resume": None}
    try:
        write_text(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_json(meta_path, meta)
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir: cannot write to {directory} ({error.strerror})."
        ) from error
    return directory


@contextmanager
def _status(directory: Path, config: Config) -> Iterator[dict[str, Any]]:
    """Keep the run's status in run_meta.json true, whatever happens."""
    path = directory / "run_meta.json"
    meta = json.loads(path.read_text())

    def finish(status: str, error: BaseException | None = None) -> None:
        meta.update(status=status, finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        meta["error"] = None if error is None else f"{type(error).__name__}: {error}"
        write_json(path, meta)

    try:
        yield meta
    except Interrupted as error:
        finish("interrupted", error)
        raise Interrupted(f"{error} Continue with: python launch.py resume={directory}") from None
    except BaseException as error:
        finish("failed", error)
        raise
    finish("completed")


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C set a flag that the trainer polls; a second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

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


# -- finished runs ----------------------------------------------------------------------------------


def _finished(config: Config) -> tuple[Parts, Path]:
    """The parts of a finished run with the weights of the checkpoint that was asked for."""
    parts = assemble(config)
    path = _checkpoint_path(locate(config["run"]).directory, config["checkpoint"])
    state, warning = checkpoint.load_or_previous(path)
    if warning:
        log.warning(warning)
    checkpoint.load_weights(parts.model, state["model"], str(path))
    parts.model.to(make_fabric(config["hardware"]).device)
    return parts, path


def _tasks(parts: Parts) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task for phase in parts.plan for task in phase.evaluate))


def evaluate_run(config: Config, context: RunContext) -> None:
    """Evaluate a finished run's checkpoint on the test splits; report.json goes to a new run."""
    parts, path = _finished(config)
    device = parts.model.device
    directory = _prepare_directory(config, context, resumed=False)
    with _status(directory, config) as meta:
        results = {
            task: evaluate(
                parts.model, parts.objective, parts.data.loader(task, "test"), device
            ).metrics()
            for task in _tasks(parts)
        }
        metrics = {f"test/{t}/{k}": v for t, row in results.items() for k, v in row.items()}
        for name in next(iter(results.values())):
            metrics[f"test/{name}"] = sum(r[name] for r in results.values()) / len(results)
        report = {
            "objective": metrics.get(parts.settings.objective),
            "objective_metric": parts.settings.objective,
            "run_id": meta["run_id"],
            "evaluated": str(path),
            "metrics": metrics,
            "hardware": _on_target(parts, parts.model),
        }
        write_json(directory / "report.json", report)
    summary.show(report, directory)


def predict_run(config: Config, context: RunContext) -> None:
    """Write scores and decisions for every test sample to predictions.csv."""
    parts, path = _finished(config)
    device = parts.model.device
    directory = _prepare_directory(config, context, resumed=False)
    target = directory / "predictions.csv"
    with _status(directory, config), replacing(target) as temporary:
        with open(temporary, "w", newline="") as handle:
            writer = csv.writer(handle)
            columns = [f"score_{k}" for k in range(parts.spec.outputs)]
            writer.writerow(["task", "index", "label", "prediction", *columns])
            for task in _tasks(parts):
                loader = parts.data.loader(task, "test")
                rows = predict(parts.model, parts.objective, loader, device)
                for i, (scores, prediction, label) in enumerate(
                    zip(rows.scores.tolist(), rows.classes.tolist(), rows.labels.tolist())
                ):
                    writer.writerow([task, i, label, prediction, *scores])
    log.info("Predictions of %s: %s", path, target)
