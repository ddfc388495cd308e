"""Text that a model writes as it learns, beside the text that it should continue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Le

from neuro.config.types import Count
from neuro.data.tokens.tokenizers import Tokenised
from neuro.learning.generation import Sampling, Writer
from neuro.runs.report import Report
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.plotting import write_plot


class TextSamples(Callback):
    """Continues the beginnings of validation documents, as `plots/text_samples_step<update>.png`.

    Every `every_steps` updates and at the end, the model reads the first `prompt_tokens` of the
    documents with which the first `samples` validation streams begin, and writes `tokens` more. It
    starts from empty memories; the state of training and its random numbers are left alone.
    """

    main_process_only = True

    def __init__(
        self,
        every_steps: Count = 200,
        samples: Count = 3,
        prompt_tokens: Count = 64,
        tokens: Count = 128,
        temperature: Annotated[float, Ge(0)] = 0.8,
        top_k: Count | None = 50,
        top_p: Annotated[float, Gt(0), Le(1)] | None = 0.95,
        seed: Annotated[int, Ge(0)] = 0,
    ):
        self.every_steps = every_steps
        self.samples = samples
        self.prompt_tokens = prompt_tokens
        self.tokens = tokens
        self.sampling = Sampling(temperature, top_k, top_p)
        self.seed = seed

    def check(self, setup: Setup) -> Iterator[str]:
        if not isinstance(setup.data, Tokenised):
            yield (
                f": {type(setup.data).__name__} has no text. Leave text_samples out of "
                "callbacks, or use data=text."
            )

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if trainer.progress.step % self.every_steps == 0:
            self._write(trainer)

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        if trainer.progress.step % self.every_steps:
            self._write(trainer)

    def _write(self, trainer: TrainerView) -> None:
        from neuro.analysis.plots import text as plots

        task = trainer.phase.tasks[0]
        tokenizer = cast(Tokenised, trainer.data).tokenizer
        batch = next(iter(trainer.data.loader(task, "val", batch_size=self.samples).batches()))
        was_training = trainer.model.training
        trainer.model.eval()
        samples = []
        for number, row in enumerate(batch.inputs.tolist()):
            _, *document = row  # the first token is the end of the document before
            if tokenizer.document_end in document:
                document = document[: document.index(tokenizer.document_end)]
            prompt, rest = document[: self.prompt_tokens], document[self.prompt_tokens :]
            generator = torch.Generator().manual_seed(self.seed + number)
            writer = Writer(trainer.model, self.sampling, generator)
            writer.read([tokenizer.document_end, *prompt])
            written = [writer.write() for _ in range(self.tokens)]
            texts = map(tokenizer.decode, (prompt, written, rest[: self.tokens]))
            samples.append(plots.Continuation(*texts))
        trainer.model.train(was_training)
        step = trainer.progress.step
        title = f"Validation text of '{task}' continued after update {step}"
        write_plot(trainer, f"text_samples_step{step}", plots.continuations(samples, title))
