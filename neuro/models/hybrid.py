"""Liquid-spiking-Mamba hybrid: residual blocks over tokens or numbers; see layers/hybrid_block.py.

    x = embedding(tokens), or W inputs;   x <- block(x), layer by layer;   values = W_out norm(x)

At the token after an end of document, the state of its sequence is the initial one. Sequences are
therefore run in parts, which begin where a document of any of them begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, NamedTuple, cast

import torch
from annotated_types import Interval
from torch import Tensor, nn

from neuro.config.types import Count
from neuro.data.base import TaskSpec
from neuro.layers.hybrid_block import (
    Exchange,
    HybridBlock,
    HybridState,
    Integration,
    Liquid,
    Mamba,
    Spiking,
)
from neuro.layers.initial import INITIAL_STD
from neuro.layers.spike_encoder import SpikeEncoder
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Layered, SpikingConnection, Synaptic
from neuro.models.image_rows import ImageRows
from neuro.models.inputs import check_sequences, elapsed_times
from neuro.models.state import reset
from neuro.ops.plain import are_plain


class HybridModelState(NamedTuple):
    """The last token `[B]` (-1: none; None without tokens), and the states of the blocks."""

    last: Tensor | None
    blocks: tuple[HybridState, ...]


class Hybrid(CoreModel, Layered, Synaptic):
    """`layers` blocks of width `dim`, with inputs `[B, T, ...]` or tokens `[B, T]`.

    spiking: None is no spiking encoder. dropout: of what each block adds to its input. image_rows:
    inputs are images, whose rows are the steps, `[B, T * height, K]` in values. Raises ValueError
    for tasks of images as targets, and for parts that do not fit each other.
    """

    def __init__(
        self,
        spec: TaskSpec,
        dim: Count,
        layers: Annotated[int, Interval(ge=1, le=1000)],
        integration: Integration,
        spiking: Spiking | None,
        liquid: Liquid,
        mamba: Mamba,
        exchange: Exchange,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        image_rows: ImageRows | None = None,
    ):
        super().__init__()
        self.inputs = inputs = spec.inputs
        self.document_end = inputs.document_end
        self.tokens = inputs.dtype == "int"
        self.images = image_rows is not None
        if self.tokens:
            assert inputs.vocabulary is not None
            if image_rows is not None:
                raise ValueError(
                    f"image_rows: task '{spec.task}' has tokens; image_rows=null, or data of images"
                )
            self.embedding: nn.Module = nn.Embedding(inputs.vocabulary, dim)
            nn.init.normal_(self.embedding.weight, std=INITIAL_STD)
        else:
            check_sequences(spec, time_step=False)
            if image_rows is None:
                self.embedding = nn.Linear(prod(inputs.shape), dim)
            else:
                self.embedding = image_rows.make(spec, dim)
        self.blocks = nn.ModuleList(
            HybridBlock(dim, integration, spiking, liquid, mamba, exchange, dropout)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, spec.outputs)

    @property
    def recordable(self) -> tuple[str, ...]:
        activity = ("inputs", "hidden_spikes", "spikes")
        return tuple(f"{name}/{what}" for name in self._encoders() for what in activity)

    def spiking_connections(self) -> dict[str, SpikingConnection]:
        found = {}
        for i, (name, encoder) in enumerate(self._encoders().items()):
            parameter = f"blocks.{i}.encoder"
            found[f"{name}/hidden"] = SpikingConnection(
                f"{parameter}.hidden.weight",
                encoder.hidden,
                f"{name}/inputs",
                f"{name}/hidden_spikes",
            )
            found[f"{name}/out"] = SpikingConnection(
                f"{parameter}.out.weight", encoder.out, f"{name}/hidden_spikes", f"{name}/spikes"
            )
        return found

    def activity_records(self) -> dict[str, str]:
        return {name: f"{name}/spikes" for name in self._encoders()}

    def activity_limits(self) -> dict[str, Tensor]:
        return {name: torch.ones(()) for name in self._encoders()}

    def _encoders(self) -> dict[str, SpikeEncoder]:
        """The spiking encoders of the blocks by name; empty if blocks have none."""
        blocks = cast("list[HybridBlock]", self.blocks)
        encoders = {f"encoder{i}": block.encoder for i, block in enumerate(blocks, 1)}
        return {name: encoder for name, encoder in encoders.items() if encoder is not None}

    def initial_state(self, batch_size: int) -> HybridModelState:
        last = None
        if self.tokens:
            last = self.head.weight.new_zeros(batch_size, dtype=torch.int64) - 1
        blocks = cast("list[HybridBlock]", self.blocks)
        return HybridModelState(last, tuple(block.initial_state(batch_size) for block in blocks))

    def forward(
        self,
        inputs: Tensor,
        state: HybridModelState | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        if state is None:
            state = self.initial_state(len(inputs))
        # blocks have the time first
        x = self.embedding(inputs if self.tokens or self.images else inputs.flatten(2))
        x = x.transpose(0, 1)
        times = elapsed_times(self.inputs, inputs)
        blocks, parts = state.blocks, []
        recorded: dict[str, list[Tensor]] = {}  # of each part of the sequences
        starts = self._starts(inputs, state.last)
        cuts = [] if starts is None else starts.any(0).nonzero().flatten().tolist()
        for start, stop in pairwise([0, *(cut for cut in cuts if cut > 0), len(x)]):
            if starts is not None and start in cuts:
                blocks = reset(blocks, self.initial_state(len(inputs)).blocks, starts[:, start])
            part, after = x[start:stop], []
            part_times = None if times is None else times[start:stop]
            for number, (block, own) in enumerate(zip(self.blocks, blocks, strict=True), 1):
                found: dict[str, Tensor] | None = {} if record else None
                part, own_after = block(part, own, part_times, found)
                after.append(own_after)
                for name, value in (found or {}).items():
                    recorded.setdefault(f"encoder{number}/{name}", []).append(value)
            blocks = tuple(after)
            parts.append(part)
        values = self.head(self.norm(torch.cat(parts).transpose(0, 1)))
        last = inputs[:, -1] if self.tokens else None
        records = {name: torch.cat(recorded[name]) for name in record}
        return ModelOutput(values, HybridModelState(last, blocks), records)

    def _starts(self, inputs: Tensor, last: Tensor | None) -> Tensor | None:
        """Tokens `[B, T]` after an end of document; None if documents never end."""
        # an exported graph reads one document: its operations do not depend on where others begin
        if last is None or self.document_end is None or are_plain():
            return None
        return torch.cat((last[:, None], inputs[:, :-1]), 1) == self.document_end
