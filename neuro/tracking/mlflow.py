"""MLflow: a local store by default, or any tracking server.

MLflow takes seconds to import and a server may answer slowly, so a background thread makes all
calls, in order. If a call fails, the error is logged and the run continues. A resumed run
continues its MLflow run. MLflow cannot delete single points, so those that the interrupted run had
logged after its last checkpoint stay, and the resumed run does not log these steps again.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from annotated_types import Gt, MinLen

from neuro.config.experiment import RunSettings
from neuro.errors import BackendUnavailable, nearest
from neuro.tracking.base import LogModel, RunInfo, Tracker, model_files
from neuro.tracking.jsonl import kept_rows
from neuro.tracking.worker import Worker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

#: URI schemes of folders, servers and databases that MLflow accepts
SCHEMES = ("file", "http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")

#: MLflow tag with the run's id, by which a resumed run finds its MLflow run
RUN_ID = "neuro.run_id"

_STATUS = {"completed": "FINISHED", "interrupted": "KILLED"}

#: MLflow's limits: parameters per request, points per request, characters of a parameter's value
_MAX_PARAMS, _MAX_POINTS, _MAX_CHARACTERS = 100, 1000, 500

log = logging.getLogger(__name__)


class MlflowTracker(Tracker):
    """Records a run's metrics, config, tags, plots and results in MLflow.

    Name, group and tags of the MLflow run are the root keys of the config.

    - `uri`: a folder (or `file:...`), a server (`http://host:5000`) or a database
      (`sqlite:///mlflow.db`)
    - `experiment`: name of the MLflow experiment; null: the root key `project`
    - `log_model`: what is recorded of a completed run's model in the artifact folder `model`: false
      (nothing), `best` or `all` (see `model_files`)
    - `finish_timeout_s`: longest time in seconds that the end of a run waits for MLflow

    ValueError if the URI's scheme is not in `SCHEMES`.
    """

    def __init__(
        self,
        uri: Annotated[str, MinLen(1)] = "mlruns",
        experiment: Annotated[str, MinLen(1)] | None = None,
        log_model: LogModel = False,
        finish_timeout_s: Annotated[float, Gt(0)] = 60.0,
    ) -> None:
        scheme = urlsplit(uri).scheme.partition("+")[0]
        if "://" in uri and scheme not in SCHEMES:
            raise ValueError(
                f"uri: MLflow does not support '{scheme}://'. Allowed: a folder, or "
                f"{', '.join(SCHEMES)}." + nearest(scheme, SCHEMES)
            )
        self.uri = uri
        self.experiment = experiment
        self.log_model = log_model
        self._directory: Path | None = None
        self.finish_timeout_s = finish_timeout_s
        self._worker: Worker[_Session] | None = None
        self._step = 0
        self._logged: set[str] = set()  # names of metrics logged so far

    def problems(self, settings: RunSettings) -> Iterator[str]:
        """MLflow's limits of tags, whose names are those of the config."""
        for tag in settings.tags:
            if not re.fullmatch(r"[\w./ :-]{1,250}", tag):
                yield (
                    f"tags: got '{tag}'; MLflow takes 1 to 250 letters, digits and characters of "
                    "'_-./: '."
                )

    def start(self, run: RunInfo, config: Mapping[str, object]) -> None:
        """Prepare the background thread, which opens the MLflow run at the first call.

        BackendUnavailable if MLflow is not installed.
        """
        found = importlib.util.find_spec("mlflow")
        if found is None or found.origin is None:  # a folder ./mlflow is found without an origin
            raise BackendUnavailable(
                "tracking.mlflow needs the package 'mlflow'. Install it with `pip install mlflow` "
                "(or 'neuro[mlflow]', which is smaller), or choose another tracking option."
            )
        self._step, self._logged = 0, set()
        self._directory = run.directory
        self._worker = Worker("MLflow", lambda: _Session(self, run, config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        row = {name: float(value) for name, value in metrics.items()}
        self._step = step
        self._logged.update(row)
        now = time.time()
        self._send(lambda session: session.log(row, step, now))

    def log_artifact(self, path: Path, name: str, step: int) -> None:
        """Record a file in the artifact folder that its name begins with."""
        folder = name.rpartition("/")[0] or None
        self._send(lambda session: session.client.log_artifact(session.id, str(path), folder))

    def add_config(self, values: Mapping[str, object]) -> None:
        copied = dict(values)
        self._send(lambda session: session.log_params(copied))

    def summary(self, values: Mapping[str, object]) -> None:
        """Record those final values as metrics of the last step that were not logged before."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and name not in self._logged
        }
        step, now = self._step, time.time()
        self._send(lambda session: session.log(numbers, step, now))

    def finish(self, status: str) -> None:
        worker, self._worker = self._worker, None
        if worker is None or not worker.started:
            return
        if status == "completed" and self._directory is not None:
            for path in model_files(self._directory, self.log_model):
                self._log_model_file(worker, path)
        ended = _STATUS.get(status, "FAILED")
        worker.send(lambda session: session.client.set_terminated(session.id, ended))
        if not worker.close(self.finish_timeout_s):
            log.error(
                "MLflow (%s) did not take everything within %g s; metrics.jsonl has all numbers.",
                self.uri,
                self.finish_timeout_s,
            )

    @staticmethod
    def _log_model_file(worker: Worker[_Session], path: Path) -> None:
        worker.send(lambda session: session.client.log_artifact(session.id, str(path), "model"))

    def _send(self, task: Callable[[_Session], object]) -> None:
        if self._worker is not None:
            self._worker.send(task)


class _Session:
    """An open MLflow run; used in the background thread only."""

    def __init__(self, tracker: MlflowTracker, run: RunInfo, config: Mapping[str, object]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = _absolute(tracker.uri)
        if uri.startswith("file:"):  # newer versions of MLflow refuse folders otherwise
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self.client: MlflowClient = MlflowClient(tracking_uri=uri)
        experiment = self._experiment(tracker.experiment or run.project)
        found = self._find(experiment, run.run_id) if run.resumed else None
        #: last step that MLflow has of each metric
        self._recorded: dict[str, int] = {}
        if found is not None:
            self.id: str = found.info.run_id
            self.client.update_run(self.id, status="RUNNING")
            for name in found.data.metrics:
                history = self.client.get_metric_history(self.id, name)
                self._recorded[name] = max(point.step for point in history)
        else:
            tags = {RUN_ID: run.run_id, "directory": str(run.directory.resolve())}
            tags |= {"group": run.group} if run.group else {}
            tags |= dict.fromkeys(run.tags, "")
            created = self.client.create_run(experiment, tags=tags, run_name=run.name)
            self.id = created.info.run_id
            try:
                self.log_params(config)
                self.client.log_dict(self.id, dict(config), "config.yaml")
            except Exception as error:  # the artifact store may fail where the metric store works
                log.error("MLflow could not record the config: %s", error)
        # points that the interrupted run had queued but not sent when it ended
        missing: list[Metric] = []
        for row in kept_rows(run):
            step, seconds = row.pop("step"), row.pop("time", 0.0)
            values = {k: float("nan") if v is None else v for k, v in row.items()}
            missing += self._new(values, step, seconds)
        self._send(missing)

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Record metrics, except for steps that the interrupted run has recorded.

        - `seconds`: wall-clock time since 1970
        """
        self._send(self._new(metrics, step, seconds))

    def _new(self, metrics: Mapping[str, float], step: int, seconds: float) -> list[Metric]:
        from mlflow.entities import Metric

        return [
            Metric(name, value, int(1000 * seconds), step)
            for name, value in metrics.items()
            if step > self._recorded.get(name, -1)
        ]

    def _send(self, points: Sequence[Metric]) -> None:
        for i in range(0, len(points), _MAX_POINTS):
            self.client.log_batch(self.id, metrics=points[i : i + _MAX_POINTS])

    def _experiment(self, name: str) -> str:
        """The id of the MLflow experiment with this name, which is created if it is missing."""
        from mlflow import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name))
        except MlflowException:  # another run has created it meanwhile
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _find(self, experiment: str, run_id: str) -> Run | None:
        """The MLflow run with our run id; None if the interrupted run did not get to start it."""
        found = self.client.search_runs([experiment], f"tags.`{RUN_ID}` = '{run_id}'")
        return found[0] if found else None

    def log_params(self, values: Mapping[str, object]) -> None:
        """Record every leaf as a parameter, by which MLflow can filter runs."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_MAX_CHARACTERS]) for key, value in _flat(values)]
        for i in range(0, len(params), _MAX_PARAMS):
            self.client.log_batch(self.id, params=params[i : i + _MAX_PARAMS])


def _absolute(uri: str) -> str:
    """Make a folder an absolute URI.

    MLflow caches stores by their URI, so a relative one would stay that of the first directory.
    """
    if urlsplit(uri).scheme == "" and uri != "databricks":
        return Path(uri).resolve().as_uri()
    return uri


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested mappings with their dotted paths."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
