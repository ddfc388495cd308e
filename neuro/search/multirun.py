"""Sweeps over a list of jobs (`launch.py -m`): checks, resumed runs, failures, the final table.

Searches by Optuna are in `sweeper`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from neuro.config.commands import argument, override
from neuro.errors import CheckpointError, ConfigError, JobsFailed
from neuro.runs.record import RunRecord, is_run
from neuro.runs.resume import changed_keys


class CompareRuns(Callback):
    """Prints the comparison of all runs of a sweep after the last one has ended.

    It also prints the error of a job when the job fails; Hydra would do so after the last one.
    """

    def __init__(
        self,
        baseline: str | None = None,
        metrics: Sequence[str] | None = None,
        test: Sequence[str] | None = None,
    ) -> None:
        """See docs/compare.md.

        - `baseline`: the configuration to test the others against
        - `metrics`, `test`: columns, and metrics to test, names or patterns with `*`
        """
        self.baseline = baseline
        self.metrics = metrics
        self.test = test

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if os.environ.get("NEURO_TRIAL") or config.hydra.mode is not RunMode.MULTIRUN:
            return  # a search records failed trials, and launch.py reports the error of a run
        if job_return.status is JobStatus.FAILED:
            number, error = config.hydra.job.num, job_return._return_value
            print(f"\nJob #{number} failed: {error}\n", file=sys.stderr, flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("mode") in ("check", "lr_find"):
            return  # neither leaves a run
        from neuro.analysis.compare.cli import show_comparison

        directory = Path(config.hydra.sweep.dir)
        try:
            show_comparison(
                [directory], baseline=self.baseline, metrics=self.metrics, tested=self.test
            )
        except (CheckpointError, ConfigError) as error:  # no run finished
            print(error)
        else:
            print(f"runs: {directory}")


def run_jobs(
    jobs: Sequence[Sequence[str]],
    launcher: Launcher,
    master: DictConfig,
    context: HydraContext,
    at_once: int | None = None,
) -> list[JobReturn]:
    """Run all jobs of a sweep, lists of overrides; runs that its directory has already go on.

    at_once: the number of jobs that the launcher gets together; None: all.

    Raises what `prepared` raises, before the first job. JobsFailed after the last one, if some
    failed. KeyboardInterrupt, if a job was interrupted, says how to go on.
    """
    directory = Path(master.hydra.sweep.dir)
    same = f"The same command with {argument('hydra.sweep.dir', str(directory))}"
    jobs = prepared(jobs, master, context)
    directory.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(master, directory / "multirun.yaml")
    results: list[JobReturn] = []
    try:
        for first in range(0, len(jobs), at_once or len(jobs)):
            part = jobs[first : first + (at_once or len(jobs))]
            results += launcher.launch(part, initial_job_idx=first)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{error}\n{same} completes the sweep.".lstrip()) from error
    failed = {i: r._return_value for i, r in enumerate(results) if r.status is JobStatus.FAILED}
    if failed:
        context.callbacks.on_multirun_end(config=master, config_name=None)  # the others' table
        raise JobsFailed(failed, len(jobs), f"{same} runs what is missing.")
    return results


def prepared(
    jobs: Sequence[Sequence[str]], master: DictConfig, context: HydraContext
) -> list[list[str]]:
    """The jobs (lists of overrides), of which those whose directory has a run already resume it.

    The configs of all jobs are composed and checked, without their data and models. Raises the
    errors of Hydra's composition, and ConfigError for the first job whose config is invalid, or
    whose directory has a run of another config or one that is still running. Jobs that read the
    config of another run are only composed.
    """
    common = set.intersection(*map(set, jobs)) if jobs else set()
    made = []
    try:
        for number, overrides in enumerate(jobs):
            cfg = context.config_loader.load_sweep_config(master, list(overrides))
            with open_dict(cfg):
                cfg.hydra.job.num, cfg.hydra.job.id = number, f"job_id_for_{number}"
            HydraConfig.instance().set_config(cfg)  # interpolations read it
            directory = Path(cfg.hydra.sweep.dir).absolute() / cfg.hydra.sweep.subdir
            with open_dict(cfg):
                cfg.pop("hydra")
            own = ", ".join(text for text in overrides if text not in common)
            job = f" (job {own})." if own else "."
            resume = _resumed(cfg, directory, job)
            made.append([*overrides, *resume])
    finally:
        HydraConfig.instance().set_config(master)
    return made


def _resumed(cfg: DictConfig, directory: Path, job: str) -> list[str]:
    """Check the config of a job; the override with which it resumes the run in its directory."""
    from neuro.experiment.experiment import parse_experiment

    if cfg.run is not None or cfg.resume is not None:
        return []
    try:
        experiment = parse_experiment(cfg, compare_tasks=False)
    except ConfigError as error:
        raise ConfigError(problem.rstrip(".") + job for problem in error.problems) from error
    if experiment.mode != "train" or not is_run(directory):
        return []
    record = RunRecord(directory)
    if record.status == "running":
        raise ConfigError(
            f"hydra.sweep.dir: the run in {directory} is still running. Wait for it, or choose "
            "another directory."
        )
    if changed := changed_keys(record.config, experiment.plain()):
        key, old, new = changed[0]
        raise ConfigError(
            f"hydra.sweep.dir: {directory} has a run of another config ({key}: {old}, now {new})"
            f"{job} Choose another directory, or give the same overrides as before."
        )
    return [override("resume", str(directory))]
