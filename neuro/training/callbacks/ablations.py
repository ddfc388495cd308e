"""Validations and tests with parts of the model switched off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from annotated_types import Gt, MinLen

from neuro.errors import nearest
from neuro.learning.continual.metrics import continual_metrics, scalars
from neuro.models.base import CoreModel
from neuro.runtime.output import record_printed
from neuro.training.callbacks.base import Callback, Setup, TrainerView

#: row of the whole model in the tables
_WHOLE = "all of it"


class Ablations(Callback):
    """Measures the trained model with other phase flags, without training anything.

    `without` has a name for each set of flags, as in `{pm: {use_pm: false}}`. Every `every_steps`
    updates metrics are logged as `val_without_<name>/...`; after each phase a table of the main
    metric is printed, and the report has `test_without_<name>/<task>/<metric>`. After a curriculum
    it has the measures of continual learning, too: `continual_without_<name>/<measure>`.
    """

    def __init__(
        self,
        without: Annotated[dict[str, dict[str, bool]], MinLen(1)],
        every_steps: Annotated[int, Gt(0)] | None = 1000,
    ):
        self.without = without
        self.every_steps = every_steps
        # the main metric after each phase by task, for each row of the table
        self._rows: dict[str, list[dict[str, float]]] = {}

    def check(self, setup: Setup) -> Iterator[str]:
        known, model = setup.model.phase_flags, type(setup.model).__name__
        if not known:
            yield f"without: {model} has no phase flags. Leave ablations out of callbacks=[...]."
            return
        for name, flags in self.without.items():
            for flag in flags:
                if flag not in known:
                    yield (
                        f"without.{name}.{flag}: {model} has no such phase flag. Allowed: "
                        f"{', '.join(known)}.{nearest(flag, known)}"
                    )
            for problem in setup.model.flag_problems(flags):
                yield f"without.{name}.{problem}"

    def reports(self, setup: Setup) -> Iterator[str]:
        for name, flags in self.without.items():
            if _switches(setup.model, flags):
                for task in setup.plan[-1].evaluate:
                    yield from (f"test_without_{name}/{task}/{m}" for m in setup.settings.measures)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self.every_steps is None or trainer.progress.step % self.every_steps:
            return
        for name, flags in self.without.items():
            if _switches(trainer.model, flags):
                with flagged(trainer.model, flags):
                    trainer.log(trainer.validate(f"val_without_{name}"))

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        phase, score = trainer.phase, trainer.objective.main_metric
        whole = {task: metrics[f"test/{task}/{score}"] for task in phase.evaluate}
        self._add(_WHOLE, whole, trainer)
        for name, flags in self.without.items():
            if not _switches(trainer.model, flags):
                self._add(_without(name), whole, trainer)
                continue
            with flagged(trainer.model, flags):
                found = trainer.measure(phase.evaluate, "test")
            trainer.add_to_report(
                {
                    f"test_without_{name}/{task}/{metric}": value
                    for task, row in found.items()
                    for metric, value in row.items()
                }
            )
            self._add(_without(name), {task: row[score] for task, row in found.items()}, trainer)
        measures = self._continual(trainer) if phase.index == len(trainer.plan) - 1 else {}
        for name in self.without if measures else ():
            found_measures = measures[_without(name)]
            trainer.add_to_report(
                {f"continual_without_{name}/{key}": v for key, v in found_measures.items()}
            )
        if trainer.is_main:
            _print(f"{score} after phase {phase.name}", {k: v[-1] for k, v in self._rows.items()})
            if measures:
                _print(f"continual learning, {score}", measures)

    def _add(self, title: str, row: dict[str, float], trainer: TrainerView) -> None:
        """Keep a row, in the place of those of a phase that is trained again after a resume."""
        kept = self._rows.setdefault(title, [])
        del kept[trainer.phase.index :]
        kept.append(row)

    def _continual(self, trainer: TrainerView) -> dict[str, dict[str, float]]:
        """Measures of the curriculum for each row of the table.

        Empty if there is one phase only, or if phases were tested on different tasks.
        """
        tasks = list(trainer.phase.evaluate)
        learned = [phase.tasks for phase in trainer.plan]
        direction = trainer.objective.directions[trainer.objective.main_metric]
        found: dict[str, dict[str, float]] = {}
        for title, rows in self._rows.items():
            if not 1 < len(learned) == len(rows) or any(set(row) != set(tasks) for row in rows):
                return {}
            matrix = [[row[task] for task in tasks] for row in rows]
            measures = scalars(continual_metrics(tasks, matrix, learned, direction=direction))
            found[title] = {key.removeprefix("continual/"): v for key, v in measures.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = state["rows"]


def _switches(model: CoreModel, flags: Mapping[str, bool]) -> bool:
    """Whether a model has other values of these flags; `check` reports those that it lacks."""
    return any(getattr(model, flag, value) != value for flag, value in flags.items())


@contextmanager
def flagged(model: CoreModel, flags: Mapping[str, bool]) -> Iterator[None]:
    """A context in which a model has other phase flags."""
    before = {name: getattr(model, name) for name in flags}
    model.set_phase(**flags)
    try:
        yield
    finally:
        model.set_phase(**before)


def _without(name: str) -> str:
    return f"without {name}"


def _print(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a row of values for each name."""
    from neuro.analysis.compare.formats import terminal
    from neuro.analysis.compare.tables import Table

    columns = list(next(iter(rows.values())))
    cells = tuple((name, *(f"{row[key]:.4g}" for key in columns)) for name, row in rows.items())
    text = terminal(Table(title, ("model", *columns), cells))
    print(text, flush=True)
    record_printed(text)
