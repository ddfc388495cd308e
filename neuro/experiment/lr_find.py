"""mode=lr_find: the learning-rate range test on the first phase, without training.

One device is enough: a search sees the same batches whatever the number of devices.
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
    """Print the rates that a search suggests, and draw it in `plots` of the run's directory.

    It starts from the weights that training would start from. Callbacks that write or print have no
    part in it. Returns the suggestion, None without one.
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
        (dataclasses.replace(first, evaluate=first.tasks),),  # nothing else is tested before
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
