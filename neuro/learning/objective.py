"""The objective of a run: pooling of outputs over time, and a weighted sum of loss terms.

Terms are in `learning/terms.py`. The loss of a term is a mean over its count: samples, or targets
that have a label. The parts of an update (micro-batches, processes, chunks) are weighted by these
counts, so that their sum is the mean over the whole update.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, cast

import torch
from annotated_types import Gt
from torch import Tensor, nn

from neuro.config.trainer import Direction
from neuro.data.base import Batch, TaskSpec
from neuro.data.uses import OutputMapping, Paradigm, TargetKind
from neuro.errors import ConfigError
from neuro.learning.buffers import BufferUpdate
from neuro.learning.metrics import CLASS_KINDS, Metric, default_metrics, task_loss
from neuro.learning.paradigms import misfits
from neuro.learning.pooling import MEAN, Pooling, among
from neuro.learning.terms import Count, Term, TermOutput, check_term, declared_updates
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Plastic


class CountedMean(NamedTuple):
    """A mean, and the number of values that it is a mean over."""

    mean: Tensor
    counted: Count


class TermLoss(NamedTuple):
    """The loss of a term without a graph and without its weight, its weight, and its count.

    `logged`: further values of the term, averaged with the same count.
    """

    mean: Tensor
    weight: float
    counted: Count
    logged: Mapping[str, Tensor] = {}


class Loss(NamedTuple):
    """The loss of one batch, or of a part of an update.

    - `total`: the value to minimise; for a part of an update, its contribution to the mean
    - `task`: the loss of the targets if only local rules learn, whose pseudo-losses have a gradient
      but no meaning as values; else None, and the terms are the loss
    - `metrics`: results of `Metric.sums` for `pooled`, the pooled outputs without a graph
    - `state`: the model's state after the batch, without a graph
    """

    total: Tensor
    terms: dict[str, TermLoss]
    task: CountedMean | None
    updates: dict[str, BufferUpdate]
    metrics: dict[str, Tensor]
    pooled: Tensor
    state: Any = None

    @property
    def reported(self) -> Tensor:
        """The loss for the log, a scalar."""
        if self.task is not None:
            return self.task.mean
        return torch.stack([term.weight * term.mean for term in self.terms.values()]).sum()


class Objective(nn.Module):
    """Pooling of the output over time, then a weighted sum of named terms.

    - `paradigm`: source of the targets (`learning/paradigms.py`); `target`: their kind
    - `mapping`: seq2static pools `[B, T, K]` to one output per sequence; seq2seq keeps one output
      per step, and none outputs of any shape, such as images, both without `pooling`
    - `scale`: a factor of the outputs, as a buffer that a schedule may change. For scores it is the
      inverse temperature of the softmax, which does not change decisions
    - `metrics`: by default those of the kind of targets; the first one is monitored and is the
      objective of searches unless the config names another
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
        for term in terms.values():
            term.pool = self.pool
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
        """Whether more or less is better, by metric in their order, then for the loss."""
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
        """Terms that only update buffers of modules without weights, such as running moments.

        They have no gradient. Returns the names of the buffers by term.
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
        shortest, n = min(frames for frames, _ in spec.timings), self.pooling.n
        if self.mapping == "seq2static" and n is not None and n > shortest:
            problems.append(
                f"objective.pooling.n: got {n}, but task '{spec.task}' has sequences of {shortest} "
                f"steps; give at most {shortest}."
            )
        terms = self.named_terms()
        updated: set[str] = set()
        for name, term in terms.items():
            try:
                check_term(term, model, spec)
                updated |= {*term.updated_buffers(model)}
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

    def counts(self, batch: Batch, share: float = 1.0) -> dict[str, Count]:
        """Counts of the terms for a batch, by name (`Term.count`).

        `share` is the fraction of the sequences' length that the batch holds. Counts are numbers if
        that needs no transfer from a device, else tensors.
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

        - `share`: the fraction of the sequences' length that the batch holds; a sum over time is
          extrapolated to the whole length
        - `totals`: counts of the terms over the whole update, if the batch is a part of one
        """
        records = {**output.records, "values": output.values}
        pooled = self.pool(output.values, batch.lengths)
        if self.mapping == "seq2static" and self.pooling.kind == "sum" and share < 1:
            pooled = pooled / share
        pooled = among(pooled, batch.choices)
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
            part = 1.0 if totals is None else fraction_of(counts[name], totals[name])
            whole = not isinstance(part, Tensor) and part == 1.0
            weighted.append(loss if whole else loss * part)
            losses[name] = TermLoss(result.loss.detach(), term.weight, counts[name], result.logged)
            updates |= declared_updates(name, term, model, result.updates)
        pooled, targets = pooled.detach(), batch.targets
        task = None
        if not self.needs_graph:
            task = CountedMean(
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
        """The sums of the metrics of training on pooled outputs without a graph."""
        return {
            name: metric.sums(pooled, targets)
            for name, metric in self.metrics.items()
            if metric.in_training
        }

    def pool(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`[B, T, K]` to `[B, K]` (seq2static), or outputs as they are, times `scale`.

        `lengths [B]` exclude padding from pooling. Outputs per step are not pooled; there, targets
        without a class exclude it. ConfigError for values per step, which have no such mark.
        """
        if self.mapping == "seq2static":
            return self.pooling(values, lengths) * self.scale
        if lengths is not None and self.target == "value_sequence":
            raise ConfigError(
                "objective.mapping=seq2seq: values per step cannot be learned from sequences of "
                "different lengths. Use data without padding, or one target per sequence."
            )
        return values * self.scale

    def outputs(self, values: Tensor, batch: Batch) -> Tensor:
        """Pooled outputs of a batch, with the least value where a sample has no choice."""
        return among(self.pool(values, batch.lengths), batch.choices)

    def decode(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decisions for outputs `[B, T, K]` that are not pooled, as hardware targets make them."""
        return self.decide(self.pool(values, lengths))

    def decide(self, pooled: Tensor) -> Tensor:
        """Classes `[...]` of pooled scores `[..., K]`; values are their own decision."""
        return pooled.argmax(-1) if self.target in CLASS_KINDS else pooled

    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        """Call the terms' hook after an update."""
        for term in self.named_terms().values():
            term.on_step(model, batch, step)

    def gradient_change(self, model: CoreModel) -> Callable[[], None] | None:
        """What the terms do to the gradient of an update (`Term.change_gradient`); None: nothing"""
        terms = [term for term in self.named_terms().values() if term.changes_gradient]
        if not terms:
            return None

        def change() -> None:
            for term in terms:
                term.change_gradient(model)

        return change

    def consolidate(self, model: CoreModel, batches: Callable[[], Iterable[Batch]]) -> None:
        """Call every term's `consolidate`; `batches` starts the finished phase's training data."""
        for term in self.named_terms().values():
            term.consolidate(model, batches(), self.pool)


def _not_updated(model: CoreModel, updated: Collection[str]) -> Iterator[str]:
    """Problems of plastic buffers that no term updates, one for each remedy."""
    needed = model.plastic_buffers if isinstance(model, Plastic) else {}
    missing = {name: remedy for name, remedy in needed.items() if name not in updated}
    for remedy in dict.fromkeys(missing.values()):
        first, *others = (name for name in missing if missing[name] == remedy)
        more = f" and {len(others)} more" if others else ""
        yield f"loss: no term updates {first}{more} of {type(model).__name__}; {remedy}."


def fraction_of(count: Count, total: Count) -> Count:
    """A count as a fraction of a total; 0 if the total is 0."""
    if isinstance(count, Tensor) or isinstance(total, Tensor):
        return count / torch.as_tensor(total).clamp_min(1e-12)
    return count / total if total else 0.0
