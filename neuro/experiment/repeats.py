"""repeats=N: the same run with seeds s, s+1, ..., s+N-1, and one report over all of them.

A set of repeats is a directory like a run's, whose runs lie in `repeat_0`, `repeat_1`, ... Its
config.yaml keeps what depends on the seed as an interpolation, so that a resumed set can make the
repeats that it lacks. Each repeat is the run that `seed=` alone would have made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from neuro.analysis.compare.cli import show_comparison
from neuro.analysis.compare.statistics import mean_ci
from neuro.errors import ConfigError
from neuro.io.files import write_json
from neuro.runs.directory import check_unused, keeping_status
from neuro.runs.metadata import describe_run, now
from neuro.runs.naming import id_of
from neuro.runs.record import SET, RunRecord, is_run
from neuro.runs.resume import changes_of, check_unfinished, key_of, lasting, plain

log = logging.getLogger("neuro")

Config = dict[str, Any]


class Repeat(NamedTuple):
    """One run of a set; `exists` says that its directory holds a run already."""

    number: int
    config: Config
    directory: Path
    overrides: tuple[str, ...]
    exists: bool


def config_of(cfg: DictConfig, seed: int) -> Config:
    """A config with another seed, and everything that is derived from it."""
    changed = cfg.copy()
    OmegaConf.update(changed, "seed", seed)
    return plain(changed)


def run_repeats(
    cfg: DictConfig,
    config: Config,
    directory: Path,
    overrides: Sequence[str],
    one: Callable[[Repeat, Callable[[], None]], float | None],
    *,
    quiet: bool = False,
) -> float:
    """Run the repeats that a set lacks, or go on with them; returns the mean objective.

    - `cfg`, `config`: the set's config with and without interpolations
    - `directory`: of the set, new or one to resume
    - `one`: runs or resumes one repeat, and calls its second argument before it writes anything
    - `quiet`: for a process that only helps another one: write and print nothing
    """
    record = RunRecord(directory) if config["resume"] is not None else None
    if record is None:
        if not quiet:
            check_unused(directory)
        meta = describe_run(config, id_of(directory), overrides)
    else:
        meta = _resumed(record, config, overrides)
    meta = {**meta, "mode": SET}
    seeds = (config["seed"], config["seed"] + 1)
    saved = _seed_dependent(OmegaConf.to_container(cfg), *(config_of(cfg, s) for s in seeds))
    saved = {**saved, "init_from": config["init_from"], "resume": None}
    plan = _plan(cfg, config, directory, overrides, str(meta["run_id"]))
    with ExitStack() as stack:
        begun: list[bool] = []

        def begin() -> None:
            if not begun and not quiet:
                stack.enter_context(keeping_status(directory, saved, meta))
            begun.append(True)

        objectives = []
        for repeat in plan:
            log.info(
                "Repeat %d of %d, seed %d", repeat.number + 1, len(plan), repeat.config["seed"]
            )
            objectives.append(one(repeat, begin))
        begin()  # where there was nothing left to do but the report
        if not quiet:
            reports = [RunRecord(repeat.directory).report or {} for repeat in plan]
            write_json(directory / "report.json", _report(plan, reports, meta))
    if not quiet:
        show_comparison([directory])
        here = Path.cwd()
        shown = directory.relative_to(here) if directory.is_relative_to(here) else directory
        print(f"runs: {shown}")
    return _mean(objectives)


def _resumed(record: RunRecord, config: Config, overrides: Sequence[str]) -> dict[str, Any]:
    """The description of a set that goes on. ConfigError if it cannot."""
    saved = plain(OmegaConf.create(record.config))
    changes = changes_of(saved, {**config, "resume": None})
    if config["repeats"] < record.config["repeats"]:
        raise ConfigError(
            f"repeats: got {config['repeats']}, but {record.path} has "
            f"{record.config['repeats']}; a set can only grow when it is resumed."
        )
    members = [record.path / f"repeat_{k}" for k in range(record.config["repeats"])]
    if any(is_run(path) and RunRecord(path).status == "completed" for path in members):
        check_unfinished(changes, config["phase"])
    before = record.meta
    sessions = [*before.get("resumed", []), {"time": now(), "changes": changes}]
    meta = describe_run(config, before["run_id"], lasting(overrides))
    return {**meta, "started": before["started"], "resumed": sessions}


def _plan(
    cfg: DictConfig, config: Config, directory: Path, overrides: Sequence[str], set_id: str
) -> list[Repeat]:
    """All runs of a set; what exists is found out before the first of them begins."""
    own = [o for o in lasting(overrides) if key_of(o) not in ("seed", "repeats")]
    repeats = []
    for k in range(config["repeats"]):
        seed, path = config["seed"] + k, directory / f"repeat_{k}"
        made = {
            **config_of(cfg, seed),
            "init_from": config["init_from"],
            "repeats": 1,
            "resume": str(path) if is_run(path) else None,
            "group": config["group"] or set_id,
        }
        repeats.append(Repeat(k, made, path, (*own, f"seed={seed}"), is_run(path)))
    return repeats


def _report(
    plan: Iterable[Repeat], reports: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Mean, standard deviation and 95 % interval of every metric that all repeats have."""
    metrics = [report["metrics"] for report in reports]
    common = [name for name in metrics[0] if all(_is_number(own.get(name)) for own in metrics)]
    aggregate = {name: asdict(mean_ci([own[name] for own in metrics])) for name in common}
    return {
        "objective": _mean([report["objective"] for report in reports]),
        "objective_metric": reports[0]["objective_metric"],
        "run_id": meta["run_id"],
        "metrics": {name: values["mean"] for name, values in aggregate.items()},
        "aggregate": aggregate,
        "repeats": [
            {
                "directory": repeat.directory.name,
                "seed": repeat.config["seed"],
                "objective": report["objective"],
            }
            for repeat, report in zip(plan, reports, strict=True)
        ],
        "seconds": sum(report["seconds"] for report in reports),
    }


def _mean(objectives: Sequence[float | None]) -> float:
    """The mean; NaN if one of them is not finite."""
    numbers = [x if x is not None and math.isfinite(x) else math.nan for x in objectives]
    return sum(numbers) / len(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _seed_dependent(raw: Any, one: Any, other: Any) -> Any:
    """A config's values, but as they are written where they differ between two seeds."""
    if all(isinstance(node, Mapping) for node in (raw, one, other)):
        return {key: _seed_dependent(raw.get(key), one[key], other.get(key)) for key in one}
    return one if one == other else raw
