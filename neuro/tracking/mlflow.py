"""MLflow: a local store by default, any tracking server by its URI.

MLflow takes seconds to import, and a server may be far away: all calls happen in order in a
background thread, from the first thing to record on. If MLflow fails on the way, the run goes on
and the log says so. A resumed run continues its MLflow run. MLflow never forgets a point, so what
the interrupted run had logged after its last checkpoint stays, and is not logged a second time.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from annotated_types import Gt, MinLen

from neuro.errors import BackendUnavailable, nearest
from neuro.tracking.base import RunInfo, Tracker
from neuro.tracking.jsonl import kept_rows
from neuro.tracking.worker import Worker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

#: a folder, a server, or a database
SCHEMES = ("file", "http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")

#: the MLflow tag by which a resumed run finds itself again
RUN_ID = "neuro.run_id"

_STATUS = {"completed": "FINISHED", "interrupted": "KILLED"}

#: MLflow's own limits: parameters and numbers of one request, characters of a parameter's value
_PARAMS, _POINTS, _VALUE = 100, 1000, 500

log = logging.getLogger(__name__)


class MlflowTracker(Tracker):
    """Follows a run in MLflow with its metrics, config, tags, plots and results.

    The run's project is the MLflow experiment, unless `experiment` names another; name, group and
    tags are those of the run (root keys of the config).

    - `uri`: a folder (or `file:...`), a server (`http://host:5000`) or a database
      (`sqlite:///mlflow.db`)
    - `experiment`: MLflow's name for what belongs together; null is the run's project
    - `finish_timeout_s`: how long the end of a run waits for MLflow to have taken everything
    """

    def __init__(
        self,
        uri: Annotated[str, MinLen(1)] = "mlruns",
        experiment: Annotated[str, MinLen(1)] | None = None,
        finish_timeout_s: Annotated[float, Gt(0)] = 60.0,
    ) -> None:
        scheme = urlsplit(uri).scheme.partition("+")[0]
        if "://" in uri and scheme not in SCHEMES:
            raise ValueError(
                f"uri: MLflow knows no '{scheme}://'. Allowed: a folder, or {', '.join(SCHEMES)}."
                + nearest(scheme, SCHEMES)
            )
        self.uri = uri
        self.experiment = experiment
        self.finish_timeout_s = finish_timeout_s
        self._worker: Worker | None = None
        self._step = 0
        self._logged: set[str] = set()

    def start(self, run: RunInfo, config: Mapping[str, Any]) -> None:
        """Check that MLflow is there; it is started at the first thing to record."""
        found = importlib.util.find_spec("mlflow")
        if found is None or found.origin is None:  # a folder ./mlflow is found without an origin
            raise BackendUnavailable(
                "tracking.mlflow needs the package 'mlflow'. Install it with `pip install mlflow` "
                "(or 'neuro[mlflow]', which is smaller), or choose another tracking option."
            )
        self._step, self._logged = 0, set()
        self._worker = Worker("MLflow", lambda: _Session(self, run, config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        row = {name: float(value) for name, value in metrics.items()}
        self._step = step
        self._logged.update(row)
        now = time.time()
        self._send(lambda session: session.log(row, step, now))

    def log_artifact(self, path: Path, name: str) -> None:
        """Keep a file under the folder that its name begins with."""
        folder = name.rpartition("/")[0] or None
        self._send(lambda session: session.client.log_artifact(session.id, str(path), folder))

    def add_config(self, values: Mapping[str, Any]) -> None:
        copied = dict(values)
        self._send(lambda session: session.log_params(copied))

    def summary(self, values: Mapping[str, Any]) -> None:
        """The final numbers that were not logged on the way become metrics of the last step."""
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
        ended = _STATUS.get(status, "FAILED")
        worker.send(lambda session: session.client.set_terminated(session.id, ended))
        if not worker.close(self.finish_timeout_s):
            log.error(
                "MLflow (%s) did not take everything within %g s; metrics.jsonl has all numbers.",
                self.uri, self.finish_timeout_s,
            )  # fmt: skip

    def _send(self, task: Any) -> None:
        if self._worker is not None:
            self._worker.send(task)


class _Session:
    """An open MLflow run; lives in the background thread."""

    def __init__(self, tracker: MlflowTracker, run: RunInfo, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if _located(tracker.uri).startswith("file:"):  # else newer MLflow refuses folders
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self.client: MlflowClient = MlflowClient(tracking_uri=_located(tracker.uri))
        experiment = self._experiment(tracker.experiment or run.project)
        found = self._find(experiment, run.run_id) if run.resumed else None
        #: last step of each metric that MLflow has already
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
                self._log_config(config)
            except Exception as error:  # artifacts may lie elsewhere than numbers
                log.error("MLflow could not record the config: %s", error)
        late: list[Metric] = []  # what had not arrived when the interrupted run ended
        for row in kept_rows(run):
            step, seconds = row.pop("step"), row.pop("time", 0.0)
            values = {k: float("nan") if v is None else v for k, v in row.items()}
            late += self._new(values, step, seconds)
        self._send(late)

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Record numbers, without those that an interrupted run has recorded."""
        self._send(self._new(metrics, step, seconds))

    def _new(self, metrics: Mapping[str, float], step: int, seconds: float) -> list[Metric]:
        from mlflow.entities import Metric

        return [
            Metric(name, value, int(1000 * seconds), step)
            for name, value in metrics.items()
            if step > self._recorded.get(name, -1)
        ]

    def _send(self, points: Sequence[Metric]) -> None:
        for i in range(0, len(points), _POINTS):
            self.client.log_batch(self.id, metrics=points[i : i + _POINTS])

    def _experiment(self, name: str) -> str:
        from mlflow import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name))
        except MlflowException:  # another run made it meanwhile
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _find(self, experiment: str, run_id: str) -> Any:
        """The MLflow run of the run that is resumed, if it was ever started."""
        found = self.client.search_runs([experiment], f"tags.`{RUN_ID}` = '{run_id}'")
        return found[0] if found else None

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Every leaf as a parameter, to filter runs by."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_VALUE]) for key, value in _flat(values)]
        for i in range(0, len(params), _PARAMS):
            self.client.log_batch(self.id, params=params[i : i + _PARAMS])

    def _log_config(self, config: Mapping[str, Any]) -> None:
        """The config as parameters, and the whole as a file."""
        self.log_params(config)
        self.client.log_dict(self.id, dict(config), "config.yaml")


def _located(uri: str) -> str:
    """The URI, absolute if it is a folder: MLflow keeps stores by URI, whatever the directory."""
    if urlsplit(uri).scheme == "" and uri != "databricks":
        return Path(uri).resolve().as_uri()
    return uri


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted paths."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
