"""Finished runs in groups: those of one configuration, each with the seeds that it was run with.

Reads config.yaml, run_meta.json and report.json of each run, metrics.jsonl not at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuro.analysis.compare import configs
from neuro.analysis.compare.statistics import MeanInterval, mean_ci
from neuro.errors import CheckpointError, ConfigError, nearest
from neuro.runs.record import RunRecord
from neuro.runs.report import Report

Seeds = tuple[Any, ...]


@dataclass(frozen=True)
class Member:
    """A finished run with what comparisons ask of it."""

    run: RunRecord
    flat: Mapping[str, Any]  #: its resolved config by dotted key
    report: Report
    metrics: Mapping[str, float]  #: the finite numbers of its report

    @property
    def overrides(self) -> tuple[str, ...]:
        return self.run.overrides

    @property
    def score(self) -> str:
        """What the run's decisions are judged by."""
        return self.report.score or "accuracy"

    @property
    def monitor(self) -> str:
        """The metric that chose the run's best checkpoint."""
        given = self.flat.get("trainer.monitor", "auto")
        return f"val/{self.score}" if given == "auto" else str(given)


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, in the order of their seeds."""

    label: str
    members: tuple[Member, ...]
    seed_keys: tuple[str, ...]  #: the seeds that the configs of all groups have
    config: Mapping[str, Any]  #: what the members share, by dotted key

    @cached_property
    def seeds(self) -> tuple[Seeds, ...]:
        """The values of the seeds of each member."""
        return tuple(tuple(m.flat[key] for key in self.seed_keys) for m in self.members)

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        return tuple(member.run for member in self.members)

    def by_seed(self, metric: str) -> dict[Seeds, float]:
        """A metric's value for each seed that has it; several runs of a seed give their mean."""
        found: dict[Seeds, list[float]] = {}
        for member, seeds in zip(self.members, self.seeds, strict=True):
            if metric in member.metrics:
                found.setdefault(seeds, []).append(member.metrics[metric])
        return {seeds: sum(values) / len(values) for seeds, values in found.items()}

    def interval(self, metric: str) -> MeanInterval | None:
        """Mean over seeds and its confidence interval; None if no run has the metric."""
        values = self.by_seed(metric)
        return mean_ci(list(values.values())) if values else None


@dataclass(frozen=True)
class LeftOut:
    """Runs that cannot be compared, by the reason."""

    runs: Mapping[str, tuple[Path, ...]]

    def __len__(self) -> int:
        return sum(len(paths) for paths in self.runs.values())

    def lines(self, most: int = 3) -> list[str]:
        """One line for each reason, with so many of the paths."""
        found = []
        for reason, paths in self.runs.items():
            names = ", ".join(map(str, paths[:most]))
            more = f" and {len(paths) - most} more" if len(paths) > most else ""
            found.append(f"left out: {len(paths)} {reason} ({names}{more})")
        return found


def finished(runs: Iterable[RunRecord]) -> tuple[list[Member], LeftOut]:
    """The runs that can be compared; a run that is found twice counts once."""
    members: list[Member] = []
    left: dict[str, list[Path]] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        try:
            if run.is_set:
                continue
            reason = _unfinished(run)
            if reason is None and run.report is not None:
                config = configs.flatten(run.config)
                members.append(Member(run, config, run.report, _finite(run.report.metrics)))
        except CheckpointError as error:
            reason = f"damaged: {error}"
        if reason is not None:
            left.setdefault(reason, []).append(run.path)
    return members, LeftOut({reason: tuple(paths) for reason, paths in left.items()})


def _unfinished(run: RunRecord) -> str | None:
    """Why a run has no final numbers; None if it has."""
    if run.status not in ("completed", "unknown"):
        return run.status
    mode = run.meta.get("mode", "train")
    return None if run.report is not None else f"without a report (mode={mode})"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def grouped(members: Sequence[Member], group_by: Sequence[str] | None = None) -> list[Group]:
    """Members with equal configs together; or with equal values of the `group_by` keys alone.

    ConfigError for a key that no config has.
    """
    if group_by is not None:
        _check_keys(members, group_by)
    of_each = [{key for key in member.flat if configs.is_seed(key)} for member in members]
    seed_keys = tuple(sorted(set.intersection(*of_each)))
    shared: dict[str, dict[str, Any]] = {}
    bunches: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda m: [_order(m.flat[key]) for key in seed_keys]):
        config = (
            configs.relevant(member.flat)
            if group_by is None
            else {k: v for k, v in member.flat.items() if configs.below(k, group_by)}
        )
        text = configs.fingerprint(config)
        shared[text] = config
        bunches.setdefault(text, []).append(member)
    kinds = [shared[text] for text in bunches]
    if group_by is None:
        names = configs.labels(kinds, [_usual_overrides(bunch) for bunch in bunches.values()])
    else:
        names = configs.values_as_labels(kinds)
    return [
        Group(name, tuple(bunch), seed_keys, shared[text])
        for name, (text, bunch) in zip(names, bunches.items(), strict=True)
    ]


def _order(seed: Any) -> tuple[bool, float, str]:
    """Numbers by size, and anything else after them."""
    number = isinstance(seed, (int, float))
    return (not number, seed if number else 0, str(seed))


def _check_keys(members: Sequence[Member], group_by: Sequence[str]) -> None:
    known = list(dict.fromkeys(key for member in members for key in member.flat))
    parents = {".".join(key.split(".")[:i]) for key in known for i in range(1, key.count(".") + 1)}
    problems = [
        f"--group-by {key}: no run's config has this key.{nearest(key, [*known, *parents])}"
        for key in group_by
        if key not in parents and key not in known
    ]
    if problems:
        raise ConfigError(problems)


def _usual_overrides(members: Sequence[Member]) -> tuple[str, ...]:
    """What most members of a group were started with, seeds aside."""
    without = [
        tuple(o for o in member.overrides if not configs.is_seed(configs.key_of(o)))
        for member in members
    ]
    return Counter(without).most_common(1)[0][0]
