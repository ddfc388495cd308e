"""Writes the results of a study: trials.csv, best.yaml and plots."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from neuro.io.files import replacing, write_text
from neuro.search.ranges import Value


@dataclass(frozen=True)
class TrialRow:
    """A trial as plain values.

    - `state`: complete, pruned, fail, running or waiting
    - `values`: the objectives of a complete trial; of a pruned one the last reported value, or the
      mean over its repeats
    - `seconds`: wall-clock duration
    - `reason`: why the trial failed, or which constraints it does not keep
    """

    number: int
    state: str
    values: tuple[float, ...]
    params: Mapping[str, Value]
    seconds: float | None
    reason: str | None


@dataclass(frozen=True)
class StudyResult:
    """A study as plain values.

    - `directions`: maximize or minimize, for each objective
    - `best`: numbers of the best trial, or of the trials on the Pareto front
    - `logarithmic`: names of the parameters that are searched on a logarithmic scale
    - `importance`: importance of each parameter, from 0 to 1 with sum 1; may be empty
    """

    name: str
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    trials: Sequence[TrialRow]
    best: Sequence[int]
    importance: Mapping[str, float]
    logarithmic: frozenset[str] = frozenset()


def write_trials(trials: Sequence[TrialRow], objectives: Sequence[str], directory: Path) -> None:
    """Write trials.csv to a directory."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    with replacing(directory / "trials.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", *objectives, *names, "seconds", "reason"])
        for trial in trials:
            values = [*trial.values, *[None] * len(objectives)][: len(objectives)]
            params = [trial.params.get(name) for name in names]
            writer.writerow(
                [trial.number, trial.state, *values, *params, trial.seconds, trial.reason]
            )


def write_results(result: StudyResult, directory: Path, commands: Mapping[int, str]) -> None:
    """Write trials.csv, best.yaml and plots/ to a directory.

    - `commands`: for each of the best trials, the command that repeats it
    """
    write_trials(result.trials, result.objectives, directory)
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


def _draw(result: StudyResult, folder: Path) -> None:
    """Write the plots; none without a complete trial."""
    from neuro.analysis.plots.style import save
    from neuro.search import plots as search_plots

    complete = [trial for trial in result.trials if trial.state == "complete"]
    if not complete:
        return
    figures = {"slices": search_plots.slices(complete, result.objectives, result.logarithmic)}
    if len(result.objectives) > 1:
        figures["pareto"] = search_plots.pareto(complete, result.best, result.objectives)
    else:
        figures["history"] = search_plots.history(
            result.trials, result.objectives[0], result.directions[0]
        )
    if result.importance:
        figures["importance"] = search_plots.importance(result.importance)
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
