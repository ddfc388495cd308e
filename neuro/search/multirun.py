"""What a multirun (`launch.py -m`) does before its first job and after its last one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from neuro.errors import CheckpointError, ConfigError


class CompareRuns(Callback):
    """Prints the comparison of all runs of a sweep after the last one has ended."""

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


def check_jobs(jobs: Sequence[Sequence[str]], master: DictConfig, context: HydraContext) -> None:
    """Compose and check the configs of all jobs, without their data and models.

    `jobs` are lists of overrides. Raises the errors of Hydra's composition, and ConfigError for the
    first job whose config is invalid. Jobs that read the config of another run are only composed.
    """
    from neuro.experiment.experiment import parse_experiment

    common = set.intersection(*map(set, jobs)) if jobs else set()
    try:
        for overrides in jobs:
            cfg = context.config_loader.load_sweep_config(master, list(overrides))
            HydraConfig.instance().set_config(cfg)  # interpolations read it
            with open_dict(cfg):
                cfg.pop("hydra")
            if cfg.run is not None or cfg.resume is not None:
                continue
            try:
                parse_experiment(cfg, compare_tasks=False)
            except ConfigError as error:
                own = ", ".join(text for text in overrides if text not in common)
                job = f" (job {own})." if own else "."
                raise ConfigError(
                    problem.rstrip(".") + job for problem in error.problems
                ) from error
    finally:
        HydraConfig.instance().set_config(master)
