"""How long a user waits: `--cfg job`, and the first training step of the default run.

The first step is compared with a bare script that imports torch and makes one optimizer step.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BARE = """
import torch
from torch import nn
model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(4, 8)).square().mean().backward()
optimizer.step()
"""


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def _first_step(directory: Path) -> float:
    """Seconds from starting the default run to the end of its first update."""
    options = ["trainer.log.steps=1"]
    options += [f"phase.{p}.{o}" for p in ("task1", "task2") for o in ("steps=1", "epochs=null")]
    started = time.time()
    subprocess.run(
        [sys.executable, "launch.py", f"hydra.run.dir={directory}", *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return next(row["time"] for row in rows if "train/loss" in row) - started


def measure(rounds: int = 3) -> dict[str, float]:
    """Median seconds of each; the first round only fills caches."""
    composed, bare, first = [], [], []
    with tempfile.TemporaryDirectory() as root:
        for i in range(rounds + 1):
            composed.append(_seconds([sys.executable, "launch.py", "--cfg", "job"]))
            bare.append(_seconds([sys.executable, "-c", BARE]))
            first.append(_first_step(Path(root) / str(i)))
    return {
        "launch.py --cfg job": statistics.median(composed[1:]),
        "bare torch script, one step": statistics.median(bare[1:]),
        "default run, first step": statistics.median(first[1:]),
    }


def main() -> None:
    print("Start-up, seconds")
    results = measure()
    for name, seconds in results.items():
        print(f"{name:30}  {seconds:6.2f} s")
    extra = results["default run, first step"] - results["bare torch script, one step"]
    print(f"{'the difference of the last two':30}  {extra:6.2f} s")


if __name__ == "__main__":
    main()
