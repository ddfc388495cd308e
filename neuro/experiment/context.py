"""A call of the launcher, with its config and directory, and the experiment parsed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from neuro.config.modes import OF_FINISHED
from neuro.errors import ConfigError
from neuro.experiment.experiment import Experiment, parse_experiment
from neuro.runs.metadata import describe_run
from neuro.runs.naming import id_of
from neuro.runs.record import RunRecord
from neuro.runs.resume import continued_config, key_of, locate, runs_of


@dataclass(frozen=True)
class RunContext:
    """A call of the launcher.

    - `composed`: the config that Hydra composed, with its interpolations
    - `directory`: that of the run
    - `overrides`: those of the command line; `groups`: names of all config groups
    - `config_dir`: directory of the user's own options, from `--config-dir`
    - `group`: the run's group in a multirun, unless the config names one
    - `repeat`: the run's number in a set of repeats
    - `begin`: called when the run is about to write its first file
    """

    composed: DictConfig
    directory: Path
    overrides: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    config_dir: str | None = None
    group: str | None = None
    repeat: int | None = None
    begin: Callable[[], None] = lambda: None

    def describe(self, experiment: Experiment) -> dict[str, Any]:
        """The content of run_meta.json for a new run."""
        number = {} if self.repeat is None else {"repeat": self.repeat}
        return self.describe_as(experiment, id_of(self.directory)) | number

    def describe_as(
        self, experiment: Experiment, run_id: str, overrides: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The content of run_meta.json for a run with a given id, and other overrides if given."""
        made_by = self.overrides if overrides is None else overrides
        return describe_run(experiment, run_id, made_by, self.config_dir)


def read_experiment(context: RunContext) -> Experiment:
    """Parse the composed config; if `resume` or `run` names a run, that run's config with the
    overrides of this call. ConfigError lists every problem.
    """
    composed = _with_chosen_callbacks(context.composed, context.overrides)
    context = replace(context, composed=composed)
    if composed.resume is not None and composed.mode == "train":
        return parse_experiment(_continued(context, composed.resume, "resume"))
    if composed.run is not None and composed.mode in OF_FINISHED:
        runs = runs_of(composed.run, "run")
        if (len(runs) > 1) != (composed.ensemble is not None):
            raise ConfigError(
                f"ensemble: run names {len(runs)} run{'s' if len(runs) > 1 else ''}; ensemble=mean "
                "with mode=evaluate is for two or more, and null for one."
            )
        continued = _continued(context, runs[0], "run")
        OmegaConf.update(continued, "run", composed.run if composed.ensemble else runs[0])
        return parse_experiment(continued)
    return parse_experiment(composed)


def _with_chosen_callbacks(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config without settings of callbacks that are not in use.

    A preset sets keys of its callbacks, of which `callbacks=[...]` may leave some out. What an
    override names stays, so that it is reported.
    """
    given = [f"{key_of(override)}." for override in overrides]
    unused = [
        str(name)
        for name, node in composed.callbacks.items()
        if isinstance(node, DictConfig)
        and "_target_" not in node
        and not any(key.startswith(f"callbacks.{name}.") for key in given)
    ]
    if not unused:
        return composed
    used = composed.copy()
    with open_dict(used):
        for name in unused:
            del used.callbacks[name]
    return used


def read_members(context: RunContext) -> list[Experiment]:
    """The experiments of an ensemble's runs, each with the overrides of this call and with its own
    directory as `run`.
    """
    runs = runs_of(context.composed.run, "run")
    of_the_first = RunRecord(locate(runs[0], "run").directory).overrides
    changes = tuple(o for o in context.overrides if o not in of_the_first)
    members = []
    for run in runs:
        config = continued_config(context.composed, run, "run", changes, context.groups)
        OmegaConf.update(config, "run", run)
        members.append(parse_experiment(config))
    return members


def _continued(context: RunContext, source: str, key: str) -> DictConfig:
    return continued_config(context.composed, source, key, context.overrides, context.groups)
