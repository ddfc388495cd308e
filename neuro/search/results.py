"""What a search leaves in its directory: trials.csv, best.yaml and pictures."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neuro.io.files import replacing, write_text


@dataclass(frozen=True)
class TrialRow:
    """One trial: `values` of the objectives if it is complete, the last one reported if pruned."""

    number: int
    state: str  # complete, pruned, fail, running, waiting
    values: tuple[float, ...]
    params: Mapping[str, Any]
    seconds: float | None
    reason: str | None


@dataclass(frozen=True)
class SearchResult:
    """All trials of a study, the numbers of the best (several on a Pareto front), importances."""

    name: str
    objectives: tuple[str, ...]
    directions: tuple[str, ...]  # maximize or minimize
    trials: Sequence[TrialRow]
    best: Sequence[int]
    importance: Mapping[str, float]


def write_results(result: SearchResult, directory: Path, commands: Mapping[int, str]) -> None:
    """Write trials.csv, best.yaml with the commands that run the best trials again, and plots/."""
    names = list(dict.fromkeys(name for trial in result.trials for name in trial.params))
    with replacing(directory / "trials.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", *result.objectives, *names, "seconds", "reason"])
        for trial in result.trials:
            values = [*trial.values, *[None] * len(result.objectives)][: len(result.objectives)]
            params = [trial.params.get(name) for name in names]
            writer.writerow(
                [trial.number, trial.state, *values, *params, trial.seconds, trial.reason]
            )
    by_number = {trial.number: trial for trial in result.trials}
    chosen = [
        {
            "trial": number,
            **dict(zip(result.objectives, by_number[number].values, strict=True)),
            "params": dict(by_number[number].params),
            "command": commands[number],
        }
        for number in result.best
    ]
    write_text(
        directory / "best.yaml",
        f"# The best of {len(result.trials)} trials of study {result.name}.\n"
        + yaml.safe_dump(chosen, sort_keys=False, width=1000),
    )
    _draw(result, directory / "plots")


def command(overrides: Sequence[str]) -> str:
    """What a user types to run an experiment again."""
    return shlex.join(["python", "launch.py", *overrides])


def _draw(result: SearchResult, folder: Path) -> None:
    from neuro.analysis.plots.style import save
    from neuro.search import plots as search_plots

    complete = [trial for trial in result.trials if trial.state == "complete"]
    if not complete:
        return
    pictures = {"slices": search_plots.slices(complete, result.objectives)}
    if len(result.objectives) > 1:
        pictures["pareto"] = search_plots.pareto(complete, result.best, result.objectives)
    else:
        pictures["history"] = search_plots.history(
            result.trials, result.objectives[0], result.directions[0]
        )
    if result.importance:
        pictures["importance"] = search_plots.importance(result.importance)
    for name, figure in pictures.items():
        save(figure, folder / f"{name}.png")
