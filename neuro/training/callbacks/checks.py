"""Checks of an experiment's callbacks before any training: problems, and notes of no effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from neuro.models.base import CoreModel
from neuro.models.capabilities import Constrained, unmet
from neuro.training.callbacks.base import Callback, Setup


def inapplicable(callbacks: Mapping[str, Callback], model: CoreModel) -> dict[str, str]:
    """The optional callbacks that a model cannot have, with a note that says so."""
    return {
        name: f"{problem} It is left out."
        for name, callback in callbacks.items()
        if callback.optional
        for problem in unmet(
            model, callback.requires, f"callbacks.{name}: {type(callback).__name__}"
        )
    }


def check_callbacks(setup: Setup) -> Iterator[str]:
    """Problems of an experiment's callbacks with its model and the rest of it."""
    for name, callback in setup.callbacks.items():
        path = f"callbacks.{name}"
        lacking = list(unmet(setup.model, callback.requires, f"{path}: {type(callback).__name__}"))
        if lacking:
            yield from (f"{problem} Leave it out of the list of callbacks." for problem in lacking)
            continue
        for problem in callback.check(setup):
            yield f"{path}{problem}" if problem.startswith(":") else f"{path}.{problem}"
    constrained = setup.model.constrained if isinstance(setup.model, Constrained) else ()
    if constrained and not any(
        callback.enforces_constraints for callback in setup.callbacks.values()
    ):
        yield (
            f"callbacks: none enforces the constraints on {', '.join(constrained)} of "
            f"{type(setup.model).__name__}; add the callback constraints."
        )


def callback_notes(setup: Setup) -> Iterator[str]:
    """Notes on settings with which callbacks have no effect; they do not prevent training."""
    for name, callback in setup.callbacks.items():
        yield from (f"callbacks.{name}: {note}" for note in callback.notes(setup))
