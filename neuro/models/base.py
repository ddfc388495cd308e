"""The contract of a model: a map from (input sequence, state) to (output sequence, new state).

State is an argument and a result, never an attribute of the module: truncated backpropagation,
stateful training, persistent streams, generation, resume and hardware export depend on it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuro.errors import ConfigError, nearest


class ModelOutput(NamedTuple):
    """Result of a forward pass (a NamedTuple, because Lightning Fabric refuses frozen dataclasses).

    - `values`: `[B, T, outputs]`
    - `state`: the final state, from which the sequence can be continued
    - `records`: the traces named in `record`, time-major `[T, B, ...]` unless documented otherwise
    """

    values: Tensor
    state: Any
    records: dict[str, Tensor]


class CoreModel(nn.Module, ABC):
    """A network over sequences. Constructors take `spec: TaskSpec` from the program."""

    #: constructor arguments that the program supplies and a config may not
    supplied = ("spec",)

    @abstractmethod
    def forward(
        self,
        inputs: Tensor,
        state: Any = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        """Run over `inputs` `[B, T, ...]` with the time step of the data, None if it has none.

        `state=None` stands for `initial_state`; a given state is not changed. ConfigError for
        unknown names in `record`; traces that are not recorded have no cost.
        """

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """State before the first step: tensors, or (nested) NamedTuples, tuples or dictionaries.

        Every tensor has the batch in its first dimension (`models/state.py`).
        """

    @property
    def device(self) -> torch.device:
        """Device of the model's tensors."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def recordable(self) -> tuple[str, ...]:
        """Names that `record` accepts."""
        return ()

    def check_records(self, record: Sequence[str]) -> None:
        """ConfigError for names that cannot be recorded."""
        for name in record:
            if name not in self.recordable:
                raise ConfigError(
                    f"{type(self).__name__} records no '{name}'. It can record: "
                    f"{', '.join(self.recordable) or 'nothing'}.{nearest(name, self.recordable)}"
                )

    @property
    def phase_flags(self) -> tuple[str, ...]:
        """Names that `set_phase` accepts."""
        return ()

    def flag_problems(self, flags: Mapping[str, Any]) -> Iterable[str]:
        """Problems of values of phase flags, as in `lifelong: got 3; expected true or false.`

        Checked for all phases before training. Unknown names are reported elsewhere.
        """
        return ()

    def set_phase(self, **flags: Any) -> None:
        """Set phase flags of the model. ConfigError for unknown ones."""
        for name in flags:
            if name not in self.phase_flags:
                allowed = ", ".join(self.phase_flags) or "none"
                raise ConfigError(
                    f"{type(self).__name__} has no phase flag '{name}'. Allowed: {allowed}."
                    + nearest(name, self.phase_flags)
                )
            setattr(self, name, flags[name])

    def step_case(self, state: Any) -> Hashable | None:
        """Which operations a step of one token from this state runs, in evaluation mode.

        Steps of equal cases run the same operations, whatever the state's tensors hold, and add
        the same numbers to its integers, so that they can be recorded (`learning/stepping.py`).
        None: unknown; steps are not recorded.
        """
        return None

    def consolidate(self, batches: Iterable[Any]) -> None:
        """Called after a phase: store what later phases need (subspaces, grown structure)."""
