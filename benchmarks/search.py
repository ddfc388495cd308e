"""What a search costs and saves: overhead per trial, steps that pruning saves, two workers.

- overhead: processor and wall time between one trial's run and the next, in one process
- ask: time in which a study of 1000 trials proposes another one, with TPE, by storage
- pruning: the same search with the same seed, without pruning and with each pruner
- workers: a search with two workers on two cores against one, with one torch thread each

python -m benchmarks.search [overhead|ask|pruning|workers]
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import optuna

import launch
from neuro import run as runs
from neuro.search.space import parse_space
from neuro.search.storage import close_storage, open_storage, storage_url
from neuro.search.study import StudySpec, ask, open_study

ROOT = Path(__file__).resolve().parents[1]

#: a run of a second: a linear readout of the digits' pixels, whose rate decides everything
PIXELS = (
    "model=pixels",
    "rule=surrogate",
    "readout=linear",
    "phase=task1",
    "phase.task1.task=all",
    "phase.task1.evaluate=all",
    "tracking=none",
    "optimizer.lr=tag(log,interval(0.000001,1.0))",
)
EPOCHS = 12
PRUNERS = ("none", "median", "halving")


class Overhead(NamedTuple):
    """Median seconds from the end of one trial's run to the beginning of the next."""

    wall_s: float
    processor_s: float


