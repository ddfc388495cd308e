"""Runs side by side: grouped over seeds, sorted by what they aim at.

Runs belong together when their resolved configs are equal but for seeds (and for where they are
kept and watched); `--group-by` names other keys. The seed is the unit: several runs of one seed in
a group count as their mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuro.analysis.compare import configs
from neuro.analysis.compare.groups import Group, LeftOut, finished, grouped
from neuro.analysis.metrics import Direction, check_known, direction_of
from neuro.errors import CheckpointError, ConfigError, nearest
from neuro.runs.record import RunRecord

#: metrics that a table shows beside the objective, unless others are asked for
DEFAULT_METRICS = (
    "test/accuracy", "continual/forgetting", "test/fast/accuracy", "test/slow/accuracy",
    "hardware/accuracy", "hardware/energy_uj_high", "hardware/cores", "test/loss",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Groups, the best first, and what is known of all of them."""

    groups: tuple[Group, ...]
    objective: str  #: the metric that they are sorted by
    direction: Direction
    left_out: LeftOut
    notes: tuple[str, ...]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics that a run has."""
        return tuple(
            sorted({m for g in self.groups for member in g.members for m in member.metrics})
        )

    @cached_property
    def differing(self) -> tuple[str, ...]:
        """The config keys in which groups differ."""
        return tuple(configs.differing([group.config for group in self.groups]))

    def deviations(self, reference: Group | None = None) -> list[dict[str, Any]]:
        """What is special in each group's config, see `configs.deviations`."""
        known = None if reference is None else reference.config
        return configs.deviations([group.config for group in self.groups], known)

    def default_metrics(self) -> tuple[str, ...]:
        """The objective, and what else is usually looked at."""
        return tuple(
            m for m in dict.fromkeys((self.objective, *DEFAULT_METRICS)) if m in self.metrics
        )

    def direction_of(self, metric: str) -> Direction:
        """Whether more or less of a metric is better; more, if no run and no name says it."""
        if metric == self.objective:
            return self.direction
        return direction_of(metric, self.groups[0].runs[0].config) or "max"

    def find(self, name: str, option: str = "--baseline") -> Group:
        """The group with a label, an override or config value (`model.gate=fixed`), or a directory.

        ConfigError if none or several fit.
        """
        for fitting in (_labelled, _overridden, _configured, _inside):
            found = [group for group in self.groups if fitting(group, name)]
            if len(found) == 1:
                return found[0]
            if found:
                raise ConfigError(
                    f"{option} {name}: {len(found)} configurations fit: "
                    f"{'; '.join(group.label for group in found)}. Give one of these names."
                )
        names = [group.label for group in self.groups]
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
    """Finished runs in groups, the best mean first.

    - `sort`: the metric to sort by; None: the runs' objective
    - `direction`: of that metric; None: what the runs or its name say
    - `group_by`: config keys, or parents of them, by which alone runs are told apart

    CheckpointError if no run is finished, ConfigError for an unknown key or metric.
    """
    members, left_out = finished(runs)
    if not members:
        raise CheckpointError("no finished run.\n" + "\n".join(left_out.lines()))
    groups = grouped(members, group_by)
    notes = _notes(groups)
    known = {metric for member in members for metric in member.metrics}
    if sort is None:
        objectives = Counter(m.report.objective_metric for m in members)
        sort = objectives.most_common(1)[0][0]
        if len(objectives) > 1:
            notes.append(f"runs have {len(objectives)} objectives; sorted by {sort} (see --sort)")
    if sort not in known:
        check_known(sort, known, "--sort")
    found = direction or direction_of(sort, members[0].run.config)
    if found is None:
        notes.append(f"nothing says whether less of {sort} is better: --sort {sort}:min if it is")
    ordered = _sorted(groups, sort, found or "max")
    return Comparison(tuple(ordered), sort, found or "max", left_out, tuple(notes))


def _sorted(groups: Iterable[Group], metric: str, direction: Direction) -> list[Group]:
    def place(group: Group) -> tuple[float, str]:
        interval = group.interval(metric)
        value = math.inf if interval is None else interval.mean
        return (value if direction == "min" or interval is None else -value, group.label)

    return sorted(groups, key=place)


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = []
    for group in groups:
        again = sum(times > 1 for times in Counter(group.seeds).values())
        if again:
            notes.append(
                f"{group.label}: {again} seed(s) with several runs, which count as their mean"
            )
    if all(len(set(group.seeds)) == 1 for group in groups):
        notes.append("one seed of each: no interval and no test without more (repeats=3)")
    return notes


def _labelled(group: Group, name: str) -> bool:
    return group.label == name


def _overridden(group: Group, name: str) -> bool:
    return "=" in name and all(name in member.overrides for member in group.members)


def _configured(group: Group, name: str) -> bool:
    key, equals, value = name.partition("=")
    return bool(equals) and any(
        value in (str(group.config[k]), configs.value_text(k, group.config[k]))
        for k in (key, f"{key}._target_")
        if k in group.config
    )


def _inside(group: Group, name: str) -> bool:
    root = Path(name)
    return root.is_dir() and any(
        run.path.resolve().is_relative_to(root.resolve()) for run in group.runs
    )
