"""Local rules for the readout: the delta rule and the streaming discriminant.

Both use the readout's inputs (record `features`) and need no graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.layers.readout import DiscriminantReadout, LinearReadout
from neuro.learning.buffers import BufferUpdate
from neuro.learning.losses.cross_entropy import keep_present
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.running import run
from neuro.runtime.distributed import batch_means


class ReadoutRule(Term):
    """A rule for the `readout` of a model that records its inputs as `features`."""

    needs_graph = False
    readout_type: type = LinearReadout
    option = "linear"

    def records(self, model: CoreModel) -> tuple[str, ...]:
        return ("features",)

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if not isinstance(getattr(model, "readout", None), self.readout_type):
            raise ConfigError(
                f"{type(self).__name__} trains a {self.readout_type.__name__}, which "
                f"{type(model).__name__} does not have here. model.readout alone does not "
                "change the terms; readout=linear, readout=delta or readout=discriminant set both."
            )
        if spec.targets.kind != "class":
            raise ConfigError(
                f"{type(self).__name__} needs one class per sequence; task '{spec.task}' has "
                f"targets of kind '{spec.targets.kind}'."
            )
        if spec.partly_labelled:
            raise ConfigError(
                f"{type(self).__name__} needs a class for every sample; task '{spec.task}' has "
                "training samples without one (teacher_mixtures makes such)."
            )


class DeltaRule(ReadoutRule):
    """Softmax error times presynaptic rate (Widrow and Hoff 1960 with a softmax).

    The direction for the weights is (softmax(s) - onehot) x^T, batch mean. `normalise` divides by
    the mean squared length of x, which makes the rate independent of the number of features
    (normalised LMS). With `present_only` classes that are not in the batch do not change.
    """

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        present_only: bool = False,
        normalise: bool = True,
        decay: Annotated[float, Ge(0)] = 1e-4,
    ):
        super().__init__(weight)
        self.present_only = present_only
        self.normalise = normalise
        self.decay = decay

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        readout: LinearReadout = model.readout  # type: ignore[assignment]
        with torch.no_grad():
            x = output.records["features"].float()
            scores = output.values.float()
            if self.present_only:
                scores = keep_present(scores, batch.targets)
            error = scores.softmax(-1) - F.one_hot(batch.targets, scores.shape[-1])
            direction = error.T @ x / len(x)
            if self.normalise:
                (length,) = batch_means([x.square().sum(1).mean()], len(x))
                direction = direction / length.clamp_min(1e-12)
            direction = direction + self.decay * readout.weight
            bias_direction = error.mean(0)
        loss = (direction * readout.weight).sum() + (bias_direction * readout.bias).sum()
        return TermOutput(loss)


class Discriminant(ReadoutRule):
    """Running moments of the features for a `DiscriminantReadout`, without a gradient.

    After a phase the moments are computed again in one pass over its training data, because lower
    layers may have changed during training.
    """

    readout_type = DiscriminantReadout
    option = "discriminant"

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(f"readout.{name}" for name in DiscriminantReadout.MOMENTS)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        moments = _readout(model).moments(output.records["features"], batch.targets)
        return TermOutput(
            output.values.new_zeros(()),
            {
                f"readout.{name}": BufferUpdate(value, reduce="sum")
                for name, value in moments.items()
            },
        )

    @torch.no_grad()
    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        readout = _readout(model)
        readout.begin()
        for batch in batches:
            output = run(model, batch, record=("features",))
            moments = readout.moments(output.records["features"], batch.targets)
            for name, value in moments.items():
                getattr(readout, name).add_(value)
        readout.settle()


def _readout(model: CoreModel) -> DiscriminantReadout:
    readout = model.readout
    assert isinstance(readout, DiscriminantReadout)
    return readout
