"""TensorBoard event files under `<run>/tensorboard`: scalars, plots as images, config as text.

TensorBoard takes seconds to import, so the import and the writer wait for the first value to
record; composing a config needs neither. A resumed run writes another event file with a purge
step: TensorBoard then drops the steps after the checkpoint from the earlier files.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    """Records a run for TensorBoard (`tensorboard --logdir outputs`).

    - `flush_every_s`: longest time in seconds that events wait in memory
    """

    def __init__(self, flush_every_s: Annotated[int, Gt(0)] = 30) -> None:
        self.flush_every_s = flush_every_s
        self._run: RunInfo | None = None
        self._config: Mapping[str, object] = {}
        self._summary_writer: SummaryWriter | None = None
        self._step = 0

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise BackendUnavailable(
                "tracking.tensorboard needs the package 'tensorboard'. "
                "Install it with `pip install tensorboard`, or choose another tracking option."
            )
        self._run, self._config, self._summary_writer = run, config, None
        self._step = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        writer = self._writer()
        self._step = step
        for name, value in metrics.items():
            writer.add_scalar(name, float(value), step)

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._writer().add_histogram(name, values, step)

    def log_artifact(self, path: Path, name: str, step: int) -> None:
        """Record images; TensorBoard has no place for other files."""
        if path.suffix.lower() not in IMAGES:
            return
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer().add_image(name, pixels, step, dataformats="HWC")

    def add_config(self, values: Mapping[str, object]) -> None:
        self._writer().add_text("config/found", _as_markdown(values), self._step)

    def summary(self, values: Mapping[str, object]) -> None:
        self._writer().add_text("summary", _as_markdown(values), self._step)

    def flush(self) -> None:
        if self._summary_writer is not None:
            self._summary_writer.flush()

    def finish(self, status: str) -> None:
        if self._summary_writer is not None:
            self._summary_writer.add_text("status", status, self._step)
            self._summary_writer.close()
        self._summary_writer = self._run = None

    def _writer(self) -> SummaryWriter:
        if self._summary_writer is None:
            assert self._run is not None, "the tracker was not started"
            from torch.utils.tensorboard import SummaryWriter

            purge_step = None
            if self._run.resumed:
                purge_step = max((row["step"] for row in kept_rows(self._run)), default=-1) + 1
            self._summary_writer = SummaryWriter(
                str(self._run.directory / FOLDER),
                purge_step=purge_step,
                flush_secs=self.flush_every_s,
            )
            if not self._run.resumed:
                self._summary_writer.add_text("config", _as_markdown(self._config), 0)
        return self._summary_writer


def _as_markdown(values: Mapping[str, object]) -> str:
    """Format nested values as an indented Markdown block, which TensorBoard renders verbatim."""
    text = json.dumps(values, indent=2, default=str)
    return "\n".join("    " + line for line in text.splitlines())
