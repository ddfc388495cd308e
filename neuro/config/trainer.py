"""The `trainer` node of a config: intervals, limits, monitored metric and objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict, model_validator

from neuro.config.types import Count

Direction = Literal["max", "min"]

#: where the next batch's sequences start: each where its place in the batch ended, or all from the
#: final state of one sample
Take = Literal["stream", "random", "first", "last"]


class Interval(BaseModel):
    """Every n optimizer updates, every n epochs, or both, and at a phase's end; null is off."""

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: Count | None = None
    epochs: Count | None = None

    def due(self, phase_step: int, finished_epoch: int | None, over: bool) -> bool:
        """True if something is due after an update.

        `finished_epoch`: number of the epoch that the update ended, if it did; `over`: whether it
        was the last update of the phase.
        """
        if self.steps is None and self.epochs is None:
            return False
        by_steps = self.steps is not None and phase_step % self.steps == 0
        by_epochs = bool(self.epochs and finished_epoch and finished_epoch % self.epochs == 0)
        return over or by_steps or by_epochs


class Truncation(BaseModel):
    """Truncated backpropagation through time in chunks of `length` frames, see `learning`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    length: Count
    stride: Count | None = None

    @property
    def steps(self) -> int:
        """Frames from the beginning of a chunk to that of the next."""
        return self.stride or self.length

    @model_validator(mode="after")
    def _no_gaps(self) -> Truncation:
        if self.steps > self.length:
            raise ValueError(
                f"a stride of {self.stride} leaves out frames between chunks of {self.length}; "
                "it can be at most the length"
            )
        return self


class Stateful(BaseModel):
    """Stateful training: batches start from the final states of the previous batch, until a reset.

    Each validation and each test has its own streams, which start from the initial state. Those of
    training last until the end of an epoch (`reset` epoch) or phase (`document`, `never`); a phase
    with `carry.state` passes them to the next one. With `document` a sequence that begins a
    document (`Batch.starts`) starts from the initial state, on every split.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    training: bool = False
    validation: bool = False
    test: bool = False
    reset: Literal["epoch", "document", "never"] = "epoch"
    take: Take = "stream"

    @model_validator(mode="after")
    def _has_an_effect(self) -> Stateful:
        if self.reset != "epoch" and not self.training:
            raise ValueError(
                f"reset={self.reset} is for streams that live on from epoch to epoch; "
                "give training: true"
            )
        return self


class LossScale(BaseModel):
    """Dynamic scaling of the loss under 16-bit precision, for torch's GradScaler.

    The scale grows by `growth_factor` after `growth_interval` updates without an overflow, and
    shrinks by `backoff_factor`, but not below `floor`, with every overflow.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    init_scale: Annotated[float, Gt(0)] = 1024.0
    growth_factor: Annotated[float, Gt(1)] = 1.5
    growth_interval: Count = 200
    backoff_factor: Annotated[float, Gt(0), Lt(1)] = 0.5
    floor: Annotated[float, Ge(0)] = 1.0


class LRFindSettings(BaseModel):
    """An exponential sweep from `min_lr` to `max_lr` in `steps` optimizer updates.

    Before it, `burn_in` updates at `min_lr` are made, in which statistics such as those of a
    discriminant readout converge. The loss is averaged with the decay `smoothing`, corrected
    for its start at zero. After its first tenth the sweep ends when this exceeds `stop_factor`
    times its least value.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    min_lr: Annotated[float, Gt(0)] = 1e-7
    max_lr: Annotated[float, Gt(0)] = 10.0
    steps: Annotated[int, Ge(10)] = 100
    burn_in: Annotated[int, Ge(0)] = 20
    smoothing: Annotated[float, Ge(0), Lt(1)] = 0.98
    stop_factor: Annotated[float, Gt(1)] = 4.0

    @model_validator(mode="after")
    def _upwards(self) -> LRFindSettings:
        if self.min_lr >= self.max_lr:
            raise ValueError(f"min_lr ({self.min_lr}) must be below max_lr ({self.max_lr})")
        return self

    def rates(self) -> Iterator[float]:
        """The rate of each update."""
        ratio = self.max_lr / self.min_lr
        for step in range(self.steps):
            yield self.min_lr * ratio ** (step / (self.steps - 1))


class TrainerSettings(BaseModel):
    """Intervals, the monitored metric and the limits of the training loop."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    monitor: str
    direction: Direction | Literal["auto"]
    objective: str
    accumulate: Count
    clip_norm: Annotated[float, Gt(0)] | None
    clip_value: Annotated[float, Gt(0)] | None = None
    max_skipped: Count | None
    scaler: LossScale = LossScale()
    log: Interval
    validation: Interval
    checkpoint: Interval
    keep: Annotated[int, Ge(0)]
    prefetch: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    tbptt: Truncation | None = None
    stateful: Stateful = Stateful()
    lr_find: LRFindSettings = LRFindSettings()

    @property
    def better_is(self) -> Direction:
        """The direction, which `for_metrics` has settled."""
        assert self.direction != "auto"
        return self.direction

    #: what is measured on every split
    _measures: tuple[str, ...] = ("accuracy", "loss")

    #: the direction of every metric, by its name without split and task
    _directions: Mapping[str, Direction] = {}

    def direction_of(self, metric: str) -> Direction:
        """The better direction of a validated metric such as `val/loss`."""
        if metric == self.monitor:
            return self.better_is
        return self._directions.get(metric.rpartition("/")[2], "min")

    @property
    def measures(self) -> tuple[str, ...]:
        """Names measured on every split: the metrics and the loss."""
        return self._measures

    def for_metrics(self, directions: Mapping[str, Direction]) -> TrainerSettings:
        """Replace `auto` by values for the metrics of an objective, given with their directions.

        Monitor and objective are the first metric; the direction is that of the monitored one.
        """
        first = next(iter(directions))
        monitor = f"val/{first}" if self.monitor == "auto" else self.monitor
        direction = directions.get(monitor.rpartition("/")[2], "min")
        settled = self.model_copy(
            update={
                "monitor": monitor,
                "objective": f"test/{first}" if self.objective == "auto" else self.objective,
                "direction": direction if self.direction == "auto" else self.direction,
            }
        )
        settled._measures = tuple(directions)
        settled._directions = dict(directions)
        return settled

    def better(self, value: float, than: float | None) -> bool:
        """True if a monitored value is an improvement."""
        if than is None:
            return value == value  # anything but NaN
        return value > than if self.better_is == "max" else value < than
