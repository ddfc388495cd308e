"""Classes that have moved: paths in the configs of older runs, and where each class is now.

Saved configs and model files name classes by their path, and must stay readable.
"""

from __future__ import annotations

from typing import Final

CLASSES: Final = {
    "neuro.data.hdf5.Hdf5Sequences": "neuro.data.sequences.hdf5.Hdf5Sequences",
    "neuro.data.temporal_digits.TemporalDigits": "neuro.data.images.temporal_digits.TemporalDigits",
    "neuro.data.temporal_mnist.TemporalMnist": "neuro.data.images.temporal_mnist.TemporalMnist",
    "neuro.hardware.loihi2.Loihi2": "neuro.hardware.loihi2.target.Loihi2",
    "neuro.models.soen.SOEN": "neuro.models.soen.model.SOEN",
    "neuro.training.callbacks.pruning.Pruning": "neuro.search.pruning.Pruning",
}
