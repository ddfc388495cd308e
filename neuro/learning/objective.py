"""What a run learns from: a mapping from sequences to decisions and a weighted sum of terms.

A term is any `term(model, batch, output) -> TermOutput` whose loss has its gradient as descent
direction. Cross-entropy, regularisers and EWC are terms, and so are local rules: a Hebbian
direction d for weights W is the pseudo-loss sum(d * W) with d computed without a graph. Hence
accumulation, clipping, mixed precision and several processes serve all of them alike.
Statistics that are no gradients (Oja vectors, gate variances, discriminant moments) are buffers:
a term returns their increments, and the trainer applies them if the update was finite.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from neuro.data.base import Batch, TaskSpec
from neuro.data.uses import OutputMapping, Paradigm, TargetKind, uses_of
from neuro.errors import ConfigError, nearest
from neuro.learning.metrics import Judged, Score, decision_for
from neuro.learning.paradigms import misfits
from neuro.learning.pooling import MEAN, Pooling
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Plastic


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

    #: statistics of a model that the term updates (`models/capabilities.py`, Plastic)
    provides: tuple[str, ...] = ()

    #: kinds of targets that it can learn from; None if it asks for none
    targets: tuple[TargetKind, ...] | None = None

    #: whether it learns from a teacher (`Batch.teacher`)
    uses_teacher = False

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
        """The loss of one batch.

        `output.values` are pooled as the objective says; `output.records["values"]` are those of
        all steps, `[B, T, K]`.
        """

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
    `scores` holds the objective's score by its name, made from `pooled`, the outputs without a
    graph; `state`, also without one, is where the sequences go on if they do.
    """

    total: Tensor
    reported: Tensor
    terms: dict[str, Tensor]
    increments: dict[str, Increment]
    scores: dict[str, Judged]
    pooled: Tensor
    state: Any = None


class Objective(nn.Module):
    """Pooling of the output over time, then a weighted sum of named terms.

    `paradigm` says where targets come from (`learning/paradigms.py`); `target` is their kind.
    `mapping` seq2static pools `[B, T, K]` to one output per sequence; seq2seq keeps one per step
    and none outputs of any shape, such as images, and `pooling` does nothing. The outputs are
    multiplied by `scale`, a buffer that a schedule may change: of scores it is the steepness of
    the softmax behind them and decides nothing by itself.
    """

    supplied = ("terms", "target")
    scale: Tensor

    def __init__(
        self,
        terms: Mapping[str, Term],
        mapping: OutputMapping = "seq2static",
        pooling: Pooling = MEAN,
        scale: Annotated[float, Gt(0)] = 1.0,
        paradigm: Paradigm = "supervised",
        target: TargetKind = "class",
    ):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.terms = nn.ModuleDict(terms)
        self.paradigm = paradigm
        self.mapping = mapping
        self.pooling = Pooling.model_validate(pooling)
        self.decision = decision_for(target)

    @property
    def score(self) -> Score:
        """What decisions are judged by."""
        return self.decision.score

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
        problems = list(misfits(self.paradigm, self.mapping, spec))
        problems += self._pooling_problems(spec)
        terms = self.named_terms()
        for name, term in terms.items():
            try:
                _check_targets(term, spec)
                term.check(model, spec)
                _check_records(term, model)
            except ConfigError as error:
                problems += [f"loss.{name}: {problem}" for problem in error.problems]
        taught = [name for name, term in terms.items() if term.uses_teacher]
        if taught and self.paradigm != "distillation":
            problems.append(
                f"objective.paradigm: got {self.paradigm}, but loss.{taught[0]} learns from a "
                "teacher; set objective.paradigm=distillation."
            )
        if self.paradigm == "distillation" and not taught:
            problems.append(
                f"objective.paradigm=distillation: no term learns from a teacher; add one, as in "
                f"loss=[{','.join([*terms, 'distillation'])}]."
            )
        provided = {what for term in terms.values() for what in term.provides}
        required = model.requires if isinstance(model, Plastic) else {}
        problems += [
            f"loss: no term updates the {what} of {type(model).__name__}; {remedy}."
            for what, remedy in required.items()
            if what not in provided
        ]
        if problems:
            raise ConfigError(problems)

    def _pooling_problems(self, spec: TaskSpec) -> Iterator[str]:
        least, n = min(frames for frames, _ in spec.timings), self.pooling.n
        if self.mapping == "seq2static" and n is not None and n > least:
            yield (
                f"objective.pooling.n: got {n}, but task '{spec.task}' has sequences of {least} "
                f"steps; give at most {least}."
            )

    def forward(
        self, model: CoreModel, batch: Batch, output: ModelOutput, share: float = 1.0
    ) -> Loss:
        """Loss, its terms, buffer increments and the score of the decisions.

        `share` is how much of the sequences the batch holds: a part's sum over time counts as if
        the rest of the sequence were like it.
        """
        records = {**output.records, "values": output.values}
        pooled = self.pool(output.values)
        if self.mapping == "seq2static" and self.pooling.kind == "sum" and share < 1:
            pooled = pooled / share
        output = output._replace(values=pooled, records=records)
        losses: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        increments: dict[str, Increment] = {}
        for name, term in self.named_terms().items():
            result: TermOutput = term(model, batch, output)
            weighted.append(result.loss if term.weight == 1 else term.weight * result.loss)
            losses[name] = result.loss.detach()
            increments.update(result.increments)
        total = functools.reduce(torch.add, weighted)
        pooled, targets = pooled.detach(), batch.targets
        reported = total.detach() if self.needs_graph else self.decision.loss(pooled, targets)
        scores = {self.score.name: self.decision.judge(pooled, targets)}
        return Loss(total, reported, losses, increments, scores, pooled)

    def pool(self, values: Tensor) -> Tensor:
        """`[B, T, K]` to `[B, K]` (seq2static), or outputs as they are, times `scale`."""
        return (self.pooling(values) if self.mapping == "seq2static" else values) * self.scale

    def decode(self, values: Tensor) -> Tensor:
        """The decisions on raw outputs `[B, T, K]`: the rule that a hardware target uses."""
        return self.decision.decide(self.pool(values))

    def consolidate(self, model: CoreModel, batches: Iterable[Batch]) -> None:
        """Give every term the phase's training batches before the next phase starts."""
        for term in self.named_terms().values():
            term.consolidate(model, batches, self.pool)


def _check_targets(term: Term, spec: TaskSpec) -> None:
    if term.targets is not None and spec.targets.kind not in term.targets:
        fitting = dict.fromkeys(name for use in uses_of(spec.targets.kind) for name in use.losses)
        raise ConfigError(
            f"{type(term).__name__} needs targets of kind {' or '.join(term.targets)}; task "
            f"'{spec.task}' has '{spec.targets.kind}', which fit {', '.join(fitting) or 'nothing'}."
        )


def _check_records(term: Term, model: CoreModel) -> None:
    for name in term.records(model):
        if name not in model.recordable:
            raise ConfigError(
                f"{type(term).__name__} needs a record of '{name}', which "
                f"{type(model).__name__} does not make.{nearest(name, model.recordable)}"
            )
