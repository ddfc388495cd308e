"""Loss terms: the contract of the summands of an objective.

A term is any `term(model, batch, output) -> TermOutput` whose loss has its gradient as descent
direction. Cross-entropy, regularisers and EWC are terms, and so are local rules: a Hebbian
direction d for weights W is the pseudo-loss sum(d * W) with d computed without a graph. Therefore
accumulation, clipping, mixed precision and several processes work alike for all of them.

Statistics that are no gradients (Oja vectors, gate variances, discriminant moments) are buffers: a
term returns their updates (`learning/buffers.py`), and the trainer applies them if the update is
finite. Rules that change weights by an amount of their own, not by a rate of the optimizer, return
updates of parameters in the same way.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, NamedTuple

from annotated_types import Ge
from torch import Tensor, nn

from neuro.data.base import Batch, TaskSpec
from neuro.data.uses import TargetKind, uses_of
from neuro.errors import ConfigError, nearest
from neuro.learning.buffers import BufferUpdate
from neuro.models.base import CoreModel, ModelOutput

#: number of values that a mean is over: a number, or a scalar tensor if it depends on a batch on a
#: device
Count = float | Tensor


class TermOutput(NamedTuple):
    """A term's scalar loss, updates of buffers or parameters, and values to log.

    Updates are by names within the model; `logged` are scalars by name, which appear as
    `train/<term>/<name>`, averaged like the loss.
    """

    loss: Tensor
    updates: Mapping[str, BufferUpdate] = {}
    logged: Mapping[str, Tensor] = {}


#: type of `Objective.pool`: maps outputs `[B, T, K]` and the lengths of sequences to pooled outputs
Pool = Callable[[Tensor, Tensor | None], Tensor]


class Term(nn.Module, ABC):
    """One summand of the objective."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: tuple[str, ...] = ()

    #: False for rules that work from a forward pass without a graph
    needs_graph = True

    #: kinds of targets that it can learn from; None if it does not use targets
    targets: tuple[TargetKind, ...] | None = None

    #: whether it learns from a teacher (`Batch.teacher`)
    uses_teacher = False

    #: whether it multiplies the losses of samples by `Batch.weights`
    uses_weights = False

    #: True if it has an effect only after the end of a phase; refused for a single phase
    needs_earlier_phase = False

    #: whether `change_gradient` changes the gradient of an update
    changes_gradient = False

    #: the objective's pooling over time, which the objective sets
    pool: Pool

    def __init__(self, weight: Annotated[float, Ge(0)] = 1.0):
        super().__init__()
        self.weight = weight

    def records(self, model: CoreModel) -> tuple[str, ...]:
        """Records of the model that the term needs. ConfigError if the model lacks them."""
        return ()

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        """Names of the model's buffers, or parameters, that the term updates without a gradient."""
        return ()

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        """Raise ConfigError if the term does not fit the model or the targets."""

    def count(self, batch: Batch, share: float = 1.0) -> Count:
        """Number of values that the loss of a batch is a mean over: samples by default.

        `share` is the fraction of the sequences' length that the batch holds.
        """
        return len(batch.targets) * share

    @abstractmethod
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        """The loss of one batch.

        `output.values` are pooled by the objective; `output.records["values"]` are those of all
        steps, `[B, T, K]`.
        """

    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        """Called after update number `step` of a phase, with its last micro-batch."""

    def change_gradient(self, model: CoreModel) -> None:
        """Change the gradient of an update, the `grad` of the model's parameters, in place.

        Called if `changes_gradient`, when the gradient of all micro-batches and processes is
        complete and has its own scale, before it is clipped. What no loss can express belongs
        here, such as a projection of the whole gradient.
        """

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        """Called after a phase, to compute what later phases need, such as importances of weights.

        `batches` are the training data of its tasks, `pool` the objective's pooling over time.
        """


def check_term(term: Term, model: CoreModel, spec: TaskSpec) -> None:
    """Raise ConfigError if a term does not fit the targets, or needs what the model lacks."""
    if term.targets is not None and spec.targets.kind not in term.targets:
        fitting = dict.fromkeys(name for use in uses_of(spec.targets.kind) for name in use.losses)
        raise ConfigError(
            f"{type(term).__name__} needs targets of kind {' or '.join(term.targets)}; task "
            f"'{spec.task}' has '{spec.targets.kind}', which fit {', '.join(fitting) or 'nothing'}."
        )
    term.check(model, spec)
    for name in term.records(model):
        if name not in model.recordable:
            raise ConfigError(
                f"{type(term).__name__} needs a record of '{name}', which "
                f"{type(model).__name__} does not make.{nearest(name, model.recordable)}"
            )
    names = [n for n, _ in itertools.chain(model.named_buffers(), model.named_parameters())]
    for name in term.updated_buffers(model):
        if name not in names:
            raise ConfigError(
                f"{type(term).__name__} updates the buffer '{name}', which {type(model).__name__} "
                f"does not have.{nearest(name, names)}"
            )


def declared_updates(
    name: str, term: Term, model: CoreModel, updates: Mapping[str, BufferUpdate]
) -> Mapping[str, BufferUpdate]:
    """Updates of buffers. ConfigError if the term has not declared one of them."""
    if updates and (unknown := updates.keys() - set(term.updated_buffers(model))):
        raise ConfigError(
            f"loss.{name}: {type(term).__name__} updates {', '.join(sorted(unknown))}, which its "
            "method `updated_buffers` does not name."
        )
    return updates
