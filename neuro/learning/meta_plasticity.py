"""A small network that learns the rates of plasticity rules from the outcomes of training.

An LSTM (Hochreiter and Schmidhuber 1997) reads the last observations of training (performance,
loss, size of the weight changes) and proposes log-rates a = mu + spread * noise, which bounds turn
into rates low (high / low)^sigmoid(a). The outcome of a choice is the fall of the loss until the
next observation. The network is trained by the score function of the choice (REINFORCE, Williams
1992), with the running mean of the outcomes as baseline:

    d = (outcome - mean) / deviation * grad log N(a; mu, spread^2)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: decay of the running mean and mean square of the outcomes
MEMORY = 0.95


class Observation(NamedTuple):
    """Training since the last observation: performance, loss, mean size of weight changes."""

    performance: float
    loss: float
    change: float


class RateController(nn.Module):
    """Chooses `rates` rates within [low, high] after every observation.

    - `window`: observations that the LSTM reads; `units`: its size
    - `lr`: its learning rate (Adam); `spread`: standard deviation of the exploration
    - `seed`: of initial weights and exploration

    The first choice is close to the geometric mean of the bounds.
    """

    def __init__(
        self,
        rates: int,
        low: float,
        high: float,
        window: int = 100,
        units: int = 8,
        lr: float = 0.02,
        spread: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.low, self.high = low, high
        self.window = window
        self.spread = spread
        self.generator = torch.Generator().manual_seed(seed)
        self.lstm = nn.LSTM(len(Observation._fields), units, batch_first=True)
        self.head = nn.Linear(units, rates)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.1, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.parameters(), lr)
        self.observations: list[Observation] = []
        self.choice: Tensor | None = None  # the log-rates in use
        self.outcomes = torch.zeros(3)  # running mean, mean square, and the sum of their weights

    def step(self, observation: Observation) -> list[float]:
        """Learn from the outcome of the last choice, and choose the next rates."""
        if self.choice is not None:
            self._learn(self.observations[-1].loss - observation.loss, self.choice)
        self.observations = [*self.observations, observation][-self.window :]
        with torch.no_grad():
            mean = self._means()
        noise = torch.randn(len(mean), generator=self.generator)
        self.choice = mean + self.spread * noise
        return self._rates(self.choice)

    def expected(self) -> list[float]:
        """The rates that are chosen now without exploration."""
        with torch.no_grad():
            return self._rates(self._means())

    def _rates(self, choice: Tensor) -> list[float]:
        rates: list[float] = (self.low * (self.high / self.low) ** choice.sigmoid()).tolist()
        return rates

    def _means(self) -> Tensor:
        """The proposed log-rates for the observations so far, standardised over the window."""
        seen = torch.tensor(self.observations)
        spread = seen.std(0, correction=0)
        inputs = (seen - seen.mean(0)) / torch.where(spread > 0, spread, 1.0)
        means: Tensor = self.head(self.lstm(inputs[None])[0][0, -1])
        return means

    def _learn(self, outcome: float, choice: Tensor) -> None:
        """One step of the score function's gradient; the observations are those of the choice."""
        values = torch.tensor([outcome, outcome**2, 1.0])
        self.outcomes = MEMORY * self.outcomes + (1 - MEMORY) * values
        mean, square = self.outcomes[:2] / self.outcomes[2]
        deviation = (square - mean**2).clamp(min=0).sqrt()
        if deviation == 0:  # nothing to compare with yet
            return
        advantage = ((outcome - mean) / deviation).clamp(-3, 3)
        loss = advantage * ((choice - self._means()) / self.spread).square().sum() / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Everything that the next choices depend on, for checkpoints."""
        return {
            "weights": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observations": [list(seen) for seen in self.observations],
            "choice": self.choice,
            "outcomes": self.outcomes,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a result of `state`."""
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.observations = [Observation(*seen) for seen in state["observations"]]
        self.choice, self.outcomes = state["choice"], state["outcomes"]
        self.generator.set_state(state["generator"])
