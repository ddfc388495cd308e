"""What `launch.py` calls: the function of the mode that the config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from neuro.config.experiment import Mode
from neuro.errors import ConfigError
from neuro.experiment.check import check
from neuro.experiment.context import RunContext, read_experiment
from neuro.experiment.evaluate import evaluate
from neuro.experiment.experiment import Experiment
from neuro.experiment.lr_find import find_lr
from neuro.experiment.predict import predict
from neuro.experiment.train import train
from neuro.runs.directory import discard_unused
from neuro.runtime import processes

#: what each mode does; the number it returns, if any, is what a sweep optimises
MODES: Mapping[Mode, Callable[[Experiment, RunContext], float | None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "check": check,
    "lr_find": find_lr,
}


def run(context: RunContext) -> float | None:
    """Check the composed config and do what its `mode` says.

    Raises ConfigError with every problem of the config. Training returns its objective, lr_find
    its suggestion.
    """
    try:
        experiment = read_experiment(context)
        if processes.started_by_torchrun() and experiment.mode != "train":
            raise ConfigError(f"mode={experiment.mode}: takes one process; start it with python.")
        return MODES[experiment.mode](experiment, context)
    finally:
        discard_unused(context.directory)
