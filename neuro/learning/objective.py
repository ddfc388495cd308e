"""What a run learns from: a mapping from sequences to decisions and a weighted sum of terms.

A term is any `term(model, batch, output) -> TermOutput` whose loss has its gradient as descent
direction. Cross-entropy, regularisers and EWC are terms, and so are local rules: a Hebbian
direction d for weights W is the pseudo-loss sum(d * W) with d computed without a graph. Hence
accumulation, clipping, mixed precision and several processes serve all of them alike.
Statistics that are no gradients (Oja vectors, gate variances, discriminant moments) are buffers:
a term returns their increments, and the trainer applies them if the update was finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError, nearest
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.state import map_state

Pooling = Literal["mean", "sum", "max", "last"]
OutputMapping = Literal["seq2static", "seq2seq"]


class Increment(NamedTuple):
    """A change of a buffer: summed, or averaged, over micro-batches and processes."""

    value: Tensor
    reduce: Literal["sum", "mean"]


def add_increments(
    total: dict[str, Increment], increments: Mapping[str, Increment], share: float
) -> None:
    """Add the increments of a part of an update, which is `share` of it, to those so far."""
    for name, increment in increments.items():
        value = increment.value * (share if increment.reduce == "mean" else 1.0)
        if name in total:
            value = value + total[name].value
        total[name] = Increment(value, increment.reduce)


class TermOutput(NamedTuple):
    """A term's scalar loss, and increments by the buffer's name within the model."""

    loss: Tensor
    increments: Mapping[str, Increment] = {}


class Term(nn.Module, ABC):
    """One summand of the objective."""

    supplied: tuple[str, ...] = ()

    #: False for rules that work from a forward pass without a graph
    needs_graph = True

    #: running statistics of a model that the term keeps (`CoreModel.kept_by_terms`)
    keeps: tuple[str, ...] = ()

    def __init__(self, weight: Annotated[float, Ge(0)] = 1.0):
        super().__init__()
        self.weight = weight

    def records(self, model: CoreModel) -> tuple[str, ...]:
        """Traces that the term wants from the model; raises ConfigError where it has none."""
        return ()

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        """Raise ConfigError if the term does not fit the model or the targets."""

    @abstractmethod
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        """The loss of one batch; `output.values` are pooled as the objective says."""

    def consolidate(
        self, model: CoreModel, batches: Iterable[Batch], pool: Callable[[Tensor], Tensor]
    ) -> None:
        """After a phase: keep what later phases need of it (importances, for instance).

        `batches` are the training data of its tasks, `pool` the objective's pooling over time.
        """


class Loss(NamedTuple):
    """What an objective makes of one batch.

    `total` is what training descends, `reported` what people are shown: the same, or the task's
    loss where only local rules learn, whose pseudo-losses have a gradient but no meaning.
    `accuracy` is the share of correct decisions on `pooled`, the scores without a graph; `state`,
    also without one, is where the sequences go on if they do.
    """

    total: Tensor
    reported: Tensor
    terms: dict[str, Tensor]
    increments: dict[str, Increment]
    accuracy: Tensor
    pooled: Tensor
    state: Any = None


class Objective(nn.Module):
    """Pooling of the output over time, then a weighted sum of named terms.

    `mapping` seq2static pools `[B, T, K]` to one decision per sequence, seq2seq keeps one per
    step. The scores are multiplied by `scale`, a buffer that a schedule may change: it is the
    steepness of the softmax behind them and decides nothing by itself.
    """

    supplied = ("terms",)
    scale: Tensor

    def __init__(
        self,
        terms: Mapping[str, Term],
        mapping: OutputMapping = "seq2static",
        pooling: Pooling = "mean",
        scale: Annotated[float, Gt(0)] = 1.0,
    ):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.terms = nn.ModuleDict(terms)
        self.mapping = mapping
        self.pooling = pooling

    @property
    def needs_graph(self) -> bool:
        """Whether the forward pass must keep a graph for any of the terms."""
        return any(term.needs_graph for term in self.named_terms().values())

    def named_terms(self) -> dict[str, Term]:
        """The terms by name, in the order of the config."""
        return cast("dict[str, Term]", dict(self.terms.items()))

    def records(self, model: CoreModel) -> tuple[str, ...]:
        """All traces that the terms want, each once."""
        wanted = [name for term in self.named_terms().values() for name in term.records(model)]
        return tuple(dict.fromkeys(wanted))

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        """Raise ConfigError with everything that keeps a task from being learned like this."""
        problems = []
        kinds = {"seq2static": ("class",), "seq2seq": ("class_sequence", "token")}[self.mapping]
        if spec.target not in kinds:
            problems.append(
                f"objective.mapping={self.mapping} needs targets of kind {' or '.join(kinds)}; "
                f"task '{spec.task}' has '{spec.target}'."
            )
        for name, term in self.named_terms().items():
            try:
                term.check(model, spec)
                _check_records(term, model)
            except ConfigError as error:
                problems += [f"loss.{name}: {problem}" for problem in error.problems]
        kept = {what for term in self.named_terms().values() for what in term.keeps}
        problems += [
            f"loss: no term keeps the {what} of {type(model).__name__}, without which it learns "
            f"nothing from them; {remedy}."
            for what, remedy in model.kept_by_terms.items()
            if what not in kept
        ]
        if problems:
            raise ConfigError(problems)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> Loss:
        """Loss, its terms, buffer increments and the share of correct decisions."""
        output = output._replace(values=self.pool(output.values))
        total = output.values.new_zeros(())
        losses: dict[str, Tensor] = {}
        increments: dict[str, Increment] = {}
        for name, term in self.named_terms().items():
            result: TermOutput = term(model, batch, output)
            total = total + term.weight * result.loss
            losses[name] = result.loss.detach()
            increments.update(result.increments)
        accuracy = (self.decide(output.values) == batch.targets).float().mean()
        reported = total if self.needs_graph else self.task_loss(output.values, batch.targets)
        pooled = output.values.detach()
        return Loss(total, reported.detach(), losses, increments, accuracy, pooled)

    def pool(self, values: Tensor) -> Tensor:
        """`[B, T, K]` to `[B, K]` (seq2static) or `[B, T, K]` (seq2seq), times `scale`."""
        return self._over_time(values) * self.scale

    def _over_time(self, values: Tensor) -> Tensor:
        if self.mapping == "seq2seq":
            return values
        match self.pooling:
            case "mean":
                return values.mean(1)
            case "sum":
                return values.sum(1)
            case "max":
                return values.amax(1)
            case _:
                return values[:, -1]

    def as_whole(self, values: Tensor, share: float) -> Tensor:
        """A chunk's values as if the rest of the sequence were like it: sums grow with length."""
        grows = self.mapping == "seq2static" and self.pooling == "sum"
        return values / share if grows and share < 1 else values

    def decide(self, pooled: Tensor) -> Tensor:
        """The class of each pooled output."""
        return pooled.argmax(-1)

    def decode(self, values: Tensor) -> Tensor:
        """The class of each raw output sequence `[B, T, K]`: the rule a hardware target uses."""
        return self.decide(self.pool(values))

    def task_loss(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of pooled outputs: what validation reports, whatever trained them."""
        return F.cross_entropy(pooled.flatten(0, -2).float(), targets.flatten())

    def consolidate(self, model: CoreModel, batches: Iterable[Batch]) -> None:
        """Give every term the phase's training batches before the next phase starts."""
        for term in self.named_terms().values():
            term.consolidate(model, batches, self.pool)


def _check_records(term: Term, model: CoreModel) -> None:
    for name in term.records(model):
        if name not in model.recordable:
            raise ConfigError(
                f"{type(term).__name__} needs a record of '{name}', which "
                f"{type(model).__name__} does not make.{nearest(name, model.recordable)}"
            )


#: weights in use from weights by name: those of the model, or of the changes before it
WeightChange = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class TrainStep(nn.Module):
    """Model and objective as one module, so that a parallel strategy wraps the whole step.

    Local terms get a forward pass without a graph; gradients of their pseudo-losses then reach
    the weights alone.

    What training does to the forward pass and evaluation does not: `weight_changes` put other
    tensors in place of named parameters (noisy or rounded ones; gradients reach the parameters
    through them), `surroundings` are entered around it (noise on layers). Terms see the
    parameters themselves.
    """

    def __init__(
        self,
        model: CoreModel,
        objective: Objective,
        weight_changes: Sequence[WeightChange] = (),
        surroundings: Sequence[Callable[[], AbstractContextManager[Any]]] = (),
    ):
        super().__init__()
        self.model = model
        self.objective = objective
        self.weight_changes = weight_changes
        self.surroundings = surroundings

    def forward(
        self,
        batch: Batch,
        state: Any = None,
        *,
        context: Batch | None = None,
        ahead: Batch | None = None,
        share: float = 1.0,
        keep_state: bool = False,
    ) -> Loss:
        """The loss of one batch from `state`, which is rest if None.

        For chunks of sequences: `context` are steps that come before, run with a graph but
        without a loss; `share` is how much of the sequences the batch holds. With `keep_state`
        the loss has the state after the batch, or where `ahead` leads from `state`.
        """
        weights: dict[str, Tensor] = {}
        for change in self.weight_changes:
            weights |= change({**dict(self.model.named_parameters()), **weights})
        with ExitStack() as stack:
            for enter in self.surroundings:
                stack.enter_context(enter())
            graph = self.objective.needs_graph and torch.is_grad_enabled()
            stack.enter_context(torch.set_grad_enabled(graph))
            before = state if context is None else self._run(context, state, weights).state
            wanted = self.objective.records(self.model)
            output = self._run(batch, before, weights, wanted)
            if keep_state and ahead is not None:
                with torch.no_grad():
                    end = self._run(ahead, state, weights).state
            else:
                end = output.state
        output = output._replace(values=self.objective.as_whole(output.values, share))
        loss: Loss = self.objective(self.model, batch, output)
        return loss._replace(state=map_state(Tensor.detach, end)) if keep_state else loss

    def _run(
        self,
        batch: Batch,
        state: Any,
        weights: dict[str, Tensor],
        record: tuple[str, ...] = (),
    ) -> ModelOutput:
        options = {"dt_ms": batch.dt_ms, "record": record}
        if not weights:
            output: ModelOutput = self.model(batch.sequence(), state, **options)
            return output
        arguments = (batch.sequence(), state)
        output = functional_call(self.model, weights, arguments, options)
        return output
