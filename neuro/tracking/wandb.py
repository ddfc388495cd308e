"""Weights & Biases: offline by default, with neither network nor login.

W&B takes one to two seconds to import and start, so a background thread does both at the first
value to record, and makes all further calls in order. If a call fails, the error is logged and
the run continues; `metrics.jsonl` has every number anyway.

Each start of a run, also a resume, writes a folder `<run>/wandb/offline-run-<time>-<id>`.
`wandb sync <run>/wandb` uploads them in order as one W&B run (`python -m neuro wandb` lists the
folders that are not uploaded yet). So that each step occurs once in them, a resumed run

- truncates earlier offline files after the last step of its checkpoint;
- does not log steps again that are uploaded already, because W&B cannot delete them;
- logs steps again that had not reached W&B's file when the process was killed.
"""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from annotated_types import Gt

from neuro.config.experiment import RunSettings
from neuro.config.paths import expanded
from neuro.errors import BackendUnavailable
from neuro.tracking import wandb_log
from neuro.tracking.base import LogModel, RunInfo, Tracker, model_files
from neuro.tracking.jsonl import kept_rows
from neuro.tracking.worker import Worker

if TYPE_CHECKING:
    from wandb import Histogram, Run

IMAGES = (".png", ".jpg", ".jpeg")

#: seconds added to finish_timeout_s, so that W&B's own timeout acts first
_GRACE_S = 10.0

log = logging.getLogger(__name__)


