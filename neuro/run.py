"""Entry of a composed run: checks the config and calls the function of its `mode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from neuro.config.experiment import Mode
from neuro.errors import ConfigError
from neuro.experiment.context import RunContext, read_experiment
from neuro.experiment.experiment import Experiment
from neuro.runs.directory import discard_unused
from neuro.runtime import processes


def modes() -> Mapping[Mode, Callable[[Experiment, RunContext], float | None]]:
    """The function of each mode; a number that it returns is the value that a sweep optimises.

    Imported here, after the config has been parsed, because a config error needs none of them.
    """
    from neuro.experiment.check import check
    from neuro.experiment.evaluate import evaluate
    from neuro.experiment.lr_find import find_lr
    from neuro.experiment.opc import optimise_masks
    from neuro.experiment.predict import predict
    from neuro.experiment.train import train

    return {
        "train": train,
        "evaluate": evaluate,
        "predict": predict,
        "check": check,
        "lr_find": find_lr,
        "opc": optimise_masks,
    }


def run(context: RunContext) -> float | None:
    """Check the composed config and run its `mode`.

    Raises ConfigError with every problem of the config. Training and opc return their objective,
    lr_find its suggestion.
    """
    try:
        experiment = read_experiment(context)
        if processes.started_by_torchrun() and experiment.mode != "train":
            raise ConfigError(f"mode={experiment.mode}: takes one process; start it with python.")
        return modes()[experiment.mode](experiment, context)
    finally:
        discard_unused(context.directory)
