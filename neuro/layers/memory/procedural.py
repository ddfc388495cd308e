"""Procedural memory: fast weights of each layer, r slots per column and stream.

Slots hold keys K and values V (unit vectors, `[r, D_h]`), strengths a and eligibilities eK, eV.

Read, with slots that do not change within a span:

    s_t = sum_i a_i <K_i, unit(x_t)> V_i,    y_t = s_t + MLP(LN(s_t))

Eligibility of slot i after each token, with k = unit(W_k x_{t-1}), v = W_v o_t:

    e_i <- rho c_t e_i + g_t softmax_i(<K_i, k> / T) (k, v)
    g_t = clip(surprise_t / 5, 0, 1),   rho = 0.95

c_t is 0 at the first token of a document. The softmax over slots (temperature T = 0.1) makes their
eligibilities differ, as in soft clustering; without it all slots would store the same.

Commit at the end of a span. A neuromodulator gives the share p, the retention lambda, the rate g,
scores b_i of the slots and a temperature tau, from the mean |eK_i|, sum(a) / budget, the span's
surprise and 8 linear features of the layer's hidden state:

    w = softmax_i((<K_i, unit(eK_i)> - 0.5 a_i + b_i) / tau)
    alpha_i = w_i g p n_i / (n_i + 1),   n_i = |eK_i|
    K_i <- unit(K_i + m_i (unit(eK_i) - K_i)), and V_i likewise,   m_i = alpha_i / (a_i + alpha_i)
    a_i <- clip(a_i (1 - p (1 - lambda)) + alpha_i, 0, 3), scaled so that sum(a) <= 4
    e_i <- (1 - p) e_i

Two things differ from the published equations, so that single pairs can be recalled:

- The key is the layer's input one token earlier (published: x_t). A read with x_t then finds what
  followed that input before, as the keys and values of kNN-LM do (Khandelwal et al. 2020); with
  both from the same token, key and value describe the same token, and a read returns what is known.
  W_k begins as the identity, so that reads match from the beginning.
- K and V move by m_i (published: alpha_i), so that they are means weighted by strengths, as in the
  episodic memory. alpha is a few percent, and the first V of a slot is a unit vector whatever its
  eligibility: moved by alpha, slots kept what the first span of a document had left in them.

A slot without eligibility gains nothing. When a document begins, slots return to a fixed set of
distinct random keys with strength 0; otherwise they would all move to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor, nn

from neuro.config.types import STRICT
from neuro.layers.memory.columns import ColumnLinear, ColumnPerceptron, unit, within_budget
from neuro.layers.memory.documents import Documents
from neuro.layers.memory.neuromodulator import Neuromodulator, Signal

#: sum of the strengths of a column's slots, at most
BUDGET = 4.0
_STRONGEST = 3.0  # strength of one slot, at most
_RHO = 0.95  # eligibility kept per token
_ROUTING = 0.1  # temperature at which tokens choose slots
_FEATURES = 8  # of the hidden state, for the neuromodulator


@dataclass(frozen=True)
class Procedural:
    """Settings: `slots` per column, and the hidden width of the read-out's MLP in widths D_h."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    slots: Annotated[int, Interval(ge=1, le=4096)]
    hidden: Annotated[float, Interval(gt=0, le=100)] = 6.25


class ProceduralState(NamedTuple):
    """Slots of G memories and N streams: vectors `[N, G, r, D_h]`, strengths `[N, G, r]`.

    `last_key` `[N, G, D_h]`: key of the last token's input, for the value of the next token.
    Within the model's forward pass the first two dimensions are exchanged.
    """

    keys: Tensor
    values: Tensor
    strengths: Tensor
    key_eligibility: Tensor
    value_eligibility: Tensor
    last_key: Tensor


class ProceduralRead(nn.Module):
    """The read-out of one layer's memories, one for each column."""

    def __init__(self, columns: int, width: int, settings: Procedural):
        super().__init__()
        self.perceptron = ColumnPerceptron(columns, width, int(settings.hidden * width))

    def forward(self, x_CNPh: Tensor, keys: Tensor, values: Tensor, strengths: Tensor) -> Tensor:
        """y of each token, `[C, N, P, D_h]`.

        keys, values: the layer's slots `[C, N, r, D_h]`; strengths: `[C, N, P, r]`, as a token
        finds them
        """
        match = unit(x_CNPh.float()) @ keys.mT
        found = ((match * strengths) @ values).to(x_CNPh)
        y: Tensor = found + self.perceptron(found)
        return y


