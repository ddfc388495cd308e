"""`neuro compare` over 200 run directories: the table, with tests, and the HTML page.

Beside it what any Python program with scipy takes to start.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.analysis.helpers import two_hundred

ROOT = Path(__file__).resolve().parents[1]


def measure(rounds: int = 3) -> dict[str, float]:
    """Median seconds of each, taken in turns; the first round only fills caches."""
    with tempfile.TemporaryDirectory() as root:
        two_hundred(Path(root))
        compare = [sys.executable, "-m", "neuro", "compare", root]
        tested = [*compare, "--baseline", "optimizer.lr=0"]
        commands = {
            "python, import scipy.stats": [sys.executable, "-c", "import scipy.stats"],
            "compare, 200 runs": compare,
            "compare, 200 runs, tests": tested,
            "compare, 200 runs, HTML": [*tested, "--format", "html"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    print("Comparing runs, seconds")
    for name, seconds in measure().items():
        print(f"{name:30}  {seconds:6.2f} s")


if __name__ == "__main__":
    main()
