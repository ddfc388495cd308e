"""Benchmarks: `python -m benchmarks` runs all of them, `python -m benchmarks.step` one."""

import neuro as neuro  # before torch, whose threads it tells how long to wait
