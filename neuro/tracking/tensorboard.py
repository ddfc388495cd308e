"""TensorBoard event files under `<run>/tensorboard`: scalars, plots as images, config as text.

TensorBoard is imported and its writer opened at the first thing to record, so that neither
composing a config nor the first training step waits for it. A resumed run opens another event
file whose purge step makes TensorBoard drop what the interrupted run had logged too far.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from neuro.errors import BackendUnavailable
from neuro.tracking.base import RunInfo, Tracker
from neuro.tracking.jsonl import kept_rows

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

#: name of the folder inside a run directory
FOLDER = "tensorboard"

IMAGES = (".png", ".jpg", ".jpeg")


class TensorBoardTracker(Tracker):
    """Follows a run in TensorBoard (`tensorboard --logdir outputs`).

    `flush_every_s`: seconds after which the writer brings its events to disk by itself.
    """

    def __init__(self, flush_every_s: Annotated[int, Gt(0)] = 30) -> None:
        self.flush_every_s = flush_every_s
        self._run: RunInfo | None = None
        self._config: Mapping[str, Any] = {}
        self._open: SummaryWriter | None = None
        self._step = 0

    def start(self, run: RunInfo, config: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise BackendUnavailable(
                "tracking.tensorboard needs the package 'tensorboard'. "
                "Install it with `pip install tensorboard`, or choose another tracking option."
            )
        self._run, self._config, self._open = run, config, None
        self._step = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        writer = self._writer()
        self._step = step
        for name, value in metrics.items():
            writer.add_scalar(name, float(value), step)

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._writer().add_histogram(name, values, step)

    def log_artifact(self, path: Path, name: str) -> None:
        """Plots are shown as images; other files have no place in TensorBoard."""
        if path.suffix.lower() not in IMAGES:
            return
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer().add_image(name, pixels, self._step, dataformats="HWC")

    def add_config(self, values: Mapping[str, Any]) -> None:
        self._writer().add_text("config/found", _as_markdown(values), self._step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._writer().add_text("summary", _as_markdown(values), self._step)

    def flush(self) -> None:
        if self._open is not None:
            self._open.flush()

    def finish(self, status: str) -> None:
        if self._open is not None:
            self._open.add_text("status", status, self._step)
            self._open.close()
        self._open = self._run = None

    def _writer(self) -> SummaryWriter:
        if self._open is None:
            assert self._run is not None, "the tracker was not started"
            from torch.utils.tensorboard import SummaryWriter

            purge_step = None
            if self._run.resumed:
                purge_step = max((row["step"] for row in kept_rows(self._run)), default=-1) + 1
            self._open = SummaryWriter(
                str(self._run.directory / FOLDER),
                purge_step=purge_step,
                flush_secs=self.flush_every_s,
            )
            if not self._run.resumed:
                self._open.add_text("config", _as_markdown(self._config), 0)
        return self._open


def _as_markdown(values: Mapping[str, Any]) -> str:
    """Nested values as a code block, which TensorBoard renders as it stands."""
    text = json.dumps(values, indent=2, default=str)
    return "\n".join("    " + line for line in text.splitlines())
