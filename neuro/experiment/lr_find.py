"""mode=lr_find: the learning-rate range test on the first phase, without training.

One device is enough: a search sees the same batches whatever the number of devices.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from neuro.experiment.assembly import Parts
from neuro.experiment.devices import make_fabric
from neuro.runs.naming import shown
from neuro.tracking.base import Trackers
from neuro.training.trainer import Trainer

log = logging.getLogger("neuro")


def show_rates(config: dict[str, Any], directory: Path, parts: Parts) -> float | None:
    """Print the rates that a search suggests, and draw it in `directory/plots`.

    Callbacks that write or print have no part in it. Returns the suggestion, None without one.
    """
    first = parts.plan[0]
    trainer = Trainer(
        make_fabric({**config["hardware"], "devices": 1}, config["trainer"].get("scaler")),
        parts.model,
        parts.data,
        parts.objective,
        (dataclasses.replace(first, evaluate=first.tasks),),  # nothing else is tested before
        parts.settings,
        {name: cb for name, cb in parts.callbacks.items() if not cb.main_process_only},
        Trackers([]),
        directory,
        pretrained=config["init_from"] is not None,
        compiled=config["hardware"]["compile"],
    )
    search = trainer.find_rate()
    for line in search.lines():
        log.info("%s", line)
    log.info("plot: %s", shown(search.save_plot(directory / "plots" / "lr_find.png")))
    return search.suggestion
