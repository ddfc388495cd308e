"""Change a value over training: a term's weight, the scale of outputs, the length of sequences.

The table `TARGETS` maps names to small classes; a new kind of value is a new row. Levels of noise
change by the same keys in `callbacks/noise.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch

from neuro.data.base import Batch
from neuro.errors import nearest
from neuro.models.capabilities import Delayed
from neuro.training.annealing import Epoch, Period, Ramp, Shape, epochs_done
from neuro.training.callbacks.base import Callback, Setup, TrainerView


class Anneal(Callback):
    """Sets `target` before every update to a value that goes from `start` to `end`.

    - `loss.<term>`: the weight of a term, instead of that in `loss`; logged as
      `train/weight/<term>`
    - `objective.scale`: the factor of the pooled outputs, logged as `train/pooling_scale`. It is
      saved with the objective, and later evaluations use the last value
    - `sequence.length`: training sequences are cut to this number of steps if they are longer; held
      frames are held for that many steps. `end` None is the data's own length
    - `sequence.resolution`: number of steps of training sequences of unchanged duration: the time
      step grows as the number of steps falls, and of a recorded sequence the frames nearest to the
      centres of the new steps are used. Both are logged as `train/frames`

    - `delays.width`: the standard deviation of learned delays in steps, logged as
      `train/delay_width`

    A teacher's trajectories and targets per step are cut or subsampled with the inputs. Validation
    and tests use whole sequences. `shape` and epochs: see `Ramp`.
    """

    def __init__(
        self,
        target: str,
        start: float,
        end: float | None,
        shape: Shape = "linear",
        start_epoch: Epoch = 0.0,
        end_epoch: Epoch = 1.0,
        period_epochs: Period = 1.0,
    ):
        self.target = target
        self._target = make_target(target)
        if end is None and not isinstance(self._target, _Sequences):
            raise ValueError("end: null is the length of a sequence; give a number")
        for key, value in (("start", start), ("end", end)):
            if value is not None and (problem := self._target.misfit(value)):
                raise ValueError(f"{key} ({value:g}) must be {problem} for target={target}")
        self.end = end
        self._ramp = Ramp(
            start, start if end is None else end, shape, start_epoch, end_epoch, period_epochs
        )
        self._ramp.check()

    def check(self, setup: Setup) -> Iterator[str]:
        same = [
            name
            for name, callback in setup.callbacks.items()
            if isinstance(callback, Anneal) and callback.target == self.target
        ]
        if len(same) > 1 and setup.callbacks[same[0]] is not self:
            yield f"target: callbacks.{same[0]} changes {self.target} already."
        yield from self._target.check(setup)

    def on_batch(self, trainer: TrainerView, batch: Batch) -> Batch:
        ramp = self._ramp if self.end is not None else self._ramp._replace(end=batch.steps)
        return self._target.set(trainer, batch, ramp.at(epochs_done(trainer)))

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if metrics:
            trainer.log({self._target.metric: self._target.value(trainer)})


class Target(ABC):
    """A value that `Anneal` sets, logged as `metric`."""

    metric: str

    def misfit(self, value: float) -> str:
        """The violated condition of a value, in words; empty if it is allowed."""
        return ""

    def check(self, setup: Setup) -> Iterator[str]:
        """Problems of the target in this experiment, each beginning with `target`."""
        return iter(())

    @abstractmethod
    def set(self, trainer: TrainerView, batch: Batch, value: float) -> Batch:
        """Set the value for a micro-batch; returns the batch to train on."""

    @abstractmethod
    def value(self, trainer: TrainerView) -> float:
        """The value of the last micro-batch."""


class TermWeight(Target):
    """The weight of a term of the objective."""

    def __init__(self, term: str):
        self.term = term
        self.metric = f"train/weight/{term}"

    def misfit(self, value: float) -> str:
        return "" if value >= 0 else "at least 0"

    def check(self, setup: Setup) -> Iterator[str]:
        terms = setup.objective.named_terms()
        if self.term not in terms:
            yield (
                f"target: got 'loss.{self.term}'; the loss has no such term. "
                f"Its terms: {', '.join(terms)}.{nearest(self.term, terms)}"
            )

    def set(self, trainer: TrainerView, batch: Batch, value: float) -> Batch:
        trainer.objective.set_weight(self.term, value)
        return batch

    def value(self, trainer: TrainerView) -> float:
        return trainer.objective.named_terms()[self.term].weight


class OutputScale(Target):
    """The factor of the pooled outputs."""

    metric = "train/pooling_scale"

    def misfit(self, value: float) -> str:
        return "" if value > 0 else "above 0"

    def set(self, trainer: TrainerView, batch: Batch, value: float) -> Batch:
        trainer.objective.set_scale(value)
        return batch

    def value(self, trainer: TrainerView) -> float:
        return float(trainer.objective.scale)


class DelayWidth(Target):
    """The width of learned delays."""

    metric = "train/delay_width"

    def misfit(self, value: float) -> str:
        return "" if value > 0 else "above 0"

    def check(self, setup: Setup) -> Iterator[str]:
        if not isinstance(setup.model, Delayed) or setup.model.delay_width is None:
            yield (
                "target: got 'delays.width'; the model learns no delays. Use model=rsnn with "
                "model.delays_ms and model.delay_kind=synaptic or axonal."
            )

    def set(self, trainer: TrainerView, batch: Batch, value: float) -> Batch:
        assert isinstance(trainer.model, Delayed), "refused by check"
        trainer.model.set_delay_width(value)
        return batch

    def value(self, trainer: TrainerView) -> float:
        assert isinstance(trainer.model, Delayed), "refused by check"
        return trainer.model.delay_width or 0.0


class _Sequences(Target):
    """The number of steps of training sequences, rounded."""

    metric = "train/frames"

    def __init__(self) -> None:
        self._frames = 0

    def misfit(self, value: float) -> str:
        return "" if value >= 1 and value == int(value) else "a whole number of at least 1"

    def value(self, trainer: TrainerView) -> float:
        return float(self._frames)


class SequenceLength(_Sequences):
    """Training sequences are cut to this number of steps."""

    def set(self, trainer: TrainerView, batch: Batch, value: float) -> Batch:
        frames = round(value)
        if batch.frames is None or batch.teacher is not None:  # there are no more steps to show
            frames = min(frames, batch.steps)
        self._frames = frames
        return batch.part(0, frames, per_step=trainer.objective.mapping == "seq2seq")


class SequenceResolution(_Sequences):
    """Training sequences get this number of steps, with their duration unchanged."""

    def set(self, trainer: TrainerView, batch: Batch, value: float) -> Batch:
        own, frames = batch.steps, round(value)
        self._frames = frames
        if batch.dt_ms is not None:
            batch = batch._replace(dt_ms=batch.dt_ms * own / frames)
        chosen = ((torch.arange(frames) + 0.5) * own / frames).long().to(batch.inputs.device)
        if trainer.objective.mapping == "seq2seq":
            batch = batch._replace(targets=batch.targets[:, chosen])
        if batch.teacher is not None:
            batch = batch._replace(teacher=batch.teacher[:, chosen])
        if batch.lengths is not None:
            batch = batch._replace(lengths=(chosen < batch.lengths[:, None]).sum(1))
        if batch.frames is not None:
            return batch._replace(frames=frames)
        return batch._replace(inputs=batch.inputs[:, chosen])


#: names of targets; `<...>` stands for a name of the user's
TARGETS: dict[str, Callable[..., Target]] = {
    "loss.<term>": TermWeight,
    "objective.scale": OutputScale,
    "delays.width": DelayWidth,
    "sequence.length": SequenceLength,
    "sequence.resolution": SequenceResolution,
}


def make_target(name: str) -> Target:
    """The target of a name in `TARGETS`. ValueError if there is none."""
    for known, kind in TARGETS.items():
        prefix, placeholder, _ = known.partition("<")
        if placeholder and name.startswith(prefix) and name != prefix:
            return kind(name.removeprefix(prefix))
        if name == known:
            return kind()
    raise ValueError(f"target: got '{name}'; allowed: {', '.join(TARGETS)}{nearest(name, TARGETS)}")
