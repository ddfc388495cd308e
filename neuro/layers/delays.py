"""Axonal delays: spikes of each channel arrive a whole number of steps later."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DelayLine(nn.Module):
    """Delays each channel of a sequence by its own constant number of steps.

    Delays up to `max_ms` are drawn uniformly, and rounded to steps of the data, the shortest of
    which takes `dt_ms`. The state are the inputs of the last steps.
    """

    delays_ms: Tensor

    def __init__(self, channels: int, max_ms: float, dt_ms: float):
        super().__init__()
        self.longest = round(max_ms / dt_ms)
        self.register_buffer("delays_ms", max_ms * torch.rand(channels))

    def initial_state(self, batch_size: int) -> Tensor:
        """No inputs so far, `[B, steps, C]`."""
        return self.delays_ms.new_zeros(batch_size, self.longest, len(self.delays_ms))

    def forward(self, x_TBC: Tensor, state: Tensor | None, dt_ms: float) -> tuple[Tensor, Tensor]:
        """The delayed sequence, and the state after it."""
        steps, batch = x_TBC.shape[:2]
        before = self.initial_state(batch) if state is None else state
        known_TBC = torch.cat([before.transpose(0, 1).to(x_TBC), x_TBC])
        delays = (self.delays_ms / dt_ms).round().long()
        source_TC = self.longest - delays + torch.arange(steps, device=x_TBC.device)[:, None]
        delayed = known_TBC.gather(0, source_TC[:, None].expand(x_TBC.shape))
        return delayed, known_TBC[steps:].transpose(0, 1).contiguous()
