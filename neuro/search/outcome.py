"""How a search ended: its study as plain values, and the table that is printed."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from neuro.search.results import SearchResult, TrialRow
from neuro.search.study import reason_of


def result_of(study: optuna.Study, objectives: tuple[str, ...]) -> SearchResult:
    """The study as plain values."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    single = len(study.directions) == 1
    best = [] if not complete else [study.best_trial] if single else study.best_trials
    return SearchResult(
        study.study_name,
        objectives,
        tuple(direction.name.lower() for direction in study.directions),
        [_row(trial) for trial in study.get_trials(deepcopy=False)],
        [trial.number for trial in best],
        _importance(study, complete) if single else {},
    )


def _importance(study: optuna.Study, complete: list[FrozenTrial]) -> dict[str, float]:
    """Shares of the parameters that all complete trials have; empty if there is nothing to tell."""
    shared = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    varied = {tuple(trial.params[name] for name in sorted(shared)) for trial in complete}
    if not shared or len(varied) < 2 or len({trial.value for trial in complete}) < 2:
        return {}
    # optuna 2's default, fANOVA, fails with the trees of scikit-learn from 1.3 on
    evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(
        study, evaluator=evaluator, params=sorted(shared)
    )
    return dict(shares)


def _row(trial: FrozenTrial) -> TrialRow:
    values = tuple(trial.values or ())
    if trial.state is TrialState.PRUNED and trial.last_step is not None:
        values = (trial.intermediate_values[trial.last_step],)
    seconds = None if trial.duration is None else trial.duration.total_seconds()
    return TrialRow(
        trial.number, trial.state.name.lower(), values, trial.params, seconds, reason_of(trial)
    )


def tell(result: SearchResult, directory: Path) -> None:
    """Print how many trials ended how, and the best: one, or the Pareto front as a table."""
    states = [trial.state for trial in result.trials if trial.state != "waiting"]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"\nstudy {result.name}: {len(states)} trials ({counts or 'none'})")
    by_number = {trial.number: trial for trial in result.trials}
    best = [by_number[number] for number in result.best]
    if len(result.objectives) > 1 and best:
        _print_front(result, best)
    for trial in best if len(result.objectives) == 1 else ():
        params = " ".join(f"{name}={_shown(value)}" for name, value in trial.params.items())
        print(
            f"best trial {trial.number}: {result.objectives[0]} {trial.values[0]:.4g}  ({params})"
        )
    print(f"sweep: {directory} (trials.csv, best.yaml with the command, plots/)")


def _print_front(result: SearchResult, best: list[TrialRow]) -> None:
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    table = Table(title="Pareto front: no other trial is better in everything")
    table.add_column("trial", justify="right")
    for name, direction in zip(result.objectives, result.directions, strict=True):
        table.add_column(f"{_broken(name)}\n({direction})", justify="right")
    for name in names:
        table.add_column(_broken(name), justify="right")
    for trial in sorted(best, key=lambda trial: trial.values[0], reverse=True):
        values = [_shown(value) for value in trial.values]
        params = [_shown(trial.params.get(name, "")) for name in names]
        table.add_row(str(trial.number), *values, *params)
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(needed, Console().width)).print(table)  # rather wrapped than cut off


def _broken(name: str) -> str:
    """A name over several lines, so that many columns fit side by side."""
    return re.sub(r"([/.])", r"\1\n", name)


def _shown(value: object) -> str:
    """A value with as many digits as people read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
