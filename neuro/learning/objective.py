"""The objective of a run: a mapping from sequences to outputs and a weighted sum of loss terms.

A term is any `term(model, batch, output) -> TermOutput` whose loss has its gradient as descent
direction. Cross-entropy, regularisers and EWC are terms, and so are local rules: a Hebbian
direction d for weights W is the pseudo-loss sum(d * W) with d computed without a graph. Hence
accumulation, clipping, mixed precision and several processes serve all of them alike.
Statistics that are no gradients (Oja vectors, gate variances, discriminant moments) are buffers:
a term returns their updates (`learning/buffers.py`), and the trainer applies them if the update was
finite.

A loss is a mean over the counts of its term: samples, or targets that have a label. The parts of an
update (micro-batches, processes, chunks) are weighted by these counts, so that together they are
the mean over the whole update.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from neuro.config.trainer import Direction
from neuro.data.base import Batch, TaskSpec
from neuro.data.uses import OutputMapping, Paradigm, TargetKind, uses_of
from neuro.errors import ConfigError, nearest
from neuro.learning.buffers import BufferUpdate
from neuro.learning.metrics import CLASS_KINDS, Metric, default_metrics, task_loss
from neuro.learning.paradigms import misfits
from neuro.learning.pooling import MEAN, Pooling
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Plastic

#: how much something counts: a number, or a scalar on the device where it depends on a batch there
Count = float | Tensor


class TermOutput(NamedTuple):
    """A term's scalar loss, and updates of buffers by their names within the model."""

    loss: Tensor
    updates: Mapping[str, BufferUpdate] = {}


#: `Objective.pool`: outputs `[B, T, K]` and the lengths of the sequences, to pooled outputs
Pool = Callable[[Tensor, Tensor | None], Tensor]


class Term(nn.Module, ABC):
    """One summand of the objective."""

    supplied: tuple[str, ...] = ()

    #: False for rules that work from a forward pass without a graph
    needs_graph = True

    #: kinds of targets that it can learn from; None if it asks for none
    targets: tuple[TargetKind, ...] | None = None

    #: whether it learns from a teacher (`Batch.teacher`)
    uses_teacher = False

    #: whether it multiplies the losses of samples by `Batch.weights`
    uses_weights = False

    def __init__(self, weight: Annotated[float, Ge(0)] = 1.0):
        super().__init__()
        self.weight = weight

    def records(self, model: CoreModel) -> tuple[str, ...]:
        """Records of the model that the term needs. ConfigError if the model lacks them."""
        return ()

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        """Names of the model's buffers that the term updates."""
        return ()

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        """Raise ConfigError if the term does not fit the model or the targets."""

    def count(self, batch: Batch, share: float = 1.0) -> Count:
        """Number of things that the loss of a batch is a mean over: samples by default.

        `share` is how much of the sequences the batch holds.
        """
        return len(batch.targets) * share

    @abstractmethod
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        """The loss of one batch.

        `output.values` are pooled as the objective says; `output.records["values"]` are those of
        all steps, `[B, T, K]`.
        """

    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        """After an update was made, number `step` of its phase, with its last micro-batch."""

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        """After a phase: compute what later phases need, such as importances of weights.

        `batches` are the training data of its tasks, `pool` the objective's pooling over time.
        """


class Measured(NamedTuple):
    """A mean, and what it is a mean over."""

    mean: Tensor
    counted: Count


class TermLoss(NamedTuple):
    """The loss of a term without a graph and without its weight, and what it is a mean over."""

    mean: Tensor
    weight: float
    counted: Count


class Loss(NamedTuple):
    """The loss of one batch, or of a part of an update.

    `total` is what training descends: of a part, its contribution to the mean over the update.
    `task` is the loss of the targets where only local rules learn, whose pseudo-losses have a
    gradient but no meaning; else None, and the terms are the loss. `metrics` holds the sums of
    `Metric.sums`, made from `pooled`, the outputs without a graph; `state`, also without one, is
    that after the batch.
    """

    total: Tensor
    terms: dict[str, TermLoss]
    task: Measured | None
    updates: dict[str, BufferUpdate]
    metrics: dict[str, Tensor]
    pooled: Tensor
    state: Any = None

    @property
    def reported(self) -> Tensor:
        """What is logged as the loss, a scalar."""
        if self.task is not None:
            return self.task.mean
        return torch.stack([term.weight * term.mean for term in self.terms.values()]).sum()


