"""Initial weights of training: `init_from`."""

from __future__ import annotations

import logging
from pathlib import Path

from neuro.errors import CheckpointError
from neuro.experiment.experiment import Experiment
from neuro.models.base import CoreModel
from neuro.models.file import read as read_model
from neuro.models.weights import load_weights, load_what_fits
from neuro.runs.directory import checkpoint_path, load_checkpoint
from neuro.runs.record import is_run, latest_run
from neuro.runs.resume import locate

log = logging.getLogger("neuro")


def settled(experiment: Experiment) -> Experiment:
    """Replace `init_from=latest` by the newest completed training run.

    config.yaml then names the run, so that a resumed run starts from the same weights.
    """
    if experiment.init_from != "latest":
        return experiment
    run = latest_run(experiment.runs_dir, accept=lambda run: run.meta.get("mode") == "train")
    return experiment.changed({"init_from": str(run.path)})


def initialise(experiment: Experiment, model: CoreModel) -> tuple[str, ...]:
    """Load the weights of `init_from`, if it is set; returns notes for the user."""
    if experiment.init_from is None:
        return ()
    path = Path(experiment.init_from)
    notes: tuple[str, ...] = ()
    if path.is_file() and not is_run(path.parent.parent):
        try:
            weights = read_model(path).weights
        except CheckpointError as error:
            raise CheckpointError(
                f"init_from: {error} Give a run, one of its checkpoints or its model.safetensors."
            ) from error
    else:
        location = locate(experiment.init_from, "init_from")
        path = location.checkpoint or checkpoint_path(location.directory, experiment.checkpoint)
        state, notes = load_checkpoint(path)
        weights = state["model"]
    left: list[str] = []
    if not experiment.init_strict:
        left = load_what_fits(model, weights)
    else:
        try:
            load_weights(model, weights, str(path))
        except CheckpointError as error:
            raise CheckpointError(f"{error} init_strict=false takes what fits.") from error
    log.info("Starting from the weights of %s", path)
    return (*notes, *(f"init_strict=false: not taken from {path}: {line}" for line in left))
