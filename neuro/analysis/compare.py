"""Runs side by side: grouped over seeds, with means and confidence intervals.

Runs belong together when they were started with the same overrides but for the seed, and a group
is named by the overrides that not all runs share. Reads files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neuro.analysis.runs import RunRecord
from neuro.analysis.statistics import MeanInterval, mean_ci

#: overrides that do not tell configurations apart
_IRRELEVANT = ("seed", "repeats", "tracking", "hydra", "run", "resume", "tags", "group", "name")

#: columns of a comparison: report metric and heading; a column that no run has is left out
COLUMNS = (
    ("test/accuracy", "accuracy"),
    ("continual/forgetting", "forgetting"),
    ("test/fast/accuracy", "fast"),
    ("test/slow/accuracy", "slow"),
    ("test/loss", "loss"),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    runs: tuple[RunRecord, ...]

    def interval(self, metric: str) -> MeanInterval | None:
        """Mean and confidence interval of a report metric; None if a run lacks it."""
        values = [(run.report or {}).get("metrics", {}).get(metric) for run in self.runs]
        if any(value is None for value in values):
            return None
        return mean_ci([float(value) for value in values if value is not None])


def group_runs(runs: Iterable[RunRecord]) -> list[Group]:
    """Finished runs in groups, the best mean objective first."""
    by_overrides: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        if run.report is not None and not run.is_set:
            by_overrides.setdefault(_distinguishing(run), []).append(run)
    shared = set.intersection(*map(set, by_overrides)) if len(by_overrides) > 1 else set()
    groups = [
        Group(_label([o for o in overrides if o not in shared]), tuple(members))
        for overrides, members in by_overrides.items()
    ]
    return sorted(groups, key=_mean_objective, reverse=True)


def table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text, in percent, as `mean ± half-width of the 95 % interval`."""
    columns = [(m, h) for m, h in COLUMNS if any(g.interval(m) for g in groups)]
    rows = [
        [group.label, str(len(group.runs)), *(_cell(m, group.interval(m)) for m, _ in columns)]
        for group in groups
    ]
    return ["configuration", "runs", *(heading for _, heading in columns)], rows


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table as Markdown."""
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(headings))) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def _distinguishing(run: RunRecord) -> tuple[str, ...]:
    overrides = run.meta.get("overrides", [])
    return tuple(sorted(o for o in overrides if o.lstrip("+~").split("=")[0] not in _IRRELEVANT))


def _label(overrides: Sequence[str]) -> str:
    parts = [o.removeprefix("experiment=").removeprefix("model=") for o in overrides]
    return ", ".join(parts) or "default"


def _mean_objective(group: Group) -> float:
    values = [run.report["objective"] for run in group.runs if run.report]
    return sum(v for v in values if v is not None) / len(values)


def _cell(metric: str, interval: MeanInterval | None) -> str:
    if interval is None:
        return "-"
    scale, unit = (1.0, "") if metric.endswith("loss") else (100.0, " %")
    text = f"{scale * interval.mean:.2f}"
    if interval.half_width is not None:
        text += f" ± {scale * interval.half_width:.2f}"
    return text + unit
