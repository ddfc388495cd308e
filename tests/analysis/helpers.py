"""Run directories of finished runs, written without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from neuro.analysis.compare.comparison import Comparison, compare
from neuro.runs.record import find_runs
from tests.runs.test_record import make

#: a small config; `seed` and the keys of a test are set in it
CONFIG: Mapping[str, Any] = {
    "name": "exp",
    "runs_dir": "outputs",
    "tracking": {},
    "model": {"_target_": "neuro.models.ltgate.LTGateNetwork", "kind": "variance", "tau_ms": 5.0},
    "optimizer": {"_target_": "neuro.training.optimizers.AdamW", "lr": 0.01},
    "trainer": {"monitor": "val/accuracy", "direction": "max"},
}


def config_with(changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """`CONFIG` with other values by dotted key; a section such as `model` is removed by None."""
    config = json.loads(json.dumps({**CONFIG, "seed": seed}))
    for key, value in changes.items():
        node = config
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return config


def finish(
    path: Path,
    metrics: Mapping[str, float | None],
    *overrides: str,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    objective: str = "test/accuracy",
    **report: Any,
) -> Path:
    """A completed run; `config` has changes of `CONFIG` by dotted key."""
    given = [*overrides, f"seed={seed}", "tracking=none"]
    make(path, seed=seed, mode="train", overrides=given)
    (path / "config.yaml").write_text(yaml.safe_dump(config_with(config or {}, seed)))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "report.json").write_text(
        json.dumps(
            {
                "objective": metrics.get(objective),
                "objective_metric": objective,
                "metrics": metrics,
                **report,
            }
        )
    )
    return path


def gates(root: Path) -> Path:
    """A sweep over three gates with three seeds each; one run was killed."""
    found = {
        "variance": (0.90, 0.95, 1.00),
        "learned": (0.80, 0.90, 0.85),
        "fixed": (0.5, 0.6, 0.4),
    }
    for gate, accuracies in found.items():
        for seed, accuracy in enumerate(accuracies):
            metrics = {"test/accuracy": accuracy, "continual/forgetting": 1 - accuracy}
            finish(
                root / gate / str(seed),
                metrics,
                f"model.kind={gate}",
                "study=s",
                seed=seed,
                config={"model.kind": gate},
            )
    make(root / "killed", status="running", overrides=["model.kind=fixed"])
    return root


def two_hundred(root: Path) -> None:
    """40 rates with five seeds each; configs of 240 keys, 200 lines of metrics."""
    config = {f"group{i}.key{j}": j + 0.5 for i in range(20) for j in range(12)}
    rows = [{"step": i, "time": 0.0, "train/loss": 1.0, "val/accuracy": 0.5} for i in range(200)]
    for i in range(200):
        metrics = {"test/accuracy": i / 200, "test/loss": 1.0}
        finish(
            root / str(i),
            metrics,
            f"optimizer.lr={i // 5}",
            seed=i % 5,
            rows=rows,
            config={**config, "optimizer.lr": i // 5},
        )


def compared(*directories: Path, **asked: Any) -> Comparison:
    return compare([run for d in directories for run in find_runs(d)], **asked)
