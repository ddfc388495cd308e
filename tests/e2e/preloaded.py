"""Imports of the server of `forked`, made before it forks: all that a training run needs."""

import neuro.experiment.train
import neuro.run
import neuro.training.trainer  # noqa: F401
from neuro.ops.kernels.launch import compiled

compiled("spiking")