def _search(directory: Path, *overrides: str) -> None:
    """`python launch.py -m ...` in this process, silently."""
    search = ("-m", "hydra/sweeper=neuro", f"hydra.sweep.dir={directory}")
    with (
        mock.patch.object(sys, "argv", ["launch.py", *search, *overrides]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        code = launch.command_line()
    if code:
        raise RuntimeError(errors.getvalue())


def overhead(trials: int = 25) -> Overhead:
    """A search of short trials, from the time between them."""
    ends: list[tuple[float, float]] = []
    gaps: list[tuple[float, float]] = []
    original: Callable[..., Any] = runs.run

    def timed(*arguments: Any) -> Any:
        if ends:
            wall, processor = ends[-1]
            gaps.append((time.perf_counter() - wall, time.process_time() - processor))
        try:
            return original(*arguments)
        finally:
            ends.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as root, mock.patch.object(runs, "run", timed):
        small = ("data.limit_train=64", "phase.task1.epochs=1", "callbacks=[]")
        _search(Path(root) / "s", *PIXELS, *small, f"hydra.sweeper.n_trials={trials}")
    walls, processors = zip(*gaps, strict=True)
    return Overhead(statistics.median(walls), statistics.median(processors))


def proposal_ms(storage: str | None, stored: int = 1000, asked: int = 15) -> float:
    """Median milliseconds of a proposal of three parameters, with a number of stored trials.

    - `storage`: `hydra.sweeper.storage`
    """
    space = parse_space(
        {
            "lr": "tag(log,interval(0.001,0.1))",
            "units": "choice(16,32,64)",
            "decay": "interval(0.0,1.0)",
        },
        (),
        (),
    )
    spec = StudySpec("ask", space.as_text(), ("accuracy",), ("maximize",), "", False)
    with tempfile.TemporaryDirectory() as root:
        study = open_study(storage_url(storage, Path(root)), spec)
        source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(stored):
            trial = source.ask()
            source.tell(trial, sum(float(str(value)) for value in space.suggest(trial).values()))
        study.add_trials(source.trials)
        study.sampler = optuna.samplers.TPESampler(seed=0)
        seconds = []
        for _ in range(asked):
            started = time.perf_counter()
            trial = ask(study)
            space.suggest(trial)
            seconds.append(time.perf_counter() - started)
            study.tell(trial, 0.0)
        close_storage(study.storage)
    return 1000 * statistics.median(seconds)


class Pruned(NamedTuple):
    """A search: updates of all trials together, and its best value."""

    updates: int
    best: float


def pruning(trials: int = 40) -> dict[str, Pruned]:
    """The same search with each pruner; the sampler is the default one with the same seed."""
    found = {}
    for pruner in PRUNERS:
        chosen = ["callbacks=[]"]
        if pruner != "none":
            chosen = ["callbacks=[pruning]", f"callbacks.pruning.pruner={pruner}"]
        with tempfile.TemporaryDirectory() as root:
            directory = Path(root) / "s"
            _search(
                directory,
                *PIXELS,
                *chosen,
                f"phase.task1.epochs={EPOCHS}",
                "trainer.validation.epochs=1",
                f"hydra.sweeper.n_trials={trials}",
            )
            found[pruner] = Pruned(_updates(directory), _best(directory))
    return found


def _updates(directory: Path) -> int:
    """Updates of all trials: those of the first, and of a pruned one those until its end."""
    storage = open_storage(storage_url(None, directory))
    study = optuna.load_study(study_name=directory.name, storage=storage)
    metrics = (directory / "0" / "metrics.jsonl").read_text().splitlines()
    whole = max(json.loads(line)["step"] for line in metrics)
    pruned = [t.last_step for t in study.trials if t.state is optuna.trial.TrialState.PRUNED]
    return whole * (len(study.trials) - len(pruned)) + sum(step or 0 for step in pruned)


def _best(directory: Path) -> float:
    with open(directory / "trials.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    return max(float(row["test/accuracy"]) for row in rows)


class Workers(NamedTuple):
    """Seconds of a search, and of its shortest trial, with one worker and with two."""

    one_s: float
    two_s: float
    shortest_trial_s: float


def workers(trials: int = 4) -> Workers:
    """The same random search with one worker and with two, start-up included."""
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as root:
        for jobs in (1, 2):
            directory = Path(root) / str(jobs)
            parallel = ["hydra/launcher=joblib", "hydra.sweeper.n_jobs=2"] if jobs > 1 else []
            command = [
                sys.executable,
                str(ROOT / "launch.py"),
                "-m",
                "hydra/sweeper=neuro",
                "experiment=ltgate_surrogate",
                "phase=task1",
                "phase.task1.epochs=3",
                "tracking=none",
                "callbacks=[calibration]",
                "hydra/sweeper/sampler=random",
                "optimizer.lr=tag(log,interval(0.001,0.01))",
                f"hydra.sweep.dir={directory}",
                f"hydra.sweeper.n_trials={trials}",
                *parallel,
            ]
            started = time.perf_counter()
            subprocess.run(
                command,
                cwd=root,
                check=True,
                capture_output=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            seconds[jobs] = time.perf_counter() - started
        with open(Path(root) / "1" / "trials.csv", newline="") as file:
            shortest = min(float(row["seconds"]) for row in csv.DictReader(file))
    return Workers(seconds[1], seconds[2], shortest)


def main(*parts: str) -> None:
    print("Search")
    if not parts or "overhead" in parts:
        cost = overhead()
        print(
            f"overhead between two trials   {cost.wall_s:6.2f} s, of which the processor "
            f"{cost.processor_s:.2f} s"
        )
    if not parts or "ask" in parts:
        for storage in (None, "journal"):
            taken = proposal_ms(storage)
            print(f"proposal after 1000 trials, {storage or 'sqlite':8} {taken:5.0f} ms")
    if not parts or "pruning" in parts:
        found = pruning()
        whole = found["none"]
        for name, search in found.items():
            saved = 1 - search.updates / whole.updates
            print(
                f"pruner {name:8} {search.updates:8} updates ({saved:6.1%} saved), best "
                f"{search.best:.4f} ({search.best / whole.best - 1:+.2%})"
            )
    if not parts or "workers" in parts:
        times = workers()
        print(
            f"two workers {times.two_s:.0f} s, one {times.one_s:.0f} s: "
            f"{times.two_s / times.one_s:.0%} (trials of {times.shortest_trial_s:.0f} s and more)"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
