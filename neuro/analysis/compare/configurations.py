"""Groups finished runs into configurations: runs whose configs differ in their seeds only.

Reads config.yaml, run_meta.json and report.json of each run, but not metrics.jsonl, which is long.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from neuro.analysis.compare import configs
from neuro.analysis.compare.statistics import MeanInterval, mean_ci
from neuro.errors import CheckpointError, ConfigError, nearest
from neuro.runs.record import RunRecord
from neuro.runs.report import Report

#: values of a run's seeds, in the order of `Configuration.seed_keys`
Seeds = tuple[object, ...]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run with the contents of its files that a comparison reads."""

    record: RunRecord
    config: configs.Flat  #: its resolved config by dotted key
    report: Report
    metrics: Mapping[str, float]  #: the finite metrics of its report

    @property
    def score(self) -> str:
        """The kind of metric by which the run chose its best checkpoint."""
        return self.report.score or "accuracy"

    @property
    def monitor(self) -> str:
        """The full name of that metric."""
        given = self.config.get("trainer.monitor", "auto")
        return f"val/{self.score}" if given == "auto" else str(given)


@dataclass(frozen=True)
class Configuration:
    """The runs of one configuration, sorted by their seeds."""

    label: str
    runs: tuple[FinishedRun, ...]
    seed_keys: tuple[str, ...]  #: keys of the seeds that every compared config has
    config: configs.Flat  #: the values that all runs have in common, by dotted key

    @cached_property
    def seeds(self) -> tuple[Seeds, ...]:
        """The seeds of each run."""
        return tuple(tuple(run.config[key] for key in self.seed_keys) for run in self.runs)

    def by_seed(self, metric: str) -> dict[Seeds, float]:
        """A metric's value for each seed that has it; the mean if a seed has several runs."""
        found: dict[Seeds, list[float]] = {}
        for run, seeds in zip(self.runs, self.seeds, strict=True):
            if metric in run.metrics:
                found.setdefault(seeds, []).append(run.metrics[metric])
        return {seeds: sum(values) / len(values) for seeds, values in found.items()}

    def interval(self, metric: str) -> MeanInterval | None:
        """Mean over seeds and its 95 % confidence interval; None if no run has the metric."""
        values = self.by_seed(metric)
        return mean_ci(list(values.values())) if values else None


@dataclass(frozen=True)
class ExcludedRuns:
    """Directories of runs that cannot be compared, by the reason."""

    by_reason: Mapping[str, tuple[Path, ...]]

    def __len__(self) -> int:
        return sum(len(paths) for paths in self.by_reason.values())

    def lines(self, max_paths: int = 3) -> list[str]:
        """One line of text for each reason, with at most `max_paths` directories."""
        found = []
        for reason, paths in self.by_reason.items():
            names = ", ".join(map(str, paths[:max_paths]))
            more = f" and {len(paths) - max_paths} more" if len(paths) > max_paths else ""
            found.append(f"excluded: {len(paths)} {reason} ({names}{more})")
        return found


def finished(runs: Iterable[RunRecord]) -> tuple[list[FinishedRun], ExcludedRuns]:
    """Split runs into those that can be compared and the others, without duplicates.

    Sets of repeats are in neither: their runs are compared one by one.
    """
    found: list[FinishedRun] = []
    excluded: dict[str, list[Path]] = {}
    for record in {run.path.resolve(): run for run in runs}.values():
        try:
            if record.is_set:
                continue
            if record.status not in ("completed", "unknown"):
                reason = record.status
            elif (report := record.report) is None:
                reason = f"without a report (mode={record.meta.get('mode', 'train')})"
            else:
                config = configs.flatten(record.config)
                metrics = {k: float(v) for k, v in report.metrics.items() if math.isfinite(v)}
                found.append(FinishedRun(record, config, report, metrics))
                continue
        except CheckpointError as error:
            reason = f"damaged: {error}"
        excluded.setdefault(reason, []).append(record.path)
    return found, ExcludedRuns({reason: tuple(paths) for reason, paths in excluded.items()})


def configurations(
    runs: Sequence[FinishedRun], group_by: Sequence[str] | None = None
) -> list[Configuration]:
    """Group runs by their configs without seeds, or by the values of the keys `group_by`.

    ConfigError for a key that no config has.
    """
    if group_by is not None:
        _check_keys(runs, group_by)
    seed_keys = tuple(
        sorted(set.intersection(*({k for k in run.config if configs.is_seed(k)} for run in runs)))
    )
    grouped: dict[str, tuple[dict[str, object], list[FinishedRun]]] = {}
    for run in sorted(runs, key=lambda run: [_order(run.config[key]) for key in seed_keys]):
        config = (
            configs.relevant(run.config)
            if group_by is None
            else {k: v for k, v in run.config.items() if configs.is_below(k, group_by)}
        )
        grouped.setdefault(configs.fingerprint(config), (config, []))[1].append(run)
    common = [config for config, _ in grouped.values()]
    if group_by is None:
        names = configs.labels(common, [_most_common_overrides(g) for _, g in grouped.values()])
    else:
        names = configs.values_as_labels(common)
    return [
        Configuration(name, tuple(group), seed_keys, config)
        for name, (config, group) in zip(names, grouped.values(), strict=True)
    ]


def _order(seed: object) -> tuple[bool, float, str]:
    """Sort key of a seed: numbers by size, then anything else as text."""
    return (False, seed, str(seed)) if isinstance(seed, (int, float)) else (True, 0, str(seed))


def _check_keys(runs: Sequence[FinishedRun], group_by: Sequence[str]) -> None:
    known = list(dict.fromkeys(key for run in runs for key in run.config))
    parents = {".".join(key.split(".")[:i]) for key in known for i in range(1, key.count(".") + 1)}
    problems = [
        f"--group-by {key}: no run's config has this key.{nearest(key, [*known, *parents])}"
        for key in group_by
        if key not in parents and key not in known
    ]
    if problems:
        raise ConfigError(problems)


def _most_common_overrides(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """The overrides, without seeds, that most of the runs were started with."""
    without_seeds = [
        tuple(o for o in run.record.overrides if not configs.is_seed(configs.key_of(o)))
        for run in runs
    ]
    return Counter(without_seeds).most_common(1)[0][0]
