"""Episodic memory: M slots of a column and stream, written with what was new in each span.

Slots hold keys K (unit vectors), values V `[M, dim]` and strengths S. From an embedding e and the
working memory's output y_wm at the same token:

    q = unit(W_q [e; y_wm])
    y = s + MLP(LN(s)),   s = sum_j softmax_j(beta <q, K_j> + log S_j) V_j

over the `read` slots with the largest <q, K_j> among those with S > 0; beta is learned, and the
logarithm makes the strength a prior, so that weak memories fade. Every token but the first one of a
document is a candidate with

    k = unit(W_k [e; y_wm]_{t-1}),   v = W_v o_t  (o: output of the last layer)
    novelty = (u + d) / 2,   u = s_t / (s_t + sigma + 1),   d = (1 - max_j <k, K_j>) / 2

where s_t is its surprise and sigma that of the previous span: relative, so that it does not
saturate. At the end of a span the `write` most novel candidates are stored, each in the slot with
the highest score <k, K_j> - ww S_j and in the next `spread` - 1 occupied ones (top-k), of those
that no more novel candidate has taken:

    w = softmax(10 (<k, K_j> - ww S_j) / tau),   delta_j = w_j g novelty
    S_j <- decay S_j + delta_j,  at most 3;  K, V <- moving averages with the rate delta_j / S_j

The rate is 1 for an empty slot, which takes a candidate as it is, and small for a strong one. All
strengths decay, and are scaled so that sum(S) <= 8. A neuromodulator gives g, tau, ww and decay
from the candidates' mean and largest novelty, sum(S) / budget and the span's surprise. An empty
slot scores (1 + <k, K_j>) / 2 with a learned K_j: it takes a candidate as it is, so that only a
stored key that is clearly closer is changed in its place.

Two things differ from the published equations, so that single pairs can be recalled:

- The key is that of the token before (published: of the same token), as in kNN-LM (Khandelwal et
  al. 2020): a query then finds what followed when the context was like the present one. W_q and W_k
  begin equal, so that queries match the keys of equal contexts from the beginning.
- The factor 10 makes a temperature of 1 a tenth of a cosine. Without it, a candidate for an empty
  slot goes to half into the nearest stored one and replaces half of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from neuro.config.types import STRICT
from neuro.layers.initial import initialise
from neuro.layers.memory.columns import ColumnLinear, ColumnPerceptron, unit, within_budget
from neuro.layers.memory.documents import Documents
from neuro.layers.memory.neuromodulator import Neuromodulator, Signal

#: sum of the strengths of a column's slots, at most
BUDGET = 8.0
_STRONGEST = 3.0  # strength of one slot, at most
_SHARPNESS = 10.0  # of the choice of slots, per unit of cosine


@dataclass(frozen=True)
class Episodic:
    """Settings: slots, their width, slots that are read, candidates per span, slots of each."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    slots: Annotated[int, Gt(0)]
    dim: Annotated[int, Gt(0)]
    read: Annotated[int, Gt(0)]
    write: Annotated[int, Gt(0)]
    spread: Annotated[int, Ge(2)] = 2

    def __post_init__(self) -> None:
        if max(self.read, self.write * self.spread) > self.slots:
            raise ValueError(
                f"slots: got {self.slots}; a span reads {self.read} and writes {self.write} "
                f"candidates to {self.spread} slots each. Give at least "
                f"{max(self.read, self.write * self.spread)}"
            )


class EpisodicState(NamedTuple):
    """Slots `[N, C, M, dim]` with strengths `[N, C, M]`, and the candidates of the current span.

    Candidates are `[N, C, write, dim]`, with novelty `[N, C, write]`, 0 where there is none yet.
    `last_key` `[N, C, dim]`: key of the last token's context, for the value of the next
    token. Within the memory the first two dimensions are exchanged.
    """

    keys: Tensor
    values: Tensor
    strengths: Tensor
    new_keys: Tensor
    new_values: Tensor
    novelty: Tensor
    last_key: Tensor


