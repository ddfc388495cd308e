"""Entry of a composed run: checks the config and calls the function of its `mode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name

from neuro.config.modes import Mode
from neuro.errors import ConfigError
from neuro.experiment.context import RunContext, read_experiment
from neuro.experiment.experiment import Experiment
from neuro.runs.directory import discard_unused
from neuro.runtime import processes

#: the function of each mode. A number that it returns is the value that a sweep optimises. It is
#: imported after the config has been parsed: a config error needs none of them, a run only its own
MODES: Mapping[Mode, str] = {
    "train": "neuro.experiment.train:train",
    "evaluate": "neuro.experiment.evaluate:evaluate",
    "predict": "neuro.experiment.predict:predict",
    "generate": "neuro.experiment.generate:generate",
    "export": "neuro.experiment.export:export",
    "benchmark": "neuro.experiment.benchmark:benchmark",
    "check": "neuro.experiment.check:check",
    "lr_find": "neuro.experiment.lr_find:find_lr",
    "opc": "neuro.experiment.opc:optimise_masks",
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
        function: Callable[[Experiment, RunContext], float | None]
        function = resolve_name(MODES[experiment.mode])
        return function(experiment, context)
    finally:
        discard_unused(context.directory)
