"""Benchmarks: `python -m benchmarks` runs all of them, `python -m benchmarks step` one."""

import neuro as neuro  # before torch: sets how long torch's threads spin