class EpisodicMemory(nn.Module):
    """The episodic memories of all columns; states and activations have columns first.

    `inputs`: width of [e; y_wm]; `width`: D_h of the columns
    """

    def __init__(self, columns: int, inputs: int, width: int, settings: Episodic):
        super().__init__()
        self.columns = columns
        self.settings = settings
        dim = settings.dim
        self.query = nn.Linear(inputs, columns * dim, bias=False)
        self.key = nn.Linear(inputs, columns * dim, bias=False)
        initialise(self.query.weight, inputs)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)
        self.value = ColumnLinear(columns, width, dim, bias=False)
        self.log_beta = nn.Parameter(torch.full((columns,), 10.0).log())
        self.seeds = nn.Parameter(unit(torch.randn(columns, settings.slots, dim)))
        self.readout = ColumnPerceptron(columns, dim, 4 * dim)
        self.neuromodulator = Neuromodulator(
            columns,
            4,
            (
                Signal("rate", "fraction", 0.3),
                Signal("temperature", "positive", 1.0),
                Signal("occupied", "positive", 0.5),
                Signal("decay", "fraction", 0.999),
            ),
        )

    def initial_state(self, streams: int) -> EpisodicState:
        """Empty slots, `[N, C, ...]`."""
        s = self.settings
        zeros = self.log_beta.new_zeros
        slots = (streams, self.columns, s.slots)
        new = (streams, self.columns, s.write)
        return EpisodicState(
            zeros(*slots, s.dim),
            zeros(*slots, s.dim),
            zeros(slots),
            zeros(*new, s.dim),
            zeros(*new, s.dim),
            zeros(new),
            zeros(streams, self.columns, s.dim),
        )

    def addresses(self, inputs_NTi: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of tokens from [e; y_wm], `[C, N, T, dim]` each."""
        query, key = (
            unit(linear(inputs_NTi).float().unflatten(-1, (self.columns, -1))).permute(2, 0, 1, 3)
            for linear in (self.query, self.key)
        )
        return query, key

    def read(self, query_CNPd: Tensor, state: EpisodicState, documents: Documents) -> Tensor:
        """y of each token `[C, N, P, dim]`; tokens of later documents find empty slots."""
        similar = query_CNPd @ state.keys.mT
        stored = (state.strengths > 0)[:, :, None] & documents.carried[..., None]
        lowest = torch.finfo(similar.dtype).min
        similar = torch.where(stored, similar, lowest)
        bound = similar.detach().topk(self.settings.read, -1).values[..., -1:]
        chosen = stored & (similar >= bound)
        strengths = state.strengths.clamp_min(1e-6).log()[:, :, None]
        scores = self.log_beta.exp().view(-1, 1, 1, 1) * similar + strengths
        weights = torch.where(chosen, scores, lowest).softmax(-1) * chosen
        found = weights @ state.values
        y: Tensor = found + self.readout(found)
        return y

    def observe(
        self,
        key_CNPd: Tensor,
        o_CNPh: Tensor,
        surprise_NP: Tensor,
        sigma_NP: Tensor,
        state: EpisodicState,
        documents: Documents,
        starts_NP: Tensor,
    ) -> tuple[EpisodicState, Tensor]:
        """Keep the most novel candidates so far, and forget documents that have ended.

        Returns the new state and the tokens' novelty `[C, N, P]`. `sigma` `[N, P]` is the surprise
        of the previous span as the tokens' document has it; `starts` `[N, P]`: tokens without a
        context, also where memories outlive documents.
        """
        last_key = key_CNPd[:, :, -1]
        key_CNPd = torch.cat((state.last_key[:, :, None], key_CNPd[:, :, :-1]), 2)
        values = self.value(o_CNPh).float()
        stored = (state.strengths > 0)[:, :, None] & documents.carried[..., None]
        similar = torch.where(stored, key_CNPd @ state.keys.mT, -1.0).amax(-1)
        # without a stored key, a distance between those of equal and of opposite keys
        similar = torch.where(stored.any(-1), similar, 0.0)
        unexpected = surprise_NP / (surprise_NP + sigma_NP + 1)
        novelty = (0.5 * (unexpected + 0.5 * (1 - similar))).masked_fill(starts_NP, 0)
        old = state.novelty.masked_fill(documents.renewed[:, None], 0)
        together = torch.cat((old, novelty * documents.last), -1)
        best, place = together.topk(self.settings.write, -1)
        place = place[..., None].expand(*place.shape, self.settings.dim)
        exists = (best > 0)[..., None]
        rows = documents.renewed[:, None, None]
        return EpisodicState(
            state.keys.masked_fill(rows, 0),
            state.values.masked_fill(rows, 0),
            state.strengths.masked_fill(documents.renewed[:, None], 0),
            torch.cat((state.new_keys, key_CNPd), 2).gather(2, place) * exists,
            torch.cat((state.new_values, values), 2).gather(2, place) * exists,
            best,
            last_key,
        ), novelty

    def commit(self, state: EpisodicState, surprise_N: Tensor) -> EpisodicState:
        """The state after the end of a span: candidates are written, all strengths decay."""
        inputs = torch.stack(
            (
                state.novelty.mean(-1),
                state.novelty.amax(-1),
                state.strengths.sum(-1) / BUDGET,
                (surprise_N / (1 + surprise_N)).expand(len(state.novelty), -1),
            ),
            -1,
        )
        signals = self.neuromodulator(inputs)
        occupied = state.strengths > 0
        keys = torch.where(occupied[..., None], state.keys, unit(self.seeds)[:, None])
        scores = state.new_keys @ keys.mT
        scores = torch.where(occupied[:, :, None], scores, 0.5 + 0.5 * scores)
        scores = scores - (signals["occupied"] * state.strengths)[:, :, None]
        place = self._places(scores, occupied)
        allowed = occupied[:, :, None].expand_as(scores).gather(-1, place)
        allowed[..., 0] = True
        fit = _SHARPNESS * scores.gather(-1, place) / signals["temperature"][..., None]
        chosen = torch.where(allowed, fit, -torch.inf).softmax(-1)
        delta = (chosen * (signals["rate"] * state.novelty)[..., None]).flatten(2)
        place = place.flatten(2)
        decayed = state.strengths * signals["decay"]
        strengths = decayed.scatter_add(-1, place, delta)
        rate = delta / (strengths.gather(-1, place) + 1e-6)
        slots = place[..., None].expand(*place.shape, self.settings.dim)
        new_keys, new_values = (
            x.repeat_interleave(self.settings.spread, 2) for x in (state.new_keys, state.new_values)
        )
        step = rate[..., None]
        old_keys, old_values = keys.gather(2, slots), state.values.gather(2, slots)
        written = unit(old_keys + step * (new_keys - old_keys))
        written = torch.where(step > 0, written, state.keys.gather(2, slots))
        strengths = within_budget(strengths.clamp(0, _STRONGEST), BUDGET)
        return EpisodicState(
            state.keys.scatter(2, slots, written),
            state.values.scatter(2, slots, old_values + step * (new_values - old_values)),
            strengths,
            torch.zeros_like(state.new_keys),
            torch.zeros_like(state.new_values),
            torch.zeros_like(state.novelty),
            state.last_key,
        )

    @torch.no_grad()
    def _places(self, scores: Tensor, occupied: Tensor) -> Tensor:
        """Slots of each candidate, `[C, N, write, spread]`; no slot is taken twice.

        The first one may be empty, the others are occupied: a candidate in two empty slots would
        only be a duplicate.
        """
        free = scores
        places = []
        for candidate in range(scores.shape[2]):
            own = free[:, :, candidate]
            first = own.argmax(-1, keepdim=True)
            taken = torch.zeros_like(own).scatter(-1, first, -torch.inf)
            others = torch.where(occupied, own + taken, -torch.inf)
            place = torch.cat((first, others.topk(self.settings.spread - 1, -1).indices), -1)
            taken = torch.zeros_like(own).scatter(-1, place, -torch.inf)
            free = free + taken[:, :, None]
            places.append(place)
        return torch.stack(places, 2)
