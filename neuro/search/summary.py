"""Converts a study to plain values, and prints its summary."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from neuro.search.results import StudyResult, TrialRow
from neuro.search.storage import MEAN_SO_FAR
from neuro.search.study import failure_reason, violated


def study_result(study: optuna.Study, objectives: tuple[str, ...]) -> StudyResult:
    """Convert a study to plain values; `objectives` are the names of its metrics."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    single = len(study.directions) == 1
    # within all constraints; Optuna has no best trial if there is none
    feasible = [trial for trial in complete if not violated(trial)]
    best = [] if not feasible else [study.best_trial] if single else study.best_trials
    return StudyResult(
        study.study_name,
        objectives,
        tuple(direction.name.lower() for direction in study.directions),
        trial_rows(study),
        [trial.number for trial in best],
        _importance(study, complete) if single else {},
        frozenset(
            name
            for trial in complete
            for name, range_ in trial.distributions.items()
            if getattr(range_, "log", False)
        ),
    )


def trial_rows(study: optuna.Study) -> list[TrialRow]:
    """All trials of a study as plain values."""
    return [_row(trial) for trial in study.get_trials(deepcopy=False)]


def _importance(study: optuna.Study, complete: list[FrozenTrial]) -> dict[str, float]:
    """Importance of the parameters that all complete trials have.

    Mean decrease in impurity of a random forest (Breiman 2001), since the default of Optuna 2,
    fANOVA, fails with the trees of scikit-learn 1.3 and later. Empty if parameters or values do not
    vary.
    """
    common = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    varied = {tuple(trial.params[name] for name in sorted(common)) for trial in complete}
    if not common or len(varied) < 2 or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
    return dict(
        optuna.importance.get_param_importances(study, evaluator=evaluator, params=sorted(common))
    )


def _row(trial: FrozenTrial) -> TrialRow:
    values = tuple(trial.values or ())
    if trial.state is TrialState.PRUNED and trial.last_step is not None:
        last = trial.intermediate_values[trial.last_step]
        values = (trial.user_attrs.get(MEAN_SO_FAR, last),)
    seconds = None if trial.duration is None else trial.duration.total_seconds()
    return TrialRow(
        trial.number,
        trial.state.name.lower(),
        values,
        trial.params,
        seconds,
        failure_reason(trial) or ", ".join(f"not {name}" for name in violated(trial)) or None,
    )


def print_summary(result: StudyResult, directory: Path) -> None:
    """Print the number of trials by state, and the best trial or the Pareto front as a table."""
    states = [trial.state for trial in result.trials if trial.state != "waiting"]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"\nstudy {result.name}: {len(states)} trials ({counts or 'none'})")
    by_number = {trial.number: trial for trial in result.trials}
    best = [by_number[number] for number in result.best]
    if len(result.objectives) > 1 and best:
        _print_front(result, best)
    for trial in best if len(result.objectives) == 1 else ():
        params = " ".join(f"{name}={_number(value)}" for name, value in trial.params.items())
        print(
            f"best trial {trial.number}: {result.objectives[0]} {trial.values[0]:.4g}  ({params})"
        )
    print(f"sweep: {directory} (trials.csv, best.yaml with the command, plots/)")


def _print_front(result: StudyResult, best: list[TrialRow]) -> None:
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    table = Table(title="Pareto front")
    table.add_column("trial", justify="right")
    for name, direction in zip(result.objectives, result.directions, strict=True):
        table.add_column(f"{_wrapped(name)}\n({direction})", justify="right")
    for name in names:
        table.add_column(_wrapped(name), justify="right")
    for trial in sorted(best, key=lambda trial: trial.values[0], reverse=True):
        values = [_number(value) for value in trial.values]
        params = [_number(trial.params.get(name, "")) for name in names]
        table.add_row(str(trial.number), *values, *params)
    # wider than the terminal if necessary: it wraps lines, while rich would cut cells off
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(needed, Console().width)).print(table)


def _wrapped(name: str) -> str:
    """Break a name after each slash and dot, so that many columns fit side by side."""
    return re.sub(r"([/.])", r"\1\n", name)


def _number(value: object) -> str:
    """Format a float with four significant digits, and any other value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
