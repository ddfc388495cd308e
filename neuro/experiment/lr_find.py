"""mode=lr_find: learning-rate range test on the first phase, without training.

It uses one device, because its batches do not depend on the number of devices.
"""

from __future__ import annotations

import dataclasses
import logging

from neuro.experiment.assembly import assemble
from neuro.experiment.context import RunContext
from neuro.experiment.devices import make_fabric
from neuro.experiment.experiment import Experiment
from neuro.experiment.initial import initialise, settled
from neuro.runs.directory import check_unused
from neuro.runs.naming import shown
from neuro.tracking.base import Trackers

log = logging.getLogger("neuro")


def find_lr(experiment: Experiment, context: RunContext) -> float | None:
    """Print the suggested rates, and plot the search in `plots` of the run's directory.

    The search starts from the initial weights of training, without callbacks that write or print.
    Returns the suggestion, None without one.
    """
    from neuro.training.trainer import Trainer  # it imports Fabric

    check_unused(context.directory)
    experiment = settled(experiment)
    parts = assemble(experiment)
    for note in initialise(experiment, parts.model):
        log.warning(note)
    first = parts.plan[0]
    trainer = Trainer(
        make_fabric(experiment.hardware.first, experiment.trainer.scaler),
        parts.model,
        parts.data,
        parts.objective,
        (dataclasses.replace(first, evaluate=first.tasks),),  # no other task is needed
        parts.settings,
        {name: cb for name, cb in parts.callbacks.items() if not cb.main_process_only},
        Trackers([]),
        context.directory,
        pretrained=experiment.init_from is not None,
        compiled=experiment.hardware.compile_,
    )
    search = trainer.find_lr()
    for line in search.lines():
        log.info("%s", line)
    if search.suggestion is None and not parts.objective.needs_graph:
        log.warning(
            "loss=[%s] are local rules: hardly anything that they change depends on a rate. "
            "Search with gradients, as with rule=surrogate readout=linear or "
            "experiment=ltgate_surrogate; the local rule keeps optimizer.lr=0.01.",
            ",".join(parts.objective.named_terms()),
        )
    log.info("plot: %s", shown(search.save_plot(context.directory / "plots" / "lr_find.png")))
    return search.suggestion