class Objective(nn.Module):
    """Pooling of the output over time, then a weighted sum of named terms.

    `paradigm` says where targets come from (`learning/paradigms.py`); `target` is their kind.
    `mapping` seq2static pools `[B, T, K]` to one output per sequence; seq2seq keeps one per step
    and none outputs of any shape, such as images, and `pooling` does nothing. The outputs are
    multiplied by `scale`, a buffer that a schedule may change: of scores it is the steepness of
    the softmax behind them and decides nothing by itself.
    `metrics` are those of the kind of targets unless given; the first one is the default for what
    is monitored and optimised by searches.
    """

    supplied = ("terms", "metrics", "target")
    scale: Tensor

    def __init__(
        self,
        terms: Mapping[str, Term],
        mapping: OutputMapping = "seq2static",
        pooling: Pooling = MEAN,
        scale: Annotated[float, Gt(0)] = 1.0,
        paradigm: Paradigm = "supervised",
        target: TargetKind = "class",
        metrics: Mapping[str, Metric] | None = None,
    ):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.terms = nn.ModuleDict(terms)
        self.paradigm = paradigm
        self.mapping = mapping
        self.pooling = Pooling.model_validate(pooling)
        self.target = target
        self.task_loss = task_loss(target)
        self.metrics = dict(metrics) if metrics else default_metrics(target)

    @property
    def measures(self) -> dict[str, Metric]:
        """The loss of the targets as `loss`, and the metrics."""
        return {"loss": self.task_loss, **self.metrics}

    @property
    def directions(self) -> dict[str, Direction]:
        """For each metric, the first one first, then the loss: whether more or less is better."""
        return {name: m.direction for name, m in (*self.metrics.items(), ("loss", self.task_loss))}

    @property
    def main_metric(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    @property
    def needs_graph(self) -> bool:
        """True if any term needs the graph of the forward pass."""
        return any(term.needs_graph for term in self.named_terms().values())

    def statistical_terms(self, model: CoreModel) -> dict[str, tuple[str, ...]]:
        """Terms that learn only buffers of modules without weights, such as running moments.

        They have no gradient. The names of the buffers, by term.
        """
        found = {}
        for name, term in self.named_terms().items():
            buffers = term.updated_buffers(model)
            modules = [model.get_submodule(buffer.rpartition(".")[0]) for buffer in buffers]
            if buffers and not any(list(module.parameters()) for module in modules):
                found[name] = buffers
        return found

    def set_weight(self, term: str, weight: float) -> None:
        """Change the factor of a term in the sum, for schedules; KeyError without such a term."""
        self.named_terms()[term].weight = weight

    def set_scale(self, scale: float) -> None:
        """Change the factor of the pooled outputs, for schedules."""
        self.scale.fill_(scale)

    def named_terms(self) -> dict[str, Term]:
        """The terms by name, in the order of the config."""
        return cast("dict[str, Term]", dict(self.terms.items()))

    def records(self, model: CoreModel) -> tuple[str, ...]:
        """Records that the terms need, each once."""
        names = [name for term in self.named_terms().values() for name in term.records(model)]
        return tuple(dict.fromkeys(names))

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        """Raise ConfigError with every reason why a task does not fit this objective."""
        problems = list(misfits(self.paradigm, self.mapping, spec))
        problems += self._pooling_problems(spec)
        terms = self.named_terms()
        updated: set[str] = set()
        for name, term in terms.items():
            try:
                _check_targets(term, spec)
                term.check(model, spec)
                _check_records(term, model)
                updated |= _checked_buffers(term, model)
            except ConfigError as error:
                problems += [f"loss.{name}: {problem}" for problem in error.problems]
        problems += [
            f"metric.{name}: {type(metric).__name__} measures targets of kind "
            f"{' or '.join(metric.targets)}; task '{spec.task}' has '{spec.targets.kind}'."
            for name, metric in self.metrics.items()
            if spec.targets.kind not in metric.targets
        ]
        problems += [
            f"metric.{name}: loss has a term of this name; both are logged as train/{name}. Give "
            f"one of them another name, as in +metric.{name}_metric."
            for name in self.metrics.keys() & (terms.keys() if len(terms) > 1 else set())
        ]
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
        problems += _not_updated(model, updated)
        if problems:
            raise ConfigError(problems)

    def _pooling_problems(self, spec: TaskSpec) -> Iterator[str]:
        least, n = min(frames for frames, _ in spec.timings), self.pooling.n
        if self.mapping == "seq2static" and n is not None and n > least:
            yield (
                f"objective.pooling.n: got {n}, but task '{spec.task}' has sequences of {least} "
                f"steps; give at most {least}."
            )

    def counts(self, batch: Batch, share: float = 1.0) -> dict[str, Count]:
        """Counts of the terms for a batch, by name (`Term.count`).

        `share` is how much of the sequences the batch holds. Numbers where that takes no transfer
        from a device.
        """
        counts = {name: term.count(batch, share) for name, term in self.named_terms().items()}
        return {
            name: float(count)
            if isinstance(count, Tensor) and count.device.type == "cpu"
            else count
            for name, count in counts.items()
        }

    def forward(
        self,
        model: CoreModel,
        batch: Batch,
        output: ModelOutput,
        share: float = 1.0,
        totals: Mapping[str, Count] | None = None,
    ) -> Loss:
        """Loss, its terms, buffer updates, and the sums of the metrics.

        `share` is how much of the sequences the batch holds: a part's sum over time counts as if
        the rest of the sequence were like it. `totals` are the terms' counts of the whole update
        that the batch is a part of.
        """
        records = {**output.records, "values": output.values}
        pooled = self.pool(output.values, batch.lengths)
        if self.mapping == "seq2static" and self.pooling.kind == "sum" and share < 1:
            pooled = pooled / share
        output = output._replace(values=pooled, records=records)
        counts = self.counts(batch, share)
        losses: dict[str, TermLoss] = {}
        weighted: list[Tensor] = []
        updates: dict[str, BufferUpdate] = {}
        for name, term in self.named_terms().items():
            if batch.weights is not None and term.targets is not None and not term.uses_weights:
                raise ConfigError(
                    f"loss.{name}: {type(term).__name__} has no weights of samples, and the data's "
                    "batches carry some. Use cross_entropy or mse, or data without weights."
                )
            result: TermOutput = term(model, batch, output)
            loss = result.loss if term.weight == 1 else term.weight * result.loss
            part = 1.0 if totals is None else part_of(counts[name], totals[name])
            weighted.append(loss if _is_one(part) else loss * part)
            losses[name] = TermLoss(result.loss.detach(), term.weight, counts[name])
            updates.update(_declared(name, term, model, result.updates))
        pooled, targets = pooled.detach(), batch.targets
        task = None
        if not self.needs_graph:
            task = Measured(
                self.task_loss.mean(pooled, targets), self.task_loss.count(pooled, targets)
            )
        return Loss(
            total=functools.reduce(torch.add, weighted),
            terms=losses,
            task=task,
            updates=updates,
            metrics=self.measure(pooled, targets),
            pooled=pooled,
        )

    def measure(self, pooled: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The sums of the metrics on pooled outputs without a graph."""
        return {name: metric.sums(pooled, targets) for name, metric in self.metrics.items()}

    def pool(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`[B, T, K]` to `[B, K]` (seq2static), or outputs as they are, times `scale`.

        `lengths [B]` leave padding out. Per step that is done by targets without a class;
        ConfigError for values, which have no such mark.
        """
        if self.mapping == "seq2static":
            return self.pooling(values, lengths) * self.scale
        if lengths is not None and self.target == "value_sequence":
            raise ConfigError(
                "objective.mapping=seq2seq: values per step cannot be learned from sequences of "
                "different lengths. Use data without padding, or one target per sequence."
            )
        return values * self.scale

    def decode(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decisions for raw outputs `[B, T, K]`, as hardware targets make them."""
        return self.decide(self.pool(values, lengths))

    def decide(self, pooled: Tensor) -> Tensor:
        """Classes `[...]` of pooled scores `[..., K]`; values are their own decision."""
        return pooled.argmax(-1) if self.target in CLASS_KINDS else pooled

    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        """Call the terms' hook after an update."""
        for term in self.named_terms().values():
            term.on_step(model, batch, step)

    def consolidate(self, model: CoreModel, batches: Iterable[Batch]) -> None:
        """Call every term's `consolidate` with the training batches of the finished phase."""
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


def _not_updated(model: CoreModel, updated: Collection[str]) -> Iterator[str]:
    """Problems of plastic buffers that are not among the updated ones, one for each remedy."""
    needed = model.plastic_buffers if isinstance(model, Plastic) else {}
    missing = {name: remedy for name, remedy in needed.items() if name not in updated}
    for remedy in dict.fromkeys(missing.values()):
        first, *others = (name for name in missing if missing[name] == remedy)
        more = f" and {len(others)} more" if others else ""
        yield f"loss: no term updates {first}{more} of {type(model).__name__}; {remedy}."


def _checked_buffers(term: Term, model: CoreModel) -> set[str]:
    """The buffers that a term updates. ConfigError if the model does not have one of them."""
    names = [name for name, _ in model.named_buffers()]
    updated = term.updated_buffers(model)
    for name in updated:
        if name not in names:
            raise ConfigError(
                f"{type(term).__name__} updates the buffer '{name}', which {type(model).__name__} "
                f"does not have.{nearest(name, names)}"
            )
    return set(updated)


def _declared(
    name: str, term: Term, model: CoreModel, updates: Mapping[str, BufferUpdate]
) -> Mapping[str, BufferUpdate]:
    """The updates. ConfigError if the term has not declared one of them."""
    if updates and (unknown := updates.keys() - set(term.updated_buffers(model))):
        raise ConfigError(
            f"loss.{name}: {type(term).__name__} updates {', '.join(sorted(unknown))}, which its "
            "method `updated_buffers` does not name."
        )
    return updates


def part_of(count: Count, total: Count) -> Count:
    """The fraction of a total; 0 if there is nothing at all."""
    if isinstance(count, Tensor) or isinstance(total, Tensor):
        return count / torch.as_tensor(total).clamp_min(1e-12)
    return count / total if total else 0.0


def _is_one(part: Count) -> bool:
    return not isinstance(part, Tensor) and part == 1.0
