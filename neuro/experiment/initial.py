"""The weights that training starts from: `init_from`."""

from __future__ import annotations

import logging

from neuro.errors import CheckpointError
from neuro.experiment.experiment import Experiment
from neuro.models.base import CoreModel
from neuro.models.weights import load_weights, load_what_fits
from neuro.runs.directory import checkpoint_path, load_checkpoint
from neuro.runs.record import latest_run
from neuro.runs.resume import locate

log = logging.getLogger("neuro")


def settled(experiment: Experiment) -> Experiment:
    """The experiment with the newest completed training run in the place of `init_from=latest`.

    The choice is kept in config.yaml, so a resumed run starts from the same weights.
    """
    if experiment.init_from != "latest":
        return experiment
    run = latest_run(experiment.runs_dir, accept=lambda run: run.meta.get("mode") == "train")
    return experiment.changed({"init_from": str(run.path)})


def initialise(experiment: Experiment, model: CoreModel) -> tuple[str, ...]:
    """Load the weights of `init_from`, if it is set; returns notes for the user."""
    if experiment.init_from is None:
        return ()
    location = locate(experiment.init_from, "init_from")
    path = location.checkpoint or checkpoint_path(location.directory, experiment.checkpoint)
    state, notes = load_checkpoint(path)
    left: list[str] = []
    if not experiment.init_strict:
        left = load_what_fits(model, state["model"])
    else:
        try:
            load_weights(model, state["model"], str(path))
        except CheckpointError as error:
            raise CheckpointError(f"{error} init_strict=false takes what fits.") from error
    log.info("Starting from the weights of %s", path)
    return (*notes, *(f"init_strict=false: not taken from {path}: {line}" for line in left))
