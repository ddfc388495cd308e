"""Timing of one implementation against another, fairly on a busy machine.

The two run in turns, so that a slow moment of the machine falls on both; the median is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from neuro.runtime.memory import keep_freed_memory

keep_freed_memory()  # as in training


class Comparison(NamedTuple):
    name: str
    baseline_s: float
    candidate_s: float

    @property
    def ratio(self) -> float:
        """How many times faster the candidate is."""
        return self.baseline_s / self.candidate_s


def compare(
    name: str, baseline: Callable[[], object], candidate: Callable[[], object], *, rounds: int = 11
) -> Comparison:
    """Median times in seconds of both, taken in `rounds` alternating runs after one to warm up."""
    samples: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for function, times in zip((baseline, candidate), samples, strict=True):
            start = time.perf_counter()
            function()
            if round_ > 0:
                times.append(time.perf_counter() - start)
    return Comparison(name, *(statistics.median(times) for times in samples))


def print_table(
    title: str, comparisons: Sequence[Comparison], *, baseline: str, candidate: str
) -> None:
    """One line per comparison: median times in milliseconds and the ratio."""
    width = max(len(c.name) for c in comparisons)
    print(f"{title}\n{'':{width}}  {baseline:>12}  {candidate:>12}  {'faster':>8}")
    for c in comparisons:
        times = f"{c.baseline_s * 1e3:9.2f} ms  {c.candidate_s * 1e3:9.2f} ms"
        print(f"{c.name:{width}}  {times}  {c.ratio:7.1f}x")
