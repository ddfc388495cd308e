"""mode=generate: continue a text with a trained model of tokens, or converse with it.

The text appears as it is written, and is saved as `generated.txt` in a run directory. What is typed
with `prompt=-` enters the model's memories like any text, and stays there from line to line.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from neuro.config.paths import expanded
from neuro.data.tokens.tokenizers import Tokenised, Tokenizer
from neuro.errors import CheckpointError, ConfigError, DataError, StorageError
from neuro.experiment.context import RunContext
from neuro.experiment.experiment import Experiment
from neuro.experiment.finished import Finished, open_finished
from neuro.io import tensor_file
from neuro.io.files import write_text
from neuro.learning.generation import Sampling, Writer
from neuro.models.state import named_tensors, with_tensors
from neuro.runs.directory import keeping_status

log = logging.getLogger("neuro")

_TYPED = "-"
_KIND = "state"
_COMMANDS = """\
/reset        forget everything that was read
/save [FILE]  write the model's state (its memories) to a file
/load FILE    read such a file
/quit         end; so does Ctrl-D"""


def generate(experiment: Experiment, context: RunContext) -> None:
    """Continue `prompt`, or with `prompt=-` each line that is typed.

    ConfigError if the run's data have no tokenizer, or if a character of the prompt has no token.
    """
    meta = context.describe(experiment)
    parts = open_finished(experiment, context.directory)
    session = _Session(parts, experiment, context.directory)
    if experiment.prompt != _TYPED:
        tokens = session.encoded(experiment.prompt or "")
    with keeping_status(context.directory, experiment.plain(), meta):
        try:
            if experiment.prompt == _TYPED:
                session.converse()
            else:
                print(experiment.prompt or "", end="", flush=True)
                session.heard(experiment.prompt or "")
                session.read(tokens)
                session.answer()
        finally:
            session.save_text()
    log.info("Text of %s: %s", parts.checkpoint, session.path)


class _Session:
    """A sequence of a model, its text so far, and the tokenizer between them."""

    def __init__(self, parts: Finished, experiment: Experiment, directory: Path):
        if not isinstance(parts.data, Tokenised):
            raise ConfigError(
                f"mode=generate: writes text, but {type(parts.data).__name__} of {experiment.run} "
                "has no tokenizer. It needs a run with data=text."
            )
        self.tokenizer: Tokenizer = parts.data.tokenizer
        self.limit = experiment.tokens
        self.directory = directory
        self.path = directory / "generated.txt"
        self._model = parts.model.eval()
        self._sampling = Sampling(experiment.temperature, experiment.top_k, experiment.top_p)
        self._generator = torch.Generator().manual_seed(experiment.seed)
        self._text: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Begin a document with empty memories."""
        self._writer = Writer(self._model, self._sampling, self._generator)
        self._writer.read([self.tokenizer.document_end])

    def encoded(self, text: str) -> list[int]:
        """The tokens of a prompt. ConfigError for a character that has none."""
        try:
            return [int(token) for token in self.tokenizer.encode(text)]
        except DataError as error:
            raise ConfigError(f"prompt: {error}") from error

    def read(self, tokens: list[int]) -> None:
        """Let the model read tokens."""
        if tokens:
            self._writer.read(tokens)

    def heard(self, text: str) -> None:
        """Add text that was not written by the model to the saved text."""
        self._text.append(text)

    def answer(self) -> None:
        """Write and print tokens up to the limit or the end of the document."""
        began, count = time.perf_counter(), 0
        pending: list[int] = []
        for token in self._tokens():
            count += 1
            pending.append(token)
            text = self.tokenizer.decode(pending)
            # a character may have several tokens, of which the first ones decode to U+FFFD
            if text.endswith("\ufffd") and len(pending) < 4:
                continue
            self._print(text)
            pending.clear()
        self._print(self.tokenizer.decode(pending))
        print()
        seconds = max(time.perf_counter() - began, 1e-9)
        log.info("%d tokens, %.0f per second", count, count / seconds)

    def _tokens(self) -> Iterator[int]:
        for _ in range(self.limit):
            token = self._writer.write()
            if token == self.tokenizer.document_end:
                return
            yield token

    def _print(self, text: str) -> None:
        print(text, end="", flush=True)
        self._text.append(text)

    def converse(self) -> None:
        """Answer each line of standard input until its end or `/quit`."""
        at_terminal = sys.stdin.isatty()
        if at_terminal:
            print(_COMMANDS)
        while True:
            if at_terminal:
                print("> ", end="", flush=True)
            line = sys.stdin.readline()
            if not line or line.strip() == "/quit":
                return
            try:
                self._respond(line)
            except (ConfigError, CheckpointError, StorageError) as error:
                print(error)

    def _respond(self, line: str) -> None:
        command, _, argument = line.strip().partition(" ")
        if command == "/reset":
            self.reset()
        elif command == "/save":
            path = Path(expanded(argument)) if argument else self.directory / "state.safetensors"
            try:
                tensor_file.write(path, named_tensors(self._writer.state), "", kind=_KIND)
            except OSError as error:
                raise StorageError(f"{path}: cannot be written ({error.strerror}).") from error
            print(f"saved: {path}")
        elif command == "/load" and not argument:
            print("/load: name the file, /load FILE")
        elif command == "/load":
            tensors, _ = tensor_file.read(Path(expanded(argument)), kind=_KIND, what="saved state")
            self._writer.state = with_tensors(self._writer.state, tensors)
            print(f"loaded: {argument}")
        elif command.startswith("/"):
            print(_COMMANDS)
        else:
            tokens = self.encoded(line)
            self.heard(line)
            self.read(tokens)
            self.answer()

    def save_text(self) -> None:
        """Write all that was typed and written."""
        write_text(self.path, "".join(self._text) + "\n")
