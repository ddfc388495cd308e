"""What language models share: checks of the task, document starts, and records."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from neuro.data.base import TaskSpec
from neuro.layers.initial import INITIAL_STD
from neuro.models.base import CoreModel


class LanguageModel(CoreModel):
    """A map from tokens `[B, T]` to scores of the next token `[B, T, V]`.

    - `dim`: width of the embedding
    - `tied`: the embedding is also the matrix of the scores

    A document ends with the token `spec.inputs.document_end` (None: documents never end); the token
    after it is the first of the next one.
    """

    def __init__(self, spec: TaskSpec, dim: int, tied: bool):
        super().__init__()
        inputs = spec.inputs
        if inputs.dtype != "int" or inputs.vocabulary is None:
            raise ValueError(
                f"needs tokens (integers) as inputs; task '{spec.task}' has numbers. Use "
                "data=text, or data.input_encoding=tokens"
            )
        if spec.targets.kind not in ("token", "class_sequence"):
            raise ValueError(
                f"scores the next token at every step; task '{spec.task}' has targets of kind "
                f"'{spec.targets.kind}'. Use data=text, or objective.paradigm=self_supervised"
            )
        if tied and spec.outputs != inputs.vocabulary:
            raise ValueError(
                f"tied: needs as many scores as tokens; task '{spec.task}' has {spec.outputs} and "
                f"{inputs.vocabulary}. Set tied=false"
            )
        self.vocabulary = inputs.vocabulary
        self.document_end = inputs.document_end
        self.embedding = nn.Embedding(inputs.vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=INITIAL_STD)
        self.head = nn.Linear(dim, spec.outputs, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=INITIAL_STD)

    def step_case(self, state: Any) -> Hashable:
        return ()  # steps differ in the numbers only

    def first_tokens(self, inputs: Tensor, last: Tensor) -> Tensor:
        """Whether each token `[B, T]` is the first of its document.

        `last` `[B]`: the token before the first one; -1: there is none.
        """
        before = torch.cat((last[:, None], inputs[:, :-1]), 1)
        starts = before < 0
        return starts if self.document_end is None else starts | (before == self.document_end)
