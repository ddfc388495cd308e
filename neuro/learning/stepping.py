"""Steps of one token, recorded once and replayed.

A step of a small model consists of about a thousand tensor operations on a few numbers each, and
Python takes longer to call them than they take. A trace of them is replayed without Python.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuro.models.base import CoreModel
from neuro.models.state import parts_of, with_parts

#: steps of a case before it is recorded: a recording costs about as much as so many steps
FIRST_STEPS = 64

#: torch.jit records no Python of 3.14 and later
_RECORDS = sys.version_info < (3, 14)


class _Recording(NamedTuple):
    """Replays a step: token `[B, 1]` and the state's tensors to values and the new tensors.

    `advance`: what a step adds to each integer of the state.
    """

    replay: Callable[..., tuple[Tensor, ...]]
    advance: tuple[int, ...]


class _Step(nn.Module):
    """A step of a model as a function of tensors; a module, so that a trace shares its weights."""

    def __init__(self, model: CoreModel, state: Any):
        super().__init__()
        self.model = model
        self._state = state

    def forward(self, token: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        state = with_parts(self._state, tensors, parts_of(self._state)[1])
        output = self.model(token, state, dt_ms=None)
        return (output.values, *parts_of(output.state)[0])


class Stepper:
    """Runs a model in evaluation mode on one token of each sequence at a time.

    Steps of a case (`CoreModel.step_case`) are recorded after some ordinary ones. Weights may
    change between steps; phase flags of the model (`set_phase`) may not.
    """

    def __init__(self, model: CoreModel):
        self.model = model
        self._steps: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Values `[B, 1, outputs]` and the new state after a token `[B, 1]`."""
        case = self.model.step_case(state) if _RECORDS else None
        recording = self._recordings.get(case)
        if recording is not None:
            tensors, counts = parts_of(state)
            values, *tensors = recording.replay(token, *tensors)
            counts = [a + b for a, b in zip(counts, recording.advance, strict=True)]
            return values, with_parts(state, tensors, counts)
        output = self.model(token, state, dt_ms=None)
        self._steps[case] += 1
        if case is not None and self._steps[case] == FIRST_STEPS:
            self._recordings[case] = self._record(token, state, output.state)
        return output.values, output.state

    def _record(self, token: Tensor, state: Any, after: Any) -> _Recording:
        tensors, counts = parts_of(state)
        with warnings.catch_warnings():
            # torch.jit is deprecated in favour of compilers, which take a minute for such a step;
            # what Python decides from shapes and integers is constant within a case
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            replay = torch.jit.trace(_Step(self.model, state), (token, *tensors), check_trace=False)
        advance = tuple(b - a for a, b in zip(counts, parts_of(after)[1], strict=True))
        return _Recording(replay, advance)
