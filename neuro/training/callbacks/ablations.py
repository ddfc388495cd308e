"""Validations and tests with parts of the model switched off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from annotated_types import Gt, MinLen

from neuro.errors import nearest
from neuro.models.base import CoreModel
from neuro.runtime.output import record_printed
from neuro.training.callbacks.base import Callback, Setup, TrainerView


class Ablations(Callback):
    """Measures the trained model with other phase flags, without training anything.

    `without` has a name for each set of flags, as in `{pm: {use_pm: false}}`. Every `every_steps`
    updates metrics are logged as `val_without_<name>/...`; after each phase the report has
    `test_without_<name>/<task>/<metric>`, and a table of the main metric is printed at the end.
    """

    def __init__(
        self,
        without: Annotated[dict[str, dict[str, bool]], MinLen(1)],
        every_steps: Annotated[int, Gt(0)] | None = 1000,
    ):
        self.without = without
        self.every_steps = every_steps

    def check(self, setup: Setup) -> Iterator[str]:
        known = setup.model.phase_flags
        for name, flags in self.without.items():
            for flag in flags:
                if flag not in known:
                    yield (
                        f"without.{name}.{flag}: {type(setup.model).__name__} has no such phase "
                        f"flag. Allowed: {', '.join(known) or 'none'}.{nearest(flag, known)}"
                    )
                    return
            for problem in setup.model.flag_problems(flags):
                yield f"without.{name}.{problem}"

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self.every_steps is None or trainer.progress.step % self.every_steps:
            return
        for name, flags in self.without.items():
            with flagged(trainer.model, flags):
                trainer.log(trainer.validate(f"val_without_{name}"))

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        phase, score = trainer.phase, trainer.objective.main_metric
        rows = {"all of it": {task: metrics[f"test/{task}/{score}"] for task in phase.evaluate}}
        for name, flags in self.without.items():
            with flagged(trainer.model, flags):
                found = trainer.measure(phase.evaluate, "test")
            trainer.add_to_report(
                {
                    f"test_without_{name}/{task}/{metric}": value
                    for task, row in found.items()
                    for metric, value in row.items()
                }
            )
            rows[f"without {name}"] = {task: row[score] for task, row in found.items()}
        if trainer.is_main:
            _print(f"{score} after phase {phase.name}", rows)


@contextmanager
def flagged(model: CoreModel, flags: Mapping[str, bool]) -> Iterator[None]:
    """A context in which a model has other phase flags."""
    before = {name: getattr(model, name) for name in flags}
    model.set_phase(**flags)
    try:
        yield
    finally:
        model.set_phase(**before)


def _print(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a row of values by task for each name."""
    from neuro.analysis.compare.formats import terminal
    from neuro.analysis.compare.tables import Table

    tasks = list(next(iter(rows.values())))
    cells = tuple((name, *(f"{row[task]:.4g}" for task in tasks)) for name, row in rows.items())
    text = terminal(Table(title, ("model", *tasks), cells))
    print(text, flush=True)
    record_printed(text)
