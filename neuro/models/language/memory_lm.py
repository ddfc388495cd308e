"""A language model of affine-recurrent columns with working, procedural and episodic memory.

An embedding (scaled to unit root mean square) is mapped to D values that are cut into C columns of
D_h = D / C, each with L layers (`layers/memory/column.py`). One working memory is shared; each
layer of a column has a procedural memory, each column an episodic one. A spatial decoder is added
to the last layer's outputs before the head scores the next token.

**Spans.** Memories do not change within a span of P tokens, and are written at its end. So all
tokens of a span are computed at once, and a token can change the memories only after its own
probability has been scored. The position within the span is a part of the state: one token at a
time gives what a whole sequence gives, for any cut. Gradients flow through the spans of a call.

**Surprise.** s_t = -log p(x_t | earlier tokens) from the stored scores of token t - 1, hence
without the targets of training: generation writes memories as training does. It is 0 at the first
token of a document, and has no gradient. sigma is its mean over the previous span.

**Documents.** At the token after `document_end`, anywhere in a span, hidden states, working memory,
surprise, and the other memories are reset; the latter stay with the phase flag `lifelong`.

Phase flags: `episodic` (False: the episodic memory is neither read nor written), `lifelong`, and
for ablations `use_wm`, `use_pm`, `use_em` (False: reads of that memory are zero).

The published description leaves some widths open. These give the published numbers of parameters
within 1 % for all tiers (`conf/model/tier`): the MLP of a procedural read-out has 6.25 D_h hidden
units and that of an episodic one 4 dim; the decoder's stages are standard decoder layers, the first
one with the columns' width and weights of their own; the keys of empty episodic slots are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from neuro.config.commands import written
from neuro.config.types import Count
from neuro.data.base import TaskSpec
from neuro.errors import CheckpointError, ConfigError
from neuro.layers.attention import Reach
from neuro.layers.initial import initialise
from neuro.layers.memory import episodic, procedural
from neuro.layers.memory.column import ColumnLayer
from neuro.layers.memory.columns import ColumnLinear
from neuro.layers.memory.decoder import SpatialDecoder
from neuro.layers.memory.documents import Documents
from neuro.layers.memory.episodic import EpisodicMemory, EpisodicState
from neuro.layers.memory.procedural import ProceduralMemory
from neuro.layers.memory.working import WorkingMemory
from neuro.models.base import ModelOutput
from neuro.models.capabilities import Budgeted
from neuro.models.language.base import LanguageModel
from neuro.models.language.memory_state import MemoryState, Tier, Tokens, columns_first
from neuro.models.language.memory_writes import commit, observe, surprise_of


class MemoryLM(LanguageModel, Budgeted):
    """The model of a size `tier`, with spans of `span` tokens; `tied`: one matrix for in and out.

    `memory_gain`: initial weights of the memories in the gates, relative to those of a layer's
    input. What untrained memories return is noise for the gates: with 1, text is learned more
    slowly (after 150 updates of experiment=char_lm 2.32 nats per character, with 0.1 2.13), but
    sooner that an answer lies in a memory.

    Records (segments are the parts of spans in a call):

    - `surprise` `[T, B]`; `gates/saturation` `[T, B]`: share of gates a outside of 0.05 to 0.95
    - `pm/budget_use`, `pm/commits` `[segments, B, L, C]`: sum(a) / budget at the end of each
      segment, and sum(alpha) of the commit there
    - `em/budget_use` `[segments, B, C]`: sum(S) / budget; `em/novelty` `[T, B, C]` of candidates
    """

    def __init__(
        self,
        spec: TaskSpec,
        tier: Tier,
        span: Count = 64,
        tied: bool = False,
        memory_gain: Annotated[float, Interval(gt=0, le=10)] = 0.1,
    ):
        dim, layers, columns = tier.dim, tier.layers, tier.columns
        super().__init__(spec, dim, tied)
        width = dim // columns
        gain = (2 * layers) ** -0.5
        self.dim, self.width, self.columns, self.span = dim, width, columns, span
        self.inputs = nn.Linear(dim, dim, bias=False)
        self.working = WorkingMemory(dim, tier.working)
        self.working_read = nn.Linear(tier.working.dim, dim, bias=False)
        for linear in (self.inputs, self.working_read):
            initialise(linear.weight, linear.in_features)
        self.layers = nn.ModuleList(
            ColumnLayer(columns, width, tier.procedural, gain, memory_gain) for _ in range(layers)
        )
        self.procedural_memory = ProceduralMemory(layers * columns, width, tier.procedural)
        self.episodic_memory = None
        summaries: tuple[int, ...] = (tier.working.dim, width)
        if tier.episodic is not None:
            self.episodic_memory = EpisodicMemory(
                columns, dim + tier.working.dim, width, tier.episodic
            )
            self.episodic_read = ColumnLinear(columns, tier.episodic.dim, width, bias=False)
            summaries = (*summaries, tier.episodic.dim)
        self.decoder = SpatialDecoder(columns, width, layers, summaries, tier.decoder)
        self.episodic = tier.episodic is not None
        self.lifelong = False
        self.use_wm = self.use_pm = self.use_em = True

    # -- the contract -----------------------------------------------------------------------------

    @property
    def phase_flags(self) -> tuple[str, ...]:
        return ("episodic", "lifelong", "use_wm", "use_pm", "use_em")

    def flag_problems(self, flags: Mapping[str, Any]) -> Iterator[str]:
        for name, value in flags.items():
            if name in self.phase_flags and not isinstance(value, bool):
                yield f"{name}: got {written(value)}; expected true or false."
        if flags.get("episodic") is True and self.episodic_memory is None:
            yield (
                "episodic: got true, but the model has no episodic memory; give "
                "model.tier.episodic (slots, dim, read, write, spread) or set the flag to false."
            )

    def set_phase(self, **flags: Any) -> None:
        if problems := list(self.flag_problems(flags)):
            raise ConfigError(problems)
        super().set_phase(**flags)

    @property
    def recordable(self) -> tuple[str, ...]:
        names = ("surprise", "gates/saturation", "pm/budget_use", "pm/commits")
        return names if self.episodic_memory is None else (*names, "em/budget_use", "em/novelty")

    def budget_records(self) -> dict[str, str]:
        names = {"procedural": "pm/budget_use", "episodic": "em/budget_use"}
        return {memory: record for memory, record in names.items() if record in self.recordable}

    def initial_state(self, batch_size: int) -> MemoryState:
        zeros = self.head.weight.new_zeros
        memory = self.episodic_memory
        return MemoryState(
            torch.full_like(zeros(batch_size), -1, dtype=torch.int64),
            zeros(batch_size, self.head.out_features),
            zeros(batch_size),
            zeros(batch_size),
            zeros(batch_size),
            zeros(batch_size, dtype=torch.int64),
            self.working.initial_state(batch_size),
            zeros(batch_size, len(self.layers) * self.columns, self.width),
            self.procedural_memory.initial_state(batch_size),
            None if memory is None else memory.initial_state(batch_size),
            0,
        )

    def step_case(self, state: MemoryState) -> bool:
        return state.position == self.span - 1  # whether memories are written

    def forward(
        self,
        inputs: Tensor,
        state: MemoryState | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        state = self.initial_state(len(inputs)) if state is None else state
        starts = self.first_tokens(inputs, state.last)
        embedded = F.rms_norm(self.embedding(inputs), (self.dim,))
        reach = Reach.of(starts, state.age, self.working.window)
        y_wm, working = self.working(embedded, state.working, reach)
        if not self.use_wm:
            y_wm = torch.zeros_like(y_wm)
        tokens = Tokens(
            inputs,
            self._to_columns(self.inputs(embedded)),
            y_wm,
            self._to_columns(self.working_read(y_wm)),
        )
        if self._reads_episodes:
            assert self.episodic_memory is not None
            addresses = self.episodic_memory.addresses(torch.cat((embedded, y_wm.to(embedded)), -1))
            tokens = tokens._replace(queries=addresses[0], keys=addresses[1])
        state = state._replace(working=working, age=reach.age, **columns_first(state))
        traces: dict[str, list[Tensor]] = {name: [] for name in record}
        if state.position >= self.span:
            raise CheckpointError(
                f"model.span: got {self.span}, but the state has read {state.position} tokens of a "
                "span; use the span with which it was saved, or begin without it."
            )
        values, first, steps = [], 0, inputs.shape[1]
        while first < steps:
            end = min(first + self.span - state.position, steps)
            part = slice(first, end)
            scores, state = self._segment(tokens.part(part), state, starts[:, part], traces)
            values.append(scores)
            first = end
        state = state._replace(**columns_first(state), last=inputs[:, -1])
        return ModelOutput(
            values[0] if len(values) == 1 else torch.cat(values, 1),
            state,
            {name: torch.cat(parts) for name, parts in traces.items()},
        )

    # -- a part of a span -------------------------------------------------------------------------

    def _segment(
        self,
        tokens: Tokens,
        state: MemoryState,
        starts: Tensor,
        traces: dict[str, list[Tensor]],
    ) -> tuple[Tensor, MemoryState]:
        """Scores of a span's next tokens, and the state after them; states have columns first."""
        documents = Documents.of(starts)
        stored = documents.without_ends() if self.lifelong else documents
        sigma = state.sigma[:, None] * documents.carried
        x = tokens.x
        memories = [tokens.working]
        read = None
        if self._reads_episodes:
            assert self.episodic_memory is not None and tokens.queries is not None
            assert state.episodic is not None
            read = self.episodic_memory.read(tokens.queries, state.episodic, stored)
            memories.append(self.episodic_read(read).to(x))
        else:
            memories.append(torch.zeros_like(x))
        memories.append(sigma.expand(self.columns, -1, -1)[..., None].to(x))
        context = torch.cat(memories, -1)
        seen, hidden, saturated = [x], [], []
        slots = state.procedural
        strengths = self.procedural_memory.found(slots, stored)
        parts = (y.split(self.columns) for y in (slots.keys, slots.values, strengths, state.h))
        for layer, *memory, h in zip(self._layers(), *parts, strict=True):
            y_pm = layer.procedural(x, *memory) if self.use_pm else torch.zeros_like(x)
            x, h, a = layer(x, torch.cat((y_pm, context), -1), h, documents)
            seen.append(x)
            hidden.append(h)
            if "gates/saturation" in traces:
                saturated.append(((a < 0.05) | (a > 0.95)).float().mean((0, 3)))
        summaries: tuple[Tensor, ...] = (
            tokens.y_wm.flatten(0, 1),
            y_pm.mean(0).flatten(0, 1),
        )
        if self.episodic_memory is not None:
            dim = self.episodic_memory.settings.dim
            mean = x.new_zeros(*x.shape[1:3], dim) if read is None else read.mean(0)
            summaries = (*summaries, mean.flatten(0, 1))
        final = x.permute(1, 2, 0, 3).flatten(2)
        outputs = torch.stack(seen[1:], 3).flatten(1, 2)
        scores = self.head(final + self.decoder(outputs, summaries).view(final.shape))
        surprise = surprise_of(tokens.inputs, scores, state, starts)
        state = state._replace(
            h=torch.cat(hidden),
            scores=scores[:, -1].detach().float(),
            position=(state.position + tokens.inputs.shape[1]) % self.span,
        )
        written = (
            self.procedural_memory if self.use_pm else None,
            self.episodic_memory if self._reads_episodes else None,
        )
        state, novelty = observe(
            tokens.keys, seen, surprise, sigma, state, documents, stored, *written
        )
        state, commits = commit(state, *written) if state.position == 0 else (state, None)
        made: dict[str, Callable[[], Tensor]] = {
            "surprise": lambda: surprise.T,
            "gates/saturation": lambda: torch.stack(saturated).mean(0).T,
            "pm/budget_use": lambda: (
                self._by_layer(state.procedural.strengths.sum(-1)) / procedural.BUDGET
            ),
            "pm/commits": lambda: self._by_layer(
                state.h.new_zeros(state.h.shape[:2]) if commits is None else commits
            ),
            "em/budget_use": lambda: (
                cast("EpisodicState", state.episodic).strengths.sum(-1).T[None] / episodic.BUDGET
            ),
            "em/novelty": lambda: (
                x.new_zeros(x.shape[:3]).permute(2, 1, 0)
                if novelty is None
                else novelty.permute(2, 1, 0)
            ),
        }
        for name, trace in traces.items():
            trace.append(made[name]())
        return scores, state

    # -- parts ------------------------------------------------------------------------------------

    @property
    def _reads_episodes(self) -> bool:
        return self.episodic_memory is not None and self.episodic and self.use_em

    def _by_layer(self, x: Tensor) -> Tensor:
        """`[L C, B]` as a record `[1, B, L, C]`."""
        return x.T.unflatten(1, (-1, self.columns))[None]

    def _layers(self) -> list[ColumnLayer]:
        return cast("list[ColumnLayer]", list(self.layers))

    def _to_columns(self, x: Tensor) -> Tensor:
        """`[B, T, D]` to `[C, B, T, D_h]`."""
        return x.unflatten(-1, (self.columns, self.width)).permute(2, 0, 1, 3)
