"""Run a model on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from neuro.data.base import Batch
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Padded


def run(
    model: CoreModel,
    batch: Batch,
    state: Any = None,
    record: Sequence[str] = (),
    weights: Mapping[str, Tensor] | None = None,
) -> ModelOutput:
    """The model's output for a batch; models that take the lengths of sequences get them.

    weights: tensors in place of parameters of these names.
    """
    options: dict[str, Any] = {"dt_ms": batch.dt_ms, "record": record}
    if batch.lengths is not None and isinstance(model, Padded):
        options["lengths"] = batch.lengths
    arguments = (batch.sequence(), state)
    if not weights:
        output: ModelOutput = model(*arguments, **options)
        return output
    output = functional_call(model, dict(weights), arguments, options)
    return output


def mean_activity(record_TB: Tensor, lengths_B: Tensor | None = None) -> Tensor:
    """Mean magnitude of each unit over the steps and sequences of a record `[T, B, ...]`: `[...]`.

    lengths_B: steps of each sequence; None: all.
    """
    if lengths_B is None:
        return record_TB.abs().mean((0, 1))
    steps = torch.arange(len(record_TB), device=record_TB.device)
    own_TB = steps[:, None] < lengths_B
    return record_TB[own_TB].abs().sum(0) / own_TB.sum()