class WandbTracker(Tracker):
    """Records a run's metrics, config, group, tags, job type, summary and plots in W&B.

    Project, group, tags and name of the W&B run are the root keys of the config.

    - `mode`: `offline` writes files to sync later, `online` uploads while training and needs a
      login, `disabled` does nothing.
    - `entity`: the W&B user or team that owns the project; null: the account's default.
    - `log_model`: what is uploaded of a completed run's model: false (nothing), `best` or `all`
      (see `model_files`)
    - `finish_timeout_s`: longest time in seconds that the end of a run waits for W&B, mostly for
      uploads; what is missing then can be uploaded by `wandb sync`.
    """

    def __init__(
        self,
        mode: Literal["offline", "online", "disabled"] = "offline",
        entity: str | None = None,
        log_model: LogModel = False,
        finish_timeout_s: Annotated[float, Gt(0)] = 60.0,
    ) -> None:
        self.mode = mode
        self.entity = entity
        self.log_model = log_model
        self._directory: Path | None = None
        self.finish_timeout_s = finish_timeout_s
        self._worker: Worker[Run] | None = None
        self._step = 0
        self._uploaded = -1  # last step that was uploaded before a resume; later ones are logged
        self._artifacts: dict[str, Path] = {}

    def problems(self, settings: RunSettings) -> Iterator[str]:
        """W&B's limits; it would refuse the whole run, and say so after training has begun."""
        if self.mode == "disabled":
            return
        if len(settings.project) > 128 or set(settings.project) & set("/\\#?%:"):
            yield (
                f"project: got '{settings.project}'; W&B takes at most 128 characters, without "
                "any of / \\ # ? % :."
            )
        for tag in settings.tags:
            if not 1 <= len(tag) <= 64:
                yield f"tags: got '{tag}'; W&B takes tags of 1 to 64 characters."
        for key, value in (("group", settings.group), ("name", settings.name)):
            if value is not None and len(value) > 128:
                yield f"{key}: got '{value}'; W&B takes at most 128 characters."

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        """Prepare the background thread, which starts W&B at the first value to record.

        BackendUnavailable if W&B is not installed, or if `mode=online` lacks a login.
        """
        if self.mode == "disabled":
            return
        found = importlib.util.find_spec("wandb")
        if found is None or found.origin is None:  # a folder ./wandb is found without an origin
            raise BackendUnavailable(
                "tracking.wandb needs the package 'wandb'. "
                "Install it with `pip install wandb`, or choose another tracking option."
            )
        if self.mode == "online" and not _logged_in():
            raise BackendUnavailable(
                "tracking.wandb.mode=online needs a login. Run `wandb login`, set WANDB_API_KEY, "
                "or keep tracking.wandb.mode=offline and upload later with `wandb sync`."
            )
        self._step, self._uploaded = 0, -1
        self._artifacts = {}
        self._directory = run.directory
        self._worker = Worker("W&B", lambda: self._open(run, config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._worker is None:
            return
        self._step = step
        row = {name: float(value) for name, value in metrics.items()}
        self._worker.send(lambda wandb_run: self._log_new(wandb_run, row, step))

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        if self._worker is not None:
            counted = np.histogram(values, bins=64)
            self._worker.send(
                lambda wandb_run: self._log_new(wandb_run, {name: _histogram(counted)}, step)
            )

    def log_artifact(self, path: Path, name: str, step: int) -> None:
        """Log an image, and add any file to the artifact of a completed run."""
        if self._worker is None:
            return
        self._artifacts[name + path.suffix.lower() * (not Path(name).suffix)] = path
        if path.suffix.lower() in IMAGES:
            self._worker.send(lambda wandb_run: _log_image(wandb_run, path, name, step))

    def add_config(self, values: Mapping[str, object]) -> None:
        if self._worker is not None:
            copied = dict(values)
            self._worker.send(lambda run: run.config.update(copied, allow_val_change=True))

    def summary(self, values: Mapping[str, object]) -> None:
        if self._worker is not None:
            copied = dict(values)
            self._worker.send(lambda wandb_run: wandb_run.summary.update(copied))

    def finish(self, status: str) -> None:
        worker, self._worker = self._worker, None
        if worker is None or not worker.started:
            return
        if status == "completed" and self._artifacts:
            files = dict(self._artifacts)
            worker.send(lambda wandb_run: _log_files(wandb_run, "results", files))
        if status == "completed" and self._directory is not None:
            model = {path.name: path for path in model_files(self._directory, self.log_model)}
            if model:
                worker.send(lambda wandb_run: _log_files(wandb_run, "model", model))
        worker.send(lambda wandb_run: wandb_run.summary.update({"status": status}))
        exit_code = 0 if status == "completed" else 1
        worker.send(lambda wandb_run: wandb_run.finish(exit_code=exit_code))
        if not worker.close(self.finish_timeout_s + _GRACE_S):
            log.error(
                "W&B did not finish within %g s. Its files are in the run's wandb folder; "
                "upload them with `wandb sync`.",
                self.finish_timeout_s + _GRACE_S,
            )

    def _open(self, run: RunInfo, config: Mapping[str, object]) -> Run:
        """Start W&B and log the steps that it lacks; runs in the background thread."""
        import wandb

        run_id = re.sub(r"[^\w.-]", "-", run.run_id)
        earlier = list((run.directory / "wandb").glob(f"*run-*/run-{run_id}.wandb"))
        kept = kept_rows(run)
        kept_step = kept[-1]["step"] if kept else -1
        recorded = _truncate(earlier, kept_step) if run.resumed else -1
        settings: dict[str, Any] = {"console": "off", "silent": True, "reinit": "create_new"}
        if "finish_timeout" in getattr(wandb.Settings, "model_fields", {}):
            settings["finish_timeout"] = self.finish_timeout_s
        wandb_run = wandb.init(
            mode=self.mode,
            entity=self.entity,
            project=run.project,
            group=run.group,
            job_type=run.job_type,
            tags=list(run.tags),
            name=run.name,
            id=run_id,
            resume="allow" if run.resumed else None,
            dir=str(run.directory),
            config=dict(config),
            settings=wandb.Settings(**settings),
        )
        if self.mode == "online" and run.resumed:
            recorded = wandb_run.starting_step - 1  # what the server has, files may hold more
        for row in kept:
            if row["step"] > recorded:
                wandb_run.log(_as_history(row), step=row["step"])
        self._uploaded = recorded if recorded > kept_step else -1
        return wandb_run

    def _log_new(self, wandb_run: Run, row: dict[str, Any], step: int) -> None:
        """Log a row, unless its step was uploaded before the resume."""
        if step > self._uploaded:
            wandb_run.log(row, step=step)


def _histogram(counted: tuple[np.ndarray, np.ndarray]) -> Histogram:
    import wandb

    return wandb.Histogram(np_histogram=counted)


def _log_image(wandb_run: Run, path: Path, name: str, step: int) -> None:
    import wandb

    wandb_run.log({name: wandb.Image(str(path))}, step=step)


def _log_files(wandb_run: Run, kind: str, files: Mapping[str, Path]) -> None:
    """Log files of a completed run as one artifact of a kind, without copying them first."""
    import wandb

    artifact = wandb.Artifact(f"{wandb_run.id}-{kind}", type=kind)
    for name, path in files.items():
        if path.exists():
            artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
    wandb_run.log_artifact(artifact)


def _truncate(files: list[Path], kept_step: int) -> int:
    """Truncate offline files after `kept_step`; returns the last step that remains, or -1.

    Files that were already uploaded, or written while online, are left unchanged.
    """
    recorded = -1
    for path in files:
        uploaded = path.with_name(path.name + ".synced").exists()
        try:
            if path.parent.name.startswith("offline-") and not uploaded:
                wandb_log.cut_after(path, kept_step, _history_step)
            recorded = max(recorded, wandb_log.last_step(path, _history_step))
        except ValueError as error:  # its rows are logged again
            log.warning("%s cannot be read (%s).", path, error)
    return recorded


def _history_step(payload: bytes) -> int | None:
    """The step of a record in W&B's log; None if the record is not a history row."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    record = Record.FromString(payload)
    return record.history.step.num if record.HasField("history") else None


def _as_history(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row of metrics.jsonl to W&B's history, which calls the time `_timestamp`."""
    values = {k: float("nan") if v is None else v for k, v in row.items() if k != "step"}
    return {"_timestamp": values.pop("time", None), **values}


def _logged_in() -> bool:
    """Whether W&B has an API key, from the environment or a netrc file (no prompt is shown)."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    candidates = [os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"]
    for path in (expanded(c) for c in candidates if c):
        try:
            if netrc.netrc(path).authenticators(host or "") is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