class ProceduralMemory(nn.Module):
    """The writes of the memories of all layers and columns, G in number, at once.

    States and activations have the G memories first.
    """

    seeds: Tensor

    def __init__(self, memories: int, width: int, settings: Procedural):
        super().__init__()
        slots = settings.slots
        self.key = ColumnLinear(memories, width, width, bias=False)
        with torch.no_grad():
            self.key.weight.copy_(torch.eye(width))
        self.value = ColumnLinear(memories, width, width, bias=False)
        self.features = ColumnLinear(memories, width, _FEATURES, bias=False)
        self.neuromodulator = Neuromodulator(
            memories,
            3 + _FEATURES,
            (
                Signal("share", "fraction", 0.5),
                Signal("retention", "fraction", 0.99),
                Signal("rate", "fraction", 0.3),
                Signal("temperature", "positive", 1.0),
                Signal("scores", "score", 0.0, slots),
            ),
        )
        self.register_buffer("seeds", unit(torch.randn(memories, slots, width)))

    def initial_state(self, streams: int) -> ProceduralState:
        """Seed keys with strength 0, `[N, G, ...]`."""
        keys = self.seeds.expand(streams, -1, -1, -1)
        empty = torch.zeros_like(keys)
        return ProceduralState(
            keys.clone(),
            empty,
            empty[..., 0].clone(),
            empty.clone(),
            empty.clone(),
            empty[:, :, 0].clone(),
        )

    def found(self, state: ProceduralState, documents: Documents) -> Tensor:
        """Strengths as each token finds them, `[G, N, P, r]`: 0 in documents that begin here."""
        return state.strengths[:, :, None] * documents.carried[..., None]

    def observe(
        self,
        x_GNPh: Tensor,
        o_GNPh: Tensor,
        surprise_NP: Tensor,
        state: ProceduralState,
        documents: Documents,
    ) -> ProceduralState:
        """Add tokens (inputs x, outputs o) to the eligibilities, and reset what has ended."""
        inputs = unit(self.key(x_GNPh).float())
        keys = torch.cat((state.last_key[:, :, None], inputs[:, :, :-1]), 2)
        values = self.value(o_GNPh).float()
        state = self._renewed(state, documents.renewed)
        steps = surprise_NP.shape[1]
        ages = torch.arange(steps - 1, -1, -1, device=surprise_NP.device)
        # only tokens of the last document count: the product of c_t
        gates = (surprise_NP / 5).clamp(0, 1) * _RHO**ages * documents.last
        chosen = ((keys @ state.keys.mT) / _ROUTING).softmax(-1) * gates[..., None]
        kept = _RHO**steps
        return state._replace(
            key_eligibility=kept * state.key_eligibility + chosen.mT @ keys,
            value_eligibility=kept * state.value_eligibility + chosen.mT @ values,
            last_key=inputs[:, :, -1],
        )

    def commit(
        self, state: ProceduralState, surprise_N: Tensor, hidden_GNh: Tensor
    ) -> tuple[ProceduralState, Tensor]:
        """The state after the end of a span, and the sum of alpha `[G, N]`."""
        size = state.key_eligibility.square().sum(-1).add(1e-12).sqrt()
        filled = size / (1 + size)
        inputs = torch.cat(
            (
                filled.mean(-1, keepdim=True),
                state.strengths.sum(-1, keepdim=True) / BUDGET,
                (surprise_N / (1 + surprise_N)).expand(len(size), -1)[..., None],
                self.features(hidden_GNh).tanh().float(),
            ),
            -1,
        )
        signals = self.neuromodulator(inputs)
        share = signals["share"]
        direction = unit(state.key_eligibility)
        fit = (state.keys * direction).sum(-1) - 0.5 * state.strengths + signals["scores"]
        chosen = (fit / signals["temperature"]).softmax(-1)
        alpha = chosen * signals["rate"] * share * filled
        step = (alpha / (state.strengths + alpha).clamp_min(1e-12))[..., None]
        strengths = state.strengths * (1 - share * (1 - signals["retention"])) + alpha
        strengths = within_budget(strengths.clamp(0, _STRONGEST), BUDGET)
        values = state.values + step * (unit(state.value_eligibility) - state.values)
        return ProceduralState(
            unit(state.keys + step * (direction - state.keys)),
            unit(values),
            strengths,
            (1 - share[..., None]) * state.key_eligibility,
            (1 - share[..., None]) * state.value_eligibility,
            state.last_key,
        ), alpha.sum(-1)

    def _renewed(self, state: ProceduralState, renewed: Tensor) -> ProceduralState:
        """The state with the streams in `renewed` `[N]` back at the seeds."""
        rows = renewed[:, None, None]
        return ProceduralState(
            torch.where(rows, self.seeds[:, None], state.keys),
            state.values.masked_fill(rows, 0),
            state.strengths.masked_fill(renewed[:, None], 0),
            state.key_eligibility.masked_fill(rows, 0),
            state.value_eligibility.masked_fill(rows, 0),
            state.last_key,
        )
