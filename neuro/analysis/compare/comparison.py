"""Compares configurations: finished runs grouped over seeds, sorted by a metric.

Runs belong to one configuration if their resolved configs differ only in seeds and in keys that do
not affect results (`configs.IRRELEVANT`); `--group-by` selects other keys. The sampling unit of all
statistics is the seed: several runs of one seed count as one value, their mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from neuro.analysis.compare import configs
from neuro.analysis.compare.configurations import (
    Configuration,
    ExcludedRuns,
    configurations,
    finished,
)
from neuro.analysis.metrics import Direction, check_known, direction_of
from neuro.errors import CheckpointError, ConfigError, nearest
from neuro.runs.record import RunRecord

#: columns of the table besides the objective, as far as runs have them
DEFAULT_METRICS = (
    "test/accuracy",
    "continual/forgetting",
    "test/fast/accuracy",
    "test/slow/accuracy",
    "hardware/accuracy",
    "hardware/energy_uj_high",
    "hardware/cores",
    "test/loss",
)


@dataclass(frozen=True)
class Comparison:
    """Configurations sorted by `objective`, the best first."""

    configurations: tuple[Configuration, ...]
    objective: str
    direction: Direction
    excluded: ExcludedRuns
    notes: tuple[str, ...]  #: remarks about the data, one sentence each

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics that any run has, sorted."""
        return tuple(
            sorted({m for c in self.configurations for run in c.runs for m in run.metrics})
        )

    @cached_property
    def differing(self) -> tuple[str, ...]:
        """The config keys in which configurations differ."""
        return tuple(configs.differing([c.config for c in self.configurations]))

    def deviations(self, reference: Configuration | None = None) -> list[dict[str, object]]:
        """Each configuration's deviating values by key, see `configs.deviations`."""
        known = None if reference is None else reference.config
        return configs.deviations([c.config for c in self.configurations], known)

    def default_metrics(self) -> tuple[str, ...]:
        """The objective and those of `DEFAULT_METRICS` that any run has."""
        return tuple(
            m for m in dict.fromkeys((self.objective, *DEFAULT_METRICS)) if m in self.metrics
        )

    def direction_of(self, metric: str) -> Direction:
        """The better direction of a metric; max if it is unknown."""
        if metric == self.objective:
            return self.direction
        return direction_of(metric, self.configurations[0].runs[0].record.config) or "max"

    def find(self, name: str, option: str = "--baseline") -> Configuration:
        """The configuration with a label, an override, a config value, or a directory of its runs.

        - `name`: one of these; a config value as in `optimizer.lr=0.01` or `model=LIFNetwork`
        - `option`: the command line's option, for the error message

        ConfigError if no configuration or several fit.
        """
        for fits in (_has_label, _has_override, _has_value, _has_directory):
            found = [c for c in self.configurations if fits(c, name)]
            if len(found) == 1:
                return found[0]
            if found:
                raise ConfigError(
                    f"{option} {name}: {len(found)} configurations fit: "
                    f"{'; '.join(c.label for c in found)}. Give one of these names."
                )
        names = [c.label for c in self.configurations]
        raise ConfigError(
            f"{option} {name}: no configuration has this name, override or directory. "
            f"Configurations: {'; '.join(names)}.{nearest(name, names)}"
        )


def compare(
    runs: Iterable[RunRecord],
    *,
    sort: str | None = None,
    direction: Direction | None = None,
    group_by: Sequence[str] | None = None,
) -> Comparison:
    """Group finished runs into configurations and sort these by the mean of a metric.

    - `sort`: the metric to sort by; None: the most common objective of the runs
    - `direction`: of that metric; None: by `metrics.direction_of`, or max if that is None too
    - `group_by`: config keys, or parents of keys, by which to group; None: all relevant keys

    CheckpointError if no run is finished, ConfigError for an unknown key or metric.
    """
    compared, excluded = finished(runs)
    if not compared:
        raise CheckpointError("no finished run.\n" + "\n".join(excluded.lines()))
    found = configurations(compared, group_by)
    notes = _notes(found)
    known = {metric for run in compared for metric in run.metrics}
    if sort is None:
        objectives = Counter(run.report.objective_metric for run in compared)
        sort = objectives.most_common(1)[0][0]
        if len(objectives) > 1:
            notes.append(f"runs have {len(objectives)} objectives; sorted by {sort} (see --sort)")
    if sort not in known:
        check_known(sort, known, "--sort")
    chosen = direction or direction_of(sort, compared[0].record.config)
    if chosen is None:
        notes.append(f"direction of {sort} unknown, taken as max; for the other: --sort {sort}:min")
        chosen = "max"
    sign = 1 if chosen == "min" else -1

    def order(configuration: Configuration) -> tuple[float, str]:
        interval = configuration.interval(sort)
        return math.inf if interval is None else sign * interval.mean, configuration.label

    return Comparison(tuple(sorted(found, key=order)), sort, chosen, excluded, tuple(notes))


def _notes(found: Sequence[Configuration]) -> list[str]:
    notes = []
    for configuration in found:
        repeated = sum(times > 1 for times in Counter(configuration.seeds).values())
        if repeated:
            notes.append(
                f"{configuration.label}: {repeated} seed(s) with several runs, which count as "
                "their mean"
            )
    if all(len(set(configuration.seeds)) == 1 for configuration in found):
        notes.append("one seed per configuration: intervals and tests need more (repeats=3)")
    return notes


def _has_label(configuration: Configuration, name: str) -> bool:
    return configuration.label == name


def _has_override(configuration: Configuration, name: str) -> bool:
    return "=" in name and all(name in run.record.overrides for run in configuration.runs)


def _has_value(configuration: Configuration, name: str) -> bool:
    key, equals, value = name.partition("=")
    config = configuration.config
    return bool(equals) and any(
        value in (str(config[k]), configs.value_text(k, config[k]))
        for k in (key, f"{key}._target_")
        if k in config
    )


def _has_directory(configuration: Configuration, name: str) -> bool:
    root = Path(name)
    return root.is_dir() and any(
        run.record.path.resolve().is_relative_to(root.resolve()) for run in configuration.runs
    )
